"""mnq-qat: train an integer model as it will be deployed."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.table import Table

from mnq.cli.calibration import BATCH, Ranges, range_options
from mnq.cli.common import (
    INTERRUPTED,
    MODEL_HELP,
    Command,
    Screen,
    expect_one,
    output_options,
)
from mnq.cli.mapping import assign_option, bits_option, chosen_map
from mnq.cli.recipe import recipe_options
from mnq.cli.training import BEST, LAST, Images, Run, Subject
from mnq.ops.errors import InputError
from mnq.ops.files import check_writable, write_atomically
from mnq.runtime.modelfile import INPUT_KINDS

if TYPE_CHECKING:
    from mnq.toolchain.map import Map
    from mnq.toolchain.train import Recipe

EXAMPLES = """
\b
Examples:
  mnq-qat --model deit_t --assign map.json --train imagenet/train --val imagenet/val \\
      --output run                                  the paper's recipe, one epoch
  mnq-qat --model deit_t --weights deit_t.safetensors --assign uniform:ivit --bits 6 \\
      --train photos.zip --val held_out.zip --epochs 5 --batch 32 --lr 1e-4 --distill 1 \\
      --distill-features 30 --ranges learned --range-lr 0.01 --augment light --output run
                                                    little data: learn from the float model
  mnq-qat ... --output run --resume run/last.safetensors
  torchrun --nproc-per-node 8 -m mnq.cli.qat ...    eight GPUs
  mnq-export --checkpoint run/best.safetensors --output m.onnx
"""


@click.command(
    cls=Command, epilog=EXAMPLES, context_settings={"help_option_names": ["-h", "--help"]}
)
@click.option("--model", "name", required=True, help=MODEL_HELP)
@assign_option
@click.option("--weights", type=Path, help="Float weights (.safetensors, .pth); default: timm's.")
@bits_option
@click.option(
    "--train",
    type=Path,
    required=True,
    help="Training images: folder of class folders, .zip, .tar or WebDataset shards.",
)
@click.option("--val", type=Path, help="Images to judge each epoch on; without: no accuracy.")
@range_options
@recipe_options
@click.option(
    "--input", "input_kind", default="uint8", show_default=True, help="As for mnq-export."
)
@click.option(
    "--workers",
    type=click.IntRange(0, 256),
    default=4,
    show_default=True,
    help="Processes that decode images, of each training process.",
)
@click.option(
    "--device", default="auto", show_default=True, help="auto: a GPU if there is one; cpu; cuda."
)
@click.option("--output", type=Path, required=True, help="Folder for checkpoints, log and curve.")
@click.option("--resume", type=Path, help="Go on from this checkpoint, with the same options.")
@output_options
def main(
    name: str,
    assign: str,
    weights: Path | None,
    bits: int | None,
    train: Path,
    val: Path | None,
    ranges: Ranges,
    recipe: Recipe,
    input_kind: str,
    workers: int,
    device: str,
    output: Path,
    resume: Path | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Train an integer vision transformer: every forward pass computes the deployed integers.

    Starts from the float weights, calibrated on --calib (default: the training images). Writes
    last.safetensors and best.safetensors, log.csv and curve.svg to the output folder after every
    epoch. Ctrl-C stops after the step and saves; --resume goes on as if nothing had happened.
    """
    from mnq.toolchain.processes import DEVICES, process

    expect_one("--input", input_kind, INPUT_KINDS)
    expect_one("--device", device, DEVICES)
    if ranges.calib is None and train.suffix == ".tar":
        raise InputError(
            f"--calib: expected images to calibrate on beside {train}, found none; give a folder "
            "or .zip of a few hundred of them"
        )
    _check_output(output, resume)
    with process(device) as here:
        screen = Screen(as_json, quiet or not here.first)
        mapping = chosen_map(assign, name, bits)
        ranges = replace(ranges, calib=ranges.calib or train)
        subject = _subject(screen, name, weights, mapping, ranges, input_kind)
        images = _images(subject, train, val, workers)
        run = Run(screen, here, subject, images, recipe, output)
        if resume is not None:
            run.resume(resume)
        if here.first:
            output.mkdir(exist_ok=True)
            if resume is not None and not (output / LAST).exists():
                write_atomically(output / LAST, resume.read_bytes())
        with _interruptible(screen) as stopped:
            finished = run.train(stopped)
        if here.first:
            _report(screen, run, finished)
    if not finished:
        click.get_current_context().exit(INTERRUPTED)


def _check_output(output: Path, resume: Path | None) -> None:
    """Raise InputError now if the run could not be saved, or would replace another one."""
    if not output.parent.is_dir() or (output.exists() and not output.is_dir()):
        found = f"none at {output.parent}" if not output.parent.is_dir() else f"a file at {output}"
        raise InputError(f"--output: expected a folder to write, found {found}; choose another")
    other = resume is None or resume.resolve().parent != output.resolve()
    if other and (output / LAST).exists():
        raise InputError(
            f"--output: expected a new folder, found a run in {output}; choose another, or go on "
            f"with --resume {output / LAST}"
        )
    if output.is_dir():
        check_writable(output / LAST)


def _subject(
    screen: Screen,
    name: str,
    weights: Path | None,
    mapping: Map,
    ranges: Ranges,
    input_kind: str,
) -> Subject:
    """The float model, captured and calibrated."""
    from mnq.models.zoo import load
    from mnq.toolchain import export as toolchain
    from mnq.toolchain.qat import expect_logits

    settings = toolchain.Settings(ranges.method, ranges.form, input_kind)
    source = ranges.open()
    with nullcontext() if source is None else source:
        screen.note(f"loading {name}")
        loaded = load(name, weights)
        screen.note("capturing")
        graph = toolchain.graph_of(loaded)
        expect_logits(graph)
        mapping.resolve(graph.sites())
        statistics = ranges.statistics(screen, source, loaded, graph, BATCH)
    return Subject(loaded, graph, statistics, mapping, settings)


def _images(subject: Subject, train: Path, val: Path | None, workers: int) -> Images:
    from mnq.models.dataset import open_dataset

    loaded = subject.loaded
    opened = [
        None if path is None else open_dataset(path, loaded.classes, loaded.num_classes)
        for path in (train, val)
    ]
    assert opened[0] is not None
    return Images(opened[0], opened[1], train.name, workers)


@contextmanager
def _interruptible(screen: Screen) -> Iterator[Callable[[], bool]]:
    """The first Ctrl-C (or SIGTERM) only sets what is yielded; the second acts as usual."""
    asked: list[int] = []

    def ask(number: int, frame: Any) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)
        screen.note("stopping after this step; once more stops at once, without saving")

    before = {n: signal.signal(n, ask) for n in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _report(screen: Screen, run: Run, finished: bool) -> None:
    """What came of the run, and what to do next."""
    table = Table(box=None, pad_edge=False)
    for head in ("epoch", "loss", "top-1 %", "agree %", "seconds"):
        table.add_column(head, justify="right")
    for row in run.progress.history:
        cells = (row["loss"], row["top1"], row["agreement"], row["seconds"])
        formats = (".4g", ".2f", ".2f", ".0f")
        shown = ["-" if c is None else format(c, f) for c, f in zip(cells, formats, strict=True)]
        table.add_row(str(row["epoch"]), *shown)
    payload = {
        "output": str(run.output),
        "finished": finished,
        "float": run.reference,
        "best": run.progress.best(),
        "history": run.progress.history,
    }
    screen.result(payload, table)
    if not finished:
        screen.note(
            f"stopped and saved; go on with the same options and --resume {run.output / LAST}"
        )
        return
    chosen = BEST if (run.output / BEST).exists() else LAST
    screen.note(f"next: mnq-export --checkpoint {run.output / chosen} --output m.onnx")


if __name__ == "__main__":
    main()
