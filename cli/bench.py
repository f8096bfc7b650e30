"""mnq-bench: speed, size and memory of an exported model, beside other runtimes' forms of it."""

from __future__ import annotations

import json
import tempfile
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mnq.cli import bench_runs, bench_tables
from mnq.cli.common import COUNT, Command, Screen, expect_one, need_train, output_options
from mnq.ops.errors import EnvironmentLack, InputError
from mnq.ops.files import check_writable, write_atomically

if TYPE_CHECKING:
    from mnq.runtime.engines import Engine
    from mnq.runtime.modelfile import ModelFile

FORMAT = "mnq-bench/1"
ALL, NONE = "all", "none"
KINDS = {
    "cpu": ("fp32", "qdq", "dynamic", "openvino"),
    "cuda": ("fp32", "fp16", "fp16-launched", "torch", "compiled"),
}
LISTED = "; ".join(f"{provider}: {','.join(kinds)}" for provider, kinds in KINDS.items())
EXAMPLES = """
\b
Examples:
  mnq-bench m.onnx
  mnq-bench m.onnx --batch 1,8 --threads 1,2 --peers-dir peers --output bench.json
  mnq-bench m.onnx --peers none --profile
  mnq-bench m.onnx --provider cuda --batch 1,8,64
"""


def _numbers(context: click.Context, option: click.Parameter, text: str) -> tuple[int, ...]:
    """The numbers of --batch and --threads, each once."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() and 1 <= int(part) <= 1024 for part in parts):
        raise click.BadParameter(f"expected numbers from 1 to 1024 like 1,8, found {text!r}")
    return tuple(dict.fromkeys(map(int, parts)))


def _kinds(text: str, provider: str) -> tuple[str, ...] | None:
    """The kinds of --peers; None: all that this machine can run."""
    if text in (ALL, NONE):
        return None if text == ALL else ()
    parts = [part.strip() for part in text.split(",")]
    known = KINDS[provider]
    if not all(part in known for part in parts):
        raise InputError(
            f"--peers: expected {ALL}, {NONE} or some of {','.join(known)}, found {text!r}; see "
            "--help"
        )
    return tuple(dict.fromkeys(parts))


@click.command(
    cls=Command, epilog=EXAMPLES, context_settings={"help_option_names": ["-h", "--help"]}
)
@click.argument("path", metavar="MODEL.ONNX", type=Path)
@click.option(
    "--batch", "batches", default="1", callback=_numbers, help="Batch sizes, like 1,8.  [1]"
)
@click.option(
    "--threads", default="1", callback=_numbers, help="Threads of the CPU, like 1,2.  [1]"
)
@click.option("--provider", default="cpu", show_default=True, help="cpu or cuda.")
@click.option(
    "--peers",
    default=ALL,
    help=f"{ALL} (that are installed), {NONE}, or some of {LISTED}.  [{ALL}]",
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
    provider: str,
    peers: str,
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
    for OpenVINO; on a GPU in float and in half precision, in onnxruntime and in torch. All run in
    turn, in one process, on random images. On a GPU, whose own clock counts, everything replays a
    CUDA graph but what is marked "no graph".
    """
    from mnq.runtime.compare import surroundings
    from mnq.runtime.engines import Engine
    from mnq.runtime.modelfile import read
    from mnq.runtime.profile import profile
    from mnq.runtime.session import PROVIDERS

    screen = Screen(as_json, quiet)
    expect_one("--provider", provider, PROVIDERS)
    kinds = _kinds(peers, provider)
    if provider == "cuda":
        bench_runs.check_for_gpu()
    model = read(path)
    if output is not None:
        check_writable(output)
    with ExitStack() as stack:  # to the end: results name the sizes of files in the folder
        folder = peers_dir or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="mnq-")))
        others, origin = _peers(screen, model, kinds, folder, weights, provider)
        if provider == "cuda":
            runs, floors = bench_runs.on_gpu(screen, model, path, others, batches, rounds, seconds)
        else:
            own = [Engine("mnq", "mnq", path), *others]
            if bodies:
                own.append(Engine("mnq bodies", "bodies", path))
            runs, floors = bench_runs.on_cpu(screen, own, batches, threads, rounds, seconds), []
        shares = profile(path, batches[0], threads[0]) if with_profile else []
        payload: dict[str, Any] = {
            "format": FORMAT,
            "model": {"name": model.name, "file": path.name},
            "peers": origin,
            **surroundings(provider == "cuda"),
            "runs": [run.to_json() for run in runs],
        }
        for entry, bound in zip(payload["runs"], floors, strict=False):
            entry["roofline"] = bound
        if with_profile:
            payload["profile"] = {
                "batch": batches[0],
                "threads": threads[0],
                "operators": [vars(share) for share in shares],
            }
        if output is not None:
            write_atomically(output, (json.dumps(payload, indent=1) + "\n").encode())
        tables: list[Any] = []
        for number, run in enumerate(runs):
            for doubt in run.doubts:
                screen.warn(f"batch {run.batch}, threads {run.threads}: {doubt}")
            floor = floors[number]["floor_milliseconds"] if floors else None
            tables += [
                "",
                bench_tables.title(model, run, origin),
                bench_tables.comparison(run, floor),
            ]
        if shares:
            heading = f"operators, batch {batches[0]}, threads {threads[0]}"
            tables += ["", heading, bench_tables.operators(shares)]
        screen.result(payload, *tables[1:])


def _peers(
    screen: Screen,
    model: ModelFile,
    kinds: tuple[str, ...] | None,
    folder: Path,
    weights: Path | None,
    provider: str,
) -> tuple[list[Engine], dict[str, Any]]:
    """The peers' engines, and where they come from."""
    if kinds == ():
        return [], {"weights": None, "left_out": {}}
    need_train()
    from mnq.models.zoo import BUNDLED, load
    from mnq.toolchain import peers

    left_out = {}
    if kinds is None:
        known = KINDS[provider]
        left_out = {kind: why for kind in known if (why := peers.missing(kind, provider))}
        for reason in left_out.values():
            screen.warn(f"left out {reason}")
        kinds = tuple(kind for kind in known if kind not in left_out)
    for kind in kinds:
        if reason := peers.missing(kind, provider):
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
        engines = peers.build(loaded, kinds, folder, advance, provider)
    return engines, {
        "weights": "real" if real else f"random, seed {peers.SEED}",
        "same_weights_as_model": loaded.weights_digest == model.quantization.get("weights"),
        "calibration": f"{peers.CALIBRATION_IMAGES} random images, seed {peers.SEED}",
        "left_out": left_out,
    }
