"""Assigns methods to DeiT-T's sites by every rule and objective, and judges each map.

    python results/assignment.py --data DIR --work DIR [--only PART]

DIR of --data holds deit_tiny_patch16_224.safetensors, imagenet_calib_1000.zip (calibrating and
choosing) and imagenet_eval_500.zip (judging). --work keeps the measurements, so that an
interrupted run goes on. Writes results/deit_t_assignment.json after every row.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib import metadata
from itertools import combinations
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from numpy.typing import NDArray

from mnq.cli.assignment import measure
from mnq.cli.calibration import calibrate
from mnq.cli.common import Screen
from mnq.cli.judge import float_predict
from mnq.cli.workbench import Workbench, take_sample, workbench
from mnq.models.images import ImageSet, batches, label_index
from mnq.models.zoo import LoadedModel, load
from mnq.ops.files import write_atomically
from mnq.runtime.accuracy import accuracy
from mnq.runtime.machine import processor
from mnq.toolchain import cost
from mnq.toolchain.assign import METHOD_SETS, RULES, figures, methods_by_rule
from mnq.toolchain.export import Settings, graph_of
from mnq.toolchain.variants import Methods

OUTPUT = Path(__file__).parent / "deit_t_assignment.json"
MODEL = "deit_t"
CALIBRATION_IMAGES = 128
SAMPLE = 32
SEEDS = (0, 1, 2, 3)
WIDTHS = (8, 6)
SWEEP = (8, 6, 4)
BATCH = 1  # the reference is fastest while a tensor fits the cache
RESAMPLES = 2000


@dataclass
class Study:
    """Everything loaded once, and the result file."""

    screen: Screen
    loaded: LoadedModel
    widths: tuple[int, ...]
    output: Path
    data: Path
    work: Path
    result: dict[str, Any]
    floats: NDArray[np.float64]
    truth: NDArray[np.int64]
    pixels: list[NDArray[np.uint8]]
    _benches: dict[tuple[int, bool], Workbench] = field(default_factory=dict)

    def save(self) -> None:
        """Write the result file."""
        write_atomically(self.output, (json.dumps(self.result, indent=1) + "\n").encode())

    def bench(self, seed: int, equalized: bool = True) -> Workbench:
        """The workbench of a sample seed."""
        key = seed, equalized
        if key not in self._benches:
            graph = graph_of(self.loaded)
            with ImageSet.open(self.data / "imagenet_calib_1000.zip") as source:
                statistics = calibrate(
                    self.screen, source, self.loaded, graph, CALIBRATION_IMAGES, 16, equalized
                )
                drawn = take_sample(self.screen, source, self.loaded, SAMPLE, seed)
            path = self.work / f"seed{seed}{'' if equalized else '_plain'}.json"
            self._benches[key] = workbench(
                self.screen, self.loaded, graph, statistics, Settings(), drawn, path
            )
        return self._benches[key]

    def judge(self, name: str, bench: Workbench, bits: int, methods: Methods) -> None:
        """One row: accuracy of a map on the judging images, unless it is there already."""
        rows = self.result.setdefault("rows", {})
        if name in rows:
            return
        twin = next((r for r in rows.values() if r["sites"] == methods and r["bits"] == bits), None)
        if twin is not None and twin["equalized"] == bool(bench.statistics.equalization):
            rows[name] = twin
        else:
            rows[name] = self._judged(name, bench, bits, methods)
        self.save()

    def _judged(self, name: str, bench: Workbench, bits: int, methods: Methods) -> dict[str, Any]:
        program = bench.variants(bits).program(methods)
        logits = []
        with self.screen.progress(name, len(self.truth)) as advance, torch.no_grad():
            for pixels in self.pixels:
                values = program.start(torch.from_numpy(pixels))
                for _ in program.walk(values, len(pixels)):
                    pass
                logits.append(values[program.output].double().numpy() * program.output_scale)
                advance(len(pixels))
        found = np.concatenate(logits)
        kinds = bench.measurements.sites
        counts = {
            kind: dict(Counter(m for site, m in methods.items() if kinds[site] == kind))
            for kind in dict.fromkeys(kinds.values())
        }
        row = accuracy(name, found, self.truth, self.floats).to_json()
        self.screen.note(f"{name}: {row['top1']:.1f} {row['agreement']:.1f} {row['logit_sqnr_db']}")
        return {
            **row,
            "bits": bits,
            "equalized": bool(bench.statistics.equalization),
            "counts": counts,
            "sites": methods,
            "interval95": self._intervals(found),
        }

    def _intervals(self, found: NDArray[np.float64]) -> dict[str, list[float]]:
        """95 % bootstrap intervals over the images (RESAMPLES draws, seed 0)."""
        rng = np.random.default_rng(0)
        draws = rng.integers(0, len(found), (RESAMPLES, len(found)))
        right = (found.argmax(1) == self.truth)[draws].mean(1) * 100
        agrees = (found.argmax(1) == self.floats.argmax(1))[draws].mean(1) * 100
        signal = (self.floats**2).sum(1)[draws].sum(1)
        noise = ((self.floats - found) ** 2).sum(1)[draws].sum(1)
        named = {"top1": right, "agreement": agrees, "logit_sqnr_db": 10 * np.log10(signal / noise)}
        return {k: [float(q) for q in np.quantile(v, [0.025, 0.975])] for k, v in named.items()}


def chosen(bench: Workbench, bits: int, how: str, methods: str, rule: str) -> Methods:
    """The map of a rule, measuring what is missing."""
    measure(bench, bits, how, METHOD_SETS[methods])
    found = figures(bench.measurements, bits, how, METHOD_SETS[methods])
    return methods_by_rule(found, rule, list(bench.measurements.sites))


def rule_maps(bench: Workbench, bits: int) -> Iterator[tuple[str, Methods]]:
    """Row name and map of every uniform map and every rule."""
    for name in METHOD_SETS["all"]:
        yield f"uniform:{name}", bench.variants(bits).uniform(name)
    for rule in RULES:
        yield f"paper, joint, {rule}", chosen(bench, bits, "joint", "paper", rule)
    # In isolation gamma is the same for all methods: these three differ where beta > gamma only.
    for rule in ("sqnr-absdiff", "sqnr-drop", "sqnr-output"):
        yield f"paper, isolated, {rule}", chosen(bench, bits, "isolated", "paper", rule)
    yield "all, isolated, sqnr-drop", chosen(bench, bits, "isolated", "all", "sqnr-drop")


def searched(bench: Workbench, bits: int, methods: str) -> Methods:
    """The map of the logits objective, as mnq-assign searches it."""
    allowed = METHOD_SETS[methods]
    output = chosen(bench, bits, "isolated", methods, "sqnr-output")
    starts = {name: bench.variants(bits).uniform(name) for name in allowed}
    sites = list(bench.measurements.sites)
    begin = time.perf_counter()
    _, found = bench.search(bits, allowed, sites, {**starts, "sqnr-output": output})
    bench.screen.note(f"searched {bits} {methods} in {time.perf_counter() - begin:.0f} s")
    return found


def rules(study: Study) -> None:
    """Judge every rule's map, and the paper's way without equalization."""
    for bits in study.widths:
        for name, methods in rule_maps(study.bench(0), bits):
            study.judge(f"{bits} bits, {name}", study.bench(0), bits, methods)
    if 8 not in study.widths:
        return
    plain = study.bench(0, equalized=False)
    for name, methods in rule_maps(plain, 8):
        if name in ("uniform:ibert", "paper, joint, sqnr-absdiff", "paper, isolated, sqnr-drop"):
            study.judge(f"8 bits, not equalized, {name}", plain, 8, methods)


def logits(study: Study) -> None:
    """Judge the logits objective."""
    for bits in study.widths:
        for methods in ("paper", "all"):
            found = searched(study.bench(0), bits, methods)
            study.judge(f"{bits} bits, {methods}, logits", study.bench(0), bits, found)


def seeds(study: Study) -> None:
    """How much a map depends on the images: share of equal choices between pairs of samples."""
    table: dict[str, Any] = {}
    for bits in WIDTHS:
        for how in ("joint", "isolated"):
            for rule in RULES:
                maps = [chosen(study.bench(s), bits, how, "paper", rule) for s in SEEDS]
                table[f"{bits} bits, paper, {how}, {rule}"] = _stability(study, maps)
    plain = [chosen(study.bench(s, False), 8, "joint", "paper", "sqnr-absdiff") for s in SEEDS]
    table["8 bits, not equalized, paper, joint, sqnr-absdiff"] = _stability(study, plain)
    study.result["stability"] = table
    study.save()
    maps = [searched(study.bench(s), 8, "paper") for s in SEEDS[:2]]  # minutes each
    table["8 bits, paper, logits"] = _stability(study, maps)
    study.save()


def _stability(study: Study, maps: list[Methods]) -> dict[str, Any]:
    kinds = study.bench(0).measurements.sites
    equal: dict[str, list[float]] = {}
    for one, other in combinations(maps, 2):
        for kind in dict.fromkeys(kinds.values()):
            same = [one[s] == other[s] for s, k in kinds.items() if k == kind]
            equal.setdefault(kind, []).append(100.0 * float(np.mean(same)))
    counts = [
        {k: dict(Counter(m for s, m in methods.items() if kinds[s] == k)) for k in equal}
        for methods in maps
    ]
    return {"equal": {k: float(np.mean(v)) for k, v in equal.items()}, "counts": counts}


def sweep(study: Study) -> None:
    """Mean output SQNR by kind, method and width, and choices that stay the same."""
    bench = study.bench(0)
    sites = bench.measurements.sites
    table: dict[str, Any] = {}
    maps: dict[str, dict[int, Methods]] = {"paper": {}, "all": {}}
    for bits in SWEEP:
        for methods, chosen_maps in maps.items():
            chosen_maps[bits] = chosen(bench, bits, "isolated", methods, "sqnr-drop")
        found = figures(bench.measurements, bits, "isolated", METHOD_SETS["all"])
        for site, entries in found.items():
            for method, entry in entries.items():
                row = table.setdefault(f"{sites[site]}, {method}", {})
                row.setdefault(str(bits), []).append(entry["output_sqnr_db"])
    means = {key: {b: float(np.mean(v)) for b, v in row.items()} for key, row in table.items()}
    same = {
        methods: {
            str(bits): 100.0 * float(np.mean([by_width[8][s] == by_width[bits][s] for s in sites]))
            for bits in SWEEP
        }
        for methods, by_width in maps.items()
    }
    study.result["sweep"] = {"output_sqnr_db": means, "same_choice_as_8_bits": same}
    study.save()


def prices(study: Study) -> None:
    """Operator costs, the Pareto front of the paper's methods, and how long measuring takes."""
    bench = study.bench(0)
    methods = searched(bench, 8, "paper")
    costs = cost.measure(bench.variants(8), MODEL, bench.sample.batches[0], 1)
    sites = list(bench.measurements.sites)
    search = bench.measurements.search(8, METHOD_SETS["paper"], sites)
    assert search is not None
    maps = cost.cheaper_maps(search, costs, methods)
    front = cost.front(bench.variants(8), bench.bench(), costs, search.methods, maps)
    first = {
        kind: next(s for s, k in bench.measurements.sites.items() if k == kind)
        for kind in dict.fromkeys(bench.measurements.sites.values())
    }
    study.result["cost"] = {
        "machine": costs.machine,
        "threads": costs.threads,
        "milliseconds": {kind: costs.sites[site] for kind, site in first.items()},
        "front": [[p.milliseconds, p.sqnr_db] for p in front.points],
    }
    study.save()


def seconds(study: Study) -> None:
    """How long measuring all methods takes, from nothing."""
    bench = study.bench(0)
    taken = {}
    for how in ("isolated", "joint"):
        bench.measurements.runs.clear()
        bench.path = None
        begin = time.perf_counter()
        measure(bench, 8, how, METHOD_SETS["all"])
        taken[how] = time.perf_counter() - begin
    study.result["seconds"] = {
        "images": SAMPLE,
        "threads": torch.get_num_threads(),
        "processor": processor(),
        **taken,
    }
    study.save()


PARTS = {
    "rules": rules,
    "widths": sweep,
    "logits": logits,
    "prices": prices,
    "seeds": seeds,
    "seconds": seconds,
}


@click.command()
@click.option("--data", required=True, type=Path, help="Folder with the weights and images.")
@click.option("--work", required=True, type=Path, help="Folder for measurements.")
@click.option("--bits", "chosen_bits", multiple=True, type=click.INT, help="[8 and 6]")
@click.option("--output", type=Path, default=OUTPUT, help="Result file.  [the one beside this]")
@click.option("--only", "parts", multiple=True, type=click.Choice(list(PARTS)), help="[all]")
def main(
    data: Path, work: Path, chosen_bits: tuple[int, ...], output: Path, parts: tuple[str, ...]
) -> None:
    """Measure and write results/deit_t_assignment.json."""
    screen = Screen(as_json=False, quiet=False)
    loaded = load(MODEL, data / "deit_tiny_patch16_224.safetensors")
    with ImageSet.open(data / "imagenet_eval_500.zip") as source:
        labels = label_index(source.classes, loaded.classes)
        images = list(batches(source, loaded.preprocess, BATCH, labels=labels))
    predict = float_predict(loaded)
    floats = np.concatenate([predict(batch[0]) for batch in images])
    truth = np.concatenate([batch[1] for batch in images])
    result: dict[str, Any] = json.loads(output.read_text()) if output.exists() else {}
    versions = {name: metadata.version(name) for name in ("mnq", "torch", "timm")}
    result |= {
        "model": MODEL,
        "images": "imagenet_eval_500",
        "calibration": {"source": "imagenet_calib_1000.zip", "images": CALIBRATION_IMAGES},
        "sample": {"source": "imagenet_calib_1000.zip", "images": SAMPLE, "seeds": SEEDS},
        "machine": {"processor": processor()},
        "versions": versions,
        "float": accuracy("float", floats, truth).to_json(),
    }
    widths = chosen_bits or WIDTHS
    pixels = [batch[0] for batch in images]
    study = Study(screen, loaded, widths, output, data, work, result, floats, truth, pixels)
    for part in parts or PARTS:
        PARTS[part](study)
    study.save()


if __name__ == "__main__":
    main()
