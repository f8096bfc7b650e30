"""What mnq-qat and mnq-search do before, around and after a run."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, fields, replace
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click

from mnq.cli.calibration import BATCH, Ranges
from mnq.cli.common import INTERRUPTED, Screen, expect_one
from mnq.cli.training import LAST, Images, Run, Subject
from mnq.ops.errors import InputError
from mnq.ops.files import check_writable, write_atomically
from mnq.runtime.modelfile import INPUT_KINDS

if TYPE_CHECKING:
    from mnq.models.zoo import LoadedModel
    from mnq.toolchain.map import Map
    from mnq.toolchain.processes import Process

Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass(frozen=True)
class Setup:
    """Images, place and files of a run, as the options say."""

    train: Path
    val: Path | None
    input_kind: str
    workers: int
    device: str
    output: Path
    resume: Path | None

    def calibration(self, ranges: Ranges) -> Ranges:
        """With the training images, if no others are given. Raises InputError if they cannot be."""
        if ranges.calib is None and self.train.suffix == ".tar":
            raise InputError(
                f"--calib: expected images to calibrate on beside {self.train}, found none; give a "
                "folder or .zip of a few hundred of them"
            )
        return replace(ranges, calib=ranges.calib or self.train)


def run_options(function: Function) -> Function:
    """Add the options of a `Setup`; the function gets one as `setup`.

    Raises InputError for a name that is none of those allowed, and for an output that cannot be.
    """

    @wraps(function)
    def wrapped(**given: Any) -> Any:
        from mnq.toolchain.processes import DEVICES

        setup = Setup(**{field.name: given.pop(field.name) for field in fields(Setup)})
        expect_one("--input", setup.input_kind, INPUT_KINDS)
        expect_one("--device", setup.device, DEVICES)
        _check_output(setup.output, setup.resume)
        return function(setup=setup, **given)

    result: Any = wrapped
    for option in (
        click.option(
            "--resume", type=Path, help="Go on from this checkpoint, with the same options."
        ),
        click.option(
            "--output", type=Path, required=True, help="Folder for checkpoints, log and curve."
        ),
        click.option(
            "--device",
            default="auto",
            show_default=True,
            help="auto: a GPU if there is one; cpu; cuda.",
        ),
        click.option(
            "--workers",
            type=click.IntRange(0, 256),
            default=4,
            show_default=True,
            help="Processes that decode images, of each training process.",
        ),
        click.option(
            "--input", "input_kind", default="uint8", show_default=True, help="As for mnq-export."
        ),
        click.option(
            "--val", type=Path, help="Images to judge each epoch on; without: no accuracy."
        ),
        click.option(
            "--train",
            type=Path,
            required=True,
            help="Training images: folder of class folders, .zip, .tar or WebDataset shards.",
        ),
    ):
        result = option(result)
    return cast(Function, result)


def drive(
    setup: Setup,
    screen: tuple[bool, bool],
    start: Callable[[Screen, Process], Run],
    report: Callable[[Screen, Run, bool], None],
) -> None:
    """Start a run, resume it if asked to, train it and report; exits with 130 if it was stopped.

    screen: whether as JSON, whether quiet.
    """
    from mnq.toolchain.processes import process

    as_json, quiet = screen
    with process(setup.device) as here:
        shown = Screen(as_json, quiet or not here.first)
        run = start(shown, here)
        if setup.resume is not None:
            run.resume(setup.resume)
        if here.first:
            setup.output.mkdir(exist_ok=True)
            if setup.resume is not None and not (setup.output / LAST).exists():
                write_atomically(setup.output / LAST, setup.resume.read_bytes())
        with _interruptible(shown) as stopped:
            finished = run.train(stopped)
        if here.first:
            report(shown, run, finished)
            if not finished:
                shown.note(
                    "stopped and saved; go on with the same options and --resume "
                    f"{setup.output / LAST}"
                )
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


def prepare(
    screen: Screen,
    name: str,
    weights: Path | None,
    mapping: Map,
    ranges: Ranges,
    setup: Setup,
) -> tuple[Subject, Images]:
    """The float model, captured and calibrated, and the images to train and to judge on.

    Raises InputError, before the calibration, if they are not the model's.
    """
    from mnq.models.zoo import load
    from mnq.toolchain import export as toolchain
    from mnq.toolchain.qat import expect_logits

    settings = toolchain.Settings(ranges.method, ranges.form, setup.input_kind)
    source = ranges.open()
    with nullcontext() if source is None else source:
        screen.note(f"loading {name}")
        loaded = load(name, weights)
        screen.note("capturing")
        graph = toolchain.graph_of(loaded)
        expect_logits(graph)
        images = open_images(loaded, setup)
        mapping.resolve(graph.sites())
        statistics = ranges.statistics(screen, source, loaded, graph, BATCH)
    return Subject(loaded, graph, statistics, mapping, settings), images


def open_images(loaded: LoadedModel, setup: Setup) -> Images:
    """The images to train and to judge on. Raises InputError if they are not the model's."""
    from mnq.models.dataset import open_dataset

    opened = [
        None if path is None else open_dataset(path, loaded.classes, loaded.num_classes)
        for path in (setup.train, setup.val)
    ]
    assert opened[0] is not None
    return Images(opened[0], opened[1], setup.train.name, setup.workers)


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
