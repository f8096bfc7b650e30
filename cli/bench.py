"""mnq-bench: speed, size and memory of an exported model, beside other runtimes' forms of it."""

from __future__ import annotations

import json
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.table import Table

from mnq.cli.common import COUNT, Command, Screen, need_train, output_options
from mnq.ops.errors import EnvironmentLack, InputError
from mnq.ops.files import check_writable, write_atomically

if TYPE_CHECKING:
    from mnq.runtime.compare import Comparison
    from mnq.runtime.engines import Engine
    from mnq.runtime.modelfile import ModelFile
    from mnq.runtime.profile import Share

FORMAT = "mnq-bench/1"
ALL, NONE = "all", "none"
KINDS = ("fp32", "qdq", "dynamic", "openvino")
EXAMPLES = """
\b
Examples:
  mnq-bench m.onnx
  mnq-bench m.onnx --batch 1,8 --threads 1,2 --peers-dir peers --output bench.json
  mnq-bench m.onnx --peers none --profile
"""


def _numbers(context: click.Context, option: click.Parameter, text: str) -> tuple[int, ...]:
    """The numbers of --batch and --threads, each once."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() and 1 <= int(part) <= 1024 for part in parts):
        raise click.BadParameter(f"expected numbers from 1 to 1024 like 1,8, found {text!r}")
    return tuple(dict.fromkeys(map(int, parts)))


def _kinds(context: click.Context, option: click.Parameter, text: str) -> tuple[str, ...] | None:
    """The kinds of --peers; None: all that this machine can run."""
    if text in (ALL, NONE):
        return None if text == ALL else ()
    parts = [part.strip() for part in text.split(",")]
    if not all(part in KINDS for part in parts):
        raise click.BadParameter(
            f"expected {ALL}, {NONE} or some of {','.join(KINDS)}, found {text!r}"
        )
    return tuple(dict.fromkeys(parts))


@click.command(
    cls=Command, epilog=EXAMPLES, context_settings={"help_option_names": ["-h", "--help"]}
)
@click.argument("path", metavar="MODEL.ONNX", type=Path)
@click.option(
    "--batch", "batches", default="1", callback=_numbers, help="Batch sizes, like 1,8.  [1]"
)
@click.option("--threads", default="1", callback=_numbers, help="Threads, like 1,2.  [1]")
@click.option(
    "--peers",
    "kinds",
    default=ALL,
    callback=_kinds,
    help=f"{','.join(KINDS)}, {ALL} (that are installed) or {NONE}.  [{ALL}]",
)
@click.option("--peers-dir", type=Path, help="Keep the peers' models in this folder.")
@click.option("--weights", type=Path, help="Float weights for the peers; default: random.")
@click.option("--bodies", is_flag=True, help="Also the model without kernels, which is slow.")
@click.option("--rounds", type=COUNT, default=40, show_default=True, help="At most so many.")
@click.option(
    "--seconds",
    type=click.FloatRange(0, min_open=True),
    default=60,
    show_default=True,
    help="Of timing for each batch size and number of threads.",
)
@click.option("--profile", "with_profile", is_flag=True, help="Also the share of each operator.")
@click.option("--output", type=Path, help="Write the result to this JSON file.")
@output_options
def main(
    path: Path,
    batches: tuple[int, ...],
    threads: tuple[int, ...],
    kinds: tuple[str, ...] | None,
    peers_dir: Path | None,
    weights: Path | None,
    bodies: bool,
    rounds: int,
    seconds: float,
    with_profile: bool,
    output: Path | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Latency, throughput, size and memory of an exported .onnx beside its peers.

    Peers are the same architecture in float and in int8, quantized by onnxruntime and by NNCF
    for OpenVINO. All run in turn, in one process, on random images.
    """
    from mnq.runtime.compare import compare, steps, surroundings
    from mnq.runtime.engines import Engine
    from mnq.runtime.modelfile import read
    from mnq.runtime.profile import profile

    screen = Screen(as_json, quiet)
    model = read(path)
    if output is not None:
        check_writable(output)
    with ExitStack() as stack:  # to the end: results name the sizes of files in the folder
        folder = peers_dir or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mnq-")))
        peers, origin = _peers(screen, model, kinds, folder, weights)
        engines = [Engine("mnq", "mnq", path), *peers]
        if bodies:
            engines.append(Engine("mnq bodies", "bodies", path))
        runs = []
        for count in threads:
            for batch in batches:
                title = f"batch {batch}, threads {count}"
                with screen.progress(title, steps(engines, rounds)) as advance:
                    found = compare(
                        engines, batch, count, rounds=rounds, seconds=seconds, done=advance
                    )
                runs.append(found)
        shares = profile(path, batches[0], threads[0]) if with_profile else []
        payload: dict[str, Any] = {
            "format": FORMAT,
            "model": {"name": model.name, "file": path.name},
            "peers": origin,
            **surroundings(),
            "runs": [run.to_json() for run in runs],
        }
        if with_profile:
            payload["profile"] = {
                "batch": batches[0],
                "threads": threads[0],
                "operators": [vars(share) for share in shares],
            }
        if output is not None:
            write_atomically(output, (json.dumps(payload, indent=1) + "\n").encode())
        tables: list[Any] = []
        for run in runs:
            for doubt in run.doubts:
                screen.warn(f"batch {run.batch}, threads {run.threads}: {doubt}")
            tables += ["", _title(model, run, origin), _table(run)]
        if shares:
            tables += ["", f"operators, batch {batches[0]}, threads {threads[0]}", _shares(shares)]
        screen.result(payload, *tables[1:])


def _peers(
    screen: Screen,
    model: ModelFile,
    kinds: tuple[str, ...] | None,
    folder: Path,
    weights: Path | None,
) -> tuple[list[Engine], dict[str, Any]]:
    """The peers' engines, and where they come from."""
    if kinds == ():
        return [], {"weights": None, "left_out": {}}
    need_train()
    from mnq.models.zoo import BUNDLED, load
    from mnq.toolchain import peers

    left_out = {}
    if kinds is None:
        left_out = {kind: reason for kind in KINDS if (reason := peers.missing(kind))}
        for reason in left_out.values():
            screen.warn(f"left out {reason}")
        kinds = tuple(kind for kind in KINDS if kind not in left_out)
    for kind in kinds:
        if reason := peers.missing(kind):
            raise EnvironmentLack(reason)
    real = weights is not None or model.name in BUNDLED  # whose weights are here
    loaded = load(model.name, weights, random=None if real else peers.SEED)
    p, q = loaded.preprocess, model.preprocess
    if (p.channels, p.size) != (q.channels, q.size):
        raise InputError(
            f"bench: expected peers for {q.channels}x{q.size}x{q.size} images, found that "
            f"{model.name} takes {p.channels}x{p.size}x{p.size} here; export the model again"
        )
    with screen.progress("building peers", len(kinds)) as advance:
        engines = peers.build(loaded, kinds, folder, advance)
    return engines, {
        "weights": "real" if real else f"random, seed {peers.SEED}",
        "same_weights_as_model": loaded.weights_digest == model.quantization.get("weights"),
        "calibration": f"{peers.CALIBRATION_IMAGES} random images, seed {peers.SEED}",
        "left_out": left_out,
    }


def _title(model: ModelFile, run: Comparison, origin: dict[str, Any]) -> str:
    text = f"{model.name}, batch {run.batch}, threads {run.threads}, {run.rounds} rounds"
    return text if origin["weights"] is None else f"{text}; peers' weights: {origin['weights']}"


def _table(run: Comparison) -> Table:
    table = Table(box=None, pad_edge=False)
    heads = ("ms", "quartiles", "images/s", "times mnq", "quartiles", "clean", "file MB")
    table.add_column("engine")
    for head in (*heads, "peak MB", "start ms", "floats"):
        table.add_column(head, justify="right")
    for row in run.rows:
        f, ms = row.figures, row.figures.milliseconds
        above = row.footprint.peak_bytes - run.empty.peak_bytes
        table.add_row(
            row.engine.name,
            f"{ms.median:.2f}",
            f"{ms.low:.2f} to {ms.high:.2f}",
            f"{run.batch * 1e3 / ms.median:.1f}",
            "-" if f.times is None else f"{f.times.median:.2f}",
            "-" if f.times is None else f"{f.times.low:.2f} to {f.times.high:.2f}",
            f"{f.clean} of {f.samples}",
            f"{row.engine.file_bytes / 1e6:.1f}",
            f"{above / 1e6:.0f}",
            f"{row.footprint.start_seconds * 1e3:.0f}",
            row.precision or "-",
        )
    return table


def _shares(shares: list[Share]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("operator")
    for head in ("nodes", "ms", "share %"):
        table.add_column(head, justify="right")
    for share in shares:
        cells = (str(share.nodes), f"{share.milliseconds:.3f}", f"{share.share * 100:.1f}")
        table.add_row(share.operator, *cells)
    return table
