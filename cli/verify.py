"""mnq-verify: prove that an exported .onnx computes its reference integers."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from mnq.cli import verdict
from mnq.cli.common import (
    COUNT,
    SEED,
    Command,
    Screen,
    check_new,
    kernels_option,
    new_folder,
    output_options,
    threads_option,
)
from mnq.cli.comparison import Comparison, rebuilt
from mnq.ops.errors import CheckFailed, InputError, MnqError

if TYPE_CHECKING:
    from mnq.runtime.finding import Finding
    from mnq.runtime.matrix import Cell
    from mnq.runtime.modelfile import ModelFile
    from mnq.runtime.place import Place
    from mnq.runtime.verify import Report

EXAMPLES = """
\b
Examples:
  mnq-verify m.onnx                                  against its certificate
  mnq-verify m.onnx --matrix                         in every way that this machine can run it
  mnq-verify m.onnx --overflow                       and what ranges were proved at export
  mnq-verify m.onnx --repro wrong                    what is wrong, as small as can be, in a folder
  mnq-verify m.onnx --weights deit_t.safetensors --images photos.zip --count 64
                                                     against PyTorch, tensor by tensor
  mnq-verify m.onnx --checkpoint run/best.safetensors --images photos.zip
                                                     the same, for a trained model
"""


@click.command(
    cls=Command, epilog=EXAMPLES, context_settings={"help_option_names": ["-h", "--help"]}
)
@click.argument("model_path", metavar="MODEL.ONNX", type=Path)
@click.option("--matrix", is_flag=True, help="Check every place that this machine has; a minute.")
@click.option(
    "--repro",
    type=Path,
    metavar="DIR",
    help="If something differs, put the smallest wrong part here.",
)
@click.option(
    "--overflow", is_flag=True, help="Show the range of every tensor that was proved at export."
)
@click.option("--weights", type=Path, help="Float weights of the export, to rebuild it in PyTorch.")
@click.option("--random-weights", type=SEED, metavar="SEED", help="The same, for random weights.")
@click.option("--checkpoint", type=Path, help="The same, for what mnq-qat trained.")
@click.option("--images", type=Path, help="Image folder or .zip for the comparison with PyTorch.")
@click.option(
    "--count", type=COUNT, default=64, show_default=True, help="How many of these images."
)
@click.option("--batch", type=COUNT, default=8, show_default=True, help="Images per run.")
@click.option(
    "--level",
    "levels",
    multiple=True,
    help="Graph optimization levels: disabled, basic, extended, all. Repeatable. [for the "
    "certificate all four, but functions beside kernels at `all` only; for PyTorch all]",
)
@click.option("--provider", default="cpu", show_default=True, help="cpu or cuda.")
@threads_option
@kernels_option("both, if there are kernels")
@output_options
def main(
    model_path: Path,
    matrix: bool,
    repro: Path | None,
    overflow: bool,
    weights: Path | None,
    random_weights: int | None,
    checkpoint: Path | None,
    images: Path | None,
    count: int,
    batch: int,
    levels: tuple[str, ...],
    provider: str,
    threads: int,
    kernels: bool | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Check that MODEL.ONNX holds integers only, is the file that was certified, and computes its
    reference's integers, every tensor, exactly.

    Without options the reference is the certificate in the file: digests of PyTorch's integers
    on seeded images. That needs neither torch nor weights, and takes seconds. With --matrix it
    is checked with every kernel path, number of threads, optimization level and provider, and by
    ONNX's own definition. With --images, PyTorch itself is rebuilt from the float weights and
    compared integer by integer.

    If an integer differs, the smallest part of the model that is wrong by itself is found and
    named; --repro writes it into a folder, to be run without mnq.
    """
    from mnq.runtime import contents, verify
    from mnq.runtime.causes import in_words
    from mnq.runtime.modelfile import read
    from mnq.runtime.overflow import from_json, sentence, tightest, to_json
    from mnq.runtime.repro import write
    from mnq.runtime.session import why_no_kernels

    screen = Screen(as_json, quiet)
    _check_levels(levels, provider)
    _check_together(matrix, images, any((weights, random_weights is not None, checkpoint)))
    check_new(repro)
    forms = (False,) if matrix else verify.forms(provider, kernels)
    model = read(model_path)
    changes = contents.changes(model)
    screen.note(f"{model_path}: {model.name}, checking for float tensors")
    cells: list[Cell] = []
    comparison = None
    report = verify.Report(model.name, [], changes=changes)
    try:
        report.float_tensors = verify.check_purity(model).float_tensors
        if matrix:
            cells = _matrix(screen, model, threads)
            report.runs += [cell.run for cell in cells if cell.run is not None]
        elif images is None:
            for place in _places(levels, forms, provider, threads):
                screen.note(f"certificate, {place}")
                report.runs.append(verify.check_at(model, place))
        else:
            reference = rebuilt(screen, model, weights, random_weights, checkpoint)
            comparison = Comparison(screen, model, images, reference, batch, count)
            report.runs += comparison.runs(levels or ("all",), forms, provider, threads)
    except InputError as error:
        if not changes:  # they may be why
            raise
        report.runs.append(verify.Run("running the model", refused=str(error)))
    if True not in forms and kernels is None and not matrix:
        screen.warn(f"kernels are not verified: {why_no_kernels(provider)}")
    finding = None
    if repro is not None or not changes:
        finding = _find(screen, model, report, comparison)
    lines = [] if finding is None else in_words(finding, changes)
    if repro is not None and finding is not None:
        with new_folder(repro) as folder:
            write(folder, model, finding, changes, lines)
    payload = {
        **report.to_json(),
        "skipped_images": 0 if comparison is None else comparison.skipped,
        "matrix": [cell.to_json() for cell in cells],
        "finding": finding and finding.to_json(),
    }
    shown = verdict.matrix(cells) if matrix else []
    if overflow:
        rows = from_json(model.overflow)
        payload["overflow"] = {"tightest": tightest(rows), "tensors": to_json(rows)}
        shown = [*shown, verdict.ranges(rows), sentence(rows)]
    screen.result(payload, verdict.table(report, not matrix), *shown, *lines)
    if not report.passed:
        raise CheckFailed(verdict.failure(report, finding, repro))
    if repro is not None:
        screen.note("nothing differs: no folder was written")


def _check_levels(levels: tuple[str, ...], provider: str) -> None:
    from mnq.runtime.session import LEVELS, PROVIDERS

    for value, allowed, what in (
        *((level, LEVELS, "--level") for level in levels),
        (provider, PROVIDERS, "--provider"),
    ):
        if value not in allowed:
            raise InputError(
                f"{what}: expected one of {', '.join(allowed)}, found {value!r}; see --help"
            )


def _check_together(matrix: bool, images: Path | None, weights: bool) -> None:
    if images is None and weights:
        raise InputError(
            "verify: expected --images beside weights, found none; give images to compare with "
            "PyTorch, or leave the weights out"
        )
    context = click.get_current_context()
    for name in ("images", "levels", "provider", "kernels", "count", "batch") if matrix else ():
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            option = {"levels": "level"}.get(name, name)
            raise InputError(
                f"--matrix: expected no --{option} beside it, found one; leave it out, for the "
                "matrix is of all levels and engines, on the images of the certificate"
            )


def _places(
    levels: tuple[str, ...], forms: tuple[bool, ...], provider: str, threads: int
) -> list[Place]:
    """Where the certificate is checked. Functions are slow: beside kernels, which run the graph at
    every level, one level does.
    """
    from mnq.runtime.place import Place
    from mnq.runtime.session import LEVELS

    return [
        Place("kernels" if form else "functions", level, provider, threads)
        for level, form in product(levels or LEVELS, forms)
        if levels or form or len(forms) == 1 or level == "all"
    ]


def _matrix(screen: Screen, model: ModelFile, threads: int) -> list[Cell]:
    from mnq.runtime.machine import cores
    from mnq.runtime.matrix import cells, places

    wanted = places(threads or max(2, cores()))
    found = []
    with screen.progress("places", len(wanted)) as advance:
        for cell in cells(model, wanted):
            found.append(cell)
            advance(1)
    return found


def _find(
    screen: Screen, model: ModelFile, report: Report, comparison: Comparison | None
) -> Finding | None:
    """The smallest wrong part of the first run that differs; None if there is none."""
    from mnq.runtime import certified, finding

    run = next((run for run in report.runs if run.first is not None), None)
    if run is None or run.place is None:
        return None
    with screen.status("looking for the smallest wrong part") as note:
        try:
            known = certified.right(model, note) if comparison is None else comparison.right(run)
            found = finding.find(model, known, run.place, note)
        except MnqError as error:
            screen.warn(f"no smaller part was found: {error}")
            return None
    if found is None:
        screen.warn("the difference did not come again: run mnq-verify again, and test the memory")
    return found
