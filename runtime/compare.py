"""Compare: engines side by side at one batch size and one number of threads."""

from __future__ import annotations

import datetime
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from importlib import metadata
from typing import Any

from mnq.ops.errors import InputError, MnqError
from mnq.runtime import bench, footprint, gpu, machine
from mnq.runtime.bench import Figures, Spread
from mnq.runtime.engines import SEED, Engine, Opened, open_engine
from mnq.runtime.footprint import Footprint

PACKAGES = (
    *("mnq", "onnxruntime", "onnxruntime-gpu", "openvino", "nncf"),
    *("torch", "timm", "onnx", "numpy"),
)


@dataclass(frozen=True)
class Row:
    """What was measured of an engine. precision: of its operators that are not integer, or None."""

    engine: Engine
    precision: str | None
    figures: Figures
    footprint: Footprint

    def to_json(self, batch: int, empty: Footprint) -> dict[str, Any]:
        """The row as a JSON object; memory also above that of an `empty` process."""
        f = self.figures
        return {
            "name": self.engine.name,
            "precision": self.precision,
            "milliseconds": _rounded(f.milliseconds),
            "images_per_second": round(batch * 1e3 / f.milliseconds.median, 2),
            "times": None if f.times is None else _rounded(f.times),
            "samples": f.samples,
            "clean": f.clean,
            "kept": f.kept,
            "file_bytes": self.engine.file_bytes,
            "peak_bytes": self.footprint.peak_bytes,
            "peak_bytes_above_empty": self.footprint.peak_bytes - empty.peak_bytes,
            "start_seconds": round(self.footprint.start_seconds, 4),
        }


@dataclass(frozen=True)
class Comparison:
    """A row per engine, ratios to the first. doubts: sentences about a machine that was noisy;
    others: cores that other programs kept busy, None if unknown. provider: cpu, or cuda on a GPU.
    """

    batch: int
    threads: int
    rounds: int
    rows: list[Row]
    others: float | None
    doubts: list[str]
    empty: Footprint
    provider: str = "cpu"

    def to_json(self) -> dict[str, Any]:
        """The comparison as a JSON object."""
        return {
            "provider": self.provider,
            "batch": self.batch,
            "threads": self.threads,
            "rounds": self.rounds,
            "others_cores": None if self.others is None else round(self.others, 3),
            "doubts": self.doubts,
            "empty_peak_bytes": self.empty.peak_bytes,
            "engines": [row.to_json(self.batch, self.empty) for row in self.rows],
        }


def compare(
    engines: Sequence[Engine],
    batch: int,
    threads: int,
    *,
    rounds: int,
    seconds: float,
    done: Callable[[int], None] = lambda count: None,
) -> Comparison:
    """Measure all engines in turn, then each one's footprint.

    rounds, seconds: as for bench.take_turns. `done` is called with 1 for each of at most
    steps(engines, rounds) steps. Raises EnvironmentLack or InputError if an engine does not open.
    """
    opened = {
        engine.name: _ran(engine, batch, lambda e: open_engine(e, batch, threads), 1)
        for engine in engines
    }
    taken, precisions = _turns(opened, rounds, seconds, done, bench.milliseconds)
    del opened  # their memory and their threads
    empty = footprint.empty(done)
    footprints = {e.name: footprint.measure(e, batch, threads, done) for e in engines}
    found = _comparison(engines, batch, threads, taken, precisions, footprints, empty)
    if threads > machine.cores():
        found.doubts.append(f"{threads} threads shared {machine.cores()} cores; ask for fewer")
    return found


def compare_on_gpu(
    engines: Sequence[Engine],
    batch: int,
    *,
    rounds: int,
    seconds: float,
    done: Callable[[int], None] = lambda count: None,
) -> Comparison:
    """`compare` for engines of gpu.RUNTIMES: time is the GPU's, and so is the memory, which counts
    from before an engine is opened to after its first runs; so does the time that its start takes.

    `done` is called with 1 for each of at most `rounds` steps.
    """
    opened, footprints = {}, {}
    for engine in engines:
        before, begin = gpu.used_bytes(), time.perf_counter()
        opened[engine.name] = _ran(engine, batch, lambda e: gpu.open_engine(e, batch), gpu.WARM_UPS)
        taken_bytes = gpu.used_bytes() - before
        footprints[engine.name] = Footprint(taken_bytes, time.perf_counter() - begin)
    taken, precisions = _turns(opened, rounds, seconds, done, gpu.milliseconds)
    found = _comparison(engines, batch, 1, taken, precisions, footprints, Footprint(0, 0.0))
    return replace(found, provider="cuda")


def _turns(
    opened: Mapping[str, Opened],
    rounds: int,
    seconds: float,
    done: Callable[[int], None],
    clock: bench.Clock,
) -> tuple[bench.Taken, dict[str, str | None]]:
    """Samples of open engines, and their precisions."""
    calls = {name: engine.run for name, engine in opened.items()}
    precisions = {name: engine.precision for name, engine in opened.items()}
    return bench.take_turns(calls, rounds, seconds, done, clock), precisions


def _comparison(
    engines: Sequence[Engine],
    batch: int,
    threads: int,
    taken: bench.Taken,
    precisions: Mapping[str, str | None],
    footprints: Mapping[str, Footprint],
    empty: Footprint,
) -> Comparison:
    found = bench.figures(taken, engines[0].name)
    rows = [
        Row(engine, precisions[engine.name], found[engine.name], footprints[engine.name])
        for engine in engines
    ]
    made = len(taken.rounds[engines[0].name])
    doubts = bench.doubts(found, taken.others)
    return Comparison(batch, threads, made, rows, taken.others, doubts, empty)


def _ran(engine: Engine, batch: int, start: Callable[[Engine], Opened], runs: int) -> Opened:
    """An engine that has started and run. A runtime's own errors are told as ours."""
    try:
        opened = start(engine)
        for _ in range(runs):
            opened.run()
    except MnqError:
        raise
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
        raise InputError(
            f"bench: expected {engine.name} to run {batch} images, found: {reason}; make "
            f"{engine.path} again"
        ) from error
    return opened


def steps(engines: Sequence[Engine], rounds: int) -> int:
    """The most steps that `compare` reports."""
    return rounds + footprint.REPEATS * (len(engines) + 1)


def surroundings(on_gpu: bool = False) -> dict[str, Any]:
    """Versions, machine, date and seed: what belongs to every measurement."""
    versions = {}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return {
        "versions": versions,
        "machine": {
            "processor": machine.processor(),
            "cores": machine.cores(),
            "features": machine.features(),
            **(gpu.describe() if on_gpu else {}),
        },
        "date": datetime.date.today().isoformat(),
        "image_seed": SEED,
    }


def _rounded(spread: Spread) -> dict[str, float]:
    return {name: round(value, 4) for name, value in asdict(spread).items()}
