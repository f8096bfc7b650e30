"""What all commands share: errors as one line, exit statuses, progress, output for machines."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from mnq.ops.errors import EnvironmentLack, InputError, MnqError

F = TypeVar("F", bound=Callable[..., Any])

INTERRUPTED = 130
_FILE_WIDTH = 200

COUNT = click.IntRange(1, 1 << 20)
MODEL_HELP = "deit_t, deit_s, ..., swin_t, micro_vit, micro_swin, digits, or a timm name."


def expect_one(option: str, value: str, allowed: Iterable[str]) -> None:
    """Raise InputError unless `value`, given as `option`, is one of those allowed."""
    if value not in (choices := tuple(allowed)):
        raise InputError(f"{option}: expected {' or '.join(choices)}, found {value!r}; see --help")


threads_option = click.option(
    "--threads",
    type=click.IntRange(0, 1 << 10),
    default=0,
    show_default=True,
    help="0: onnxruntime's choice.",
)
SEED = click.IntRange(0, (1 << 32) - 1)


def kernels_option(default: str) -> Callable[[F], F]:
    """Add --kernels and --no-kernels; `default` says what happens without either."""
    text = f"mnq's native kernels only, or the model's own functions only.  [{default}]"
    return click.option("--kernels/--no-kernels", default=None, help=text)


class OneLineUsage(click.Command):
    """A click command that prints wrong use as one line."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Parse the command line; a wrong option is one line and status 2."""
        if not args and self.no_args_is_help:
            return super().parse_args(ctx, args)
        try:
            return super().parse_args(ctx, args)
        except click.UsageError as error:
            raise self.refuse(ctx, error) from error

    def refuse(self, ctx: click.Context, error: click.UsageError) -> click.exceptions.Exit:
        """Print a usage error as one line; returns the exception to raise after it."""
        reason = " ".join(error.format_message().split()).rstrip(".")
        click.echo(f"{ctx.command_path}: error: {reason}; see {ctx.command_path} --help", err=True)
        return click.exceptions.Exit(InputError.exit_status)


class Command(OneLineUsage):
    """A command that prints an MnqError as one line and exits with its status."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command. Status 0 fine, 1 check failed, 2 bad use, 3 environment, 130 Ctrl-C."""
        try:
            return super().invoke(ctx)
        except MnqError as error:
            click.echo(f"{ctx.command_path}: error: {error}", err=True)
            ctx.exit(error.exit_status)
        except KeyboardInterrupt:
            click.echo(f"{ctx.command_path}: interrupted; no file was left half-written", err=True)
            ctx.exit(INTERRUPTED)
        except BrokenPipeError:
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115
            ctx.exit(0)


TRAIN_MODULES = ("torch", "timm", "onnx_graphsurgeon", "safetensors", "jsonschema")


def need_train(*more: str) -> None:
    """Raise EnvironmentLack unless the modules of the extra `train` are there (and `more`)."""
    for name in (*TRAIN_MODULES, *more):
        if importlib.util.find_spec(name) is None:
            raise EnvironmentLack(
                f"mnq: expected the module {name}, found none; pip install 'mnq[train]'"
            )


def check_new(output: Path | None) -> None:
    """Raise InputError if a folder to be made is in use, or has none to be in."""
    above = None if output is None else output.parent
    if above is not None and not above.is_dir():
        raise InputError(f"output: expected an existing folder, found none at {above}; create it")
    if output is not None and output.exists() and not (output.is_dir() and not [*output.iterdir()]):
        raise InputError(
            f"output: expected a new or an empty folder, found {output} in use; choose another"
        )


@contextmanager
def new_folder(output: Path | None) -> Iterator[Path]:
    """A folder to fill that becomes `output` if all goes well; removed otherwise, or if None.

    Raises InputError now if `output` is in use or cannot be made.
    """
    check_new(output)
    above = None if output is None else output.parent
    try:
        temporary = tempfile.TemporaryDirectory(prefix=".mnq-", dir=above)
    except OSError as error:
        raise InputError(
            f"output: expected a folder that can be written, found {error.strerror}: "
            f"{error.filename}; choose another"
        ) from error
    with temporary as place:
        folder = Path(place, "files")
        folder.mkdir()
        yield folder
        if output is not None:
            folder.replace(output)


def output_options(function: F) -> F:
    """Add --json and --quiet."""
    quiet = "Print results, warnings and errors only."
    function = click.option("--quiet", is_flag=True, help=quiet)(function)
    return click.option("--json", "as_json", is_flag=True, help="Print one JSON object.")(function)


class Screen:
    """Messages for people go to standard error, results to standard output."""

    def __init__(self, as_json: bool, quiet: bool) -> None:
        self.as_json = as_json
        self.silent = as_json or quiet
        self.notes = Console(stderr=True, quiet=self.silent, highlight=False)
        # A table that goes to a file or a pipe keeps its rows whole.
        width = None if sys.stdout.isatty() else _FILE_WIDTH
        self.results = Console(quiet=as_json, highlight=False, width=width)

    def note(self, text: str) -> None:
        """A line about what is going on; not in JSON or quiet mode."""
        self.notes.print(text, markup=False, soft_wrap=True)

    def warn(self, text: str) -> None:
        """A line that is shown in every mode."""
        click.echo(f"warning: {text}", err=True)

    def result(self, payload: dict[str, Any], *renderables: Any) -> None:
        """The result: `payload` as JSON, or the renderables for people."""
        if self.as_json:
            click.echo(json.dumps(payload, indent=2))
        else:
            for renderable in renderables:
                text = isinstance(renderable, str)
                self.results.print(renderable, soft_wrap=text, markup=not text)

    @contextmanager
    def status(self, text: str) -> Iterator[Callable[[str], None]]:
        """A line on the terminal that goes when done; yields the function that rewrites it."""
        with self.notes.status(escape(text)) as line:
            yield lambda now: line.update(escape(now))

    @contextmanager
    def progress(self, text: str, total: int) -> Iterator[Callable[[int], None]]:
        """A progress bar; yields the function that advances it."""
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=self.notes, disable=self.silent) as bar:
            task = bar.add_task(text, total=total)
            yield lambda count: bar.advance(task, count)


def map_text(data: dict[str, Any]) -> str:
    """A map as JSON text for people: a line for each key and for each site."""
    parts = []
    for key, value in data.items():
        if key == "sites" and value:
            sites = [
                f"    {json.dumps(name)}: {json.dumps(entry)}" for name, entry in value.items()
            ]
            parts.append('  "sites": {\n' + ",\n".join(sites) + "\n  }")
        else:
            parts.append(f"  {json.dumps(key)}: {json.dumps(value)}")
    return "{\n" + ",\n".join(parts) + "\n}"


T = TypeVar("T")


def counted(
    items: Iterable[T], advance: Callable[[int], None], size: Callable[[T], int]
) -> Iterator[T]:
    """Yield items, advancing a progress bar by each one's size after it was used."""
    for item in items:
        yield item
        advance(size(item))
