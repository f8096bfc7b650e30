"""mnq-verify: prove that an exported .onnx computes its reference integers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from numpy.typing import NDArray
from rich.table import Table

from mnq.cli.common import (
    COUNT,
    SEED,
    Command,
    Screen,
    kernels_option,
    need_train,
    output_options,
    threads_option,
)
from mnq.ops.errors import CheckFailed, InputError

if TYPE_CHECKING:
    from mnq.models.images import ImageSet
    from mnq.runtime.modelfile import ModelFile
    from mnq.runtime.verify import Report

EXAMPLES = """
\b
Examples:
  mnq-verify m.onnx                                  against its certificate
  mnq-verify m.onnx --weights deit_t.safetensors --images photos.zip --count 64
                                                     against PyTorch, tensor by tensor
  mnq-verify m.onnx --checkpoint run/best.safetensors --images photos.zip
                                                     the same, for a trained model
"""

_NAMES = {False: "functions", True: "kernels"}


@click.command(
    cls=Command, epilog=EXAMPLES, context_settings={"help_option_names": ["-h", "--help"]}
)
@click.argument("model_path", metavar="MODEL.ONNX", type=Path)
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
    help="Graph optimization levels: disabled, basic, extended, all. Repeatable. "
    "[all four for the certificate; all for PyTorch]",
)
@click.option("--provider", default="cpu", show_default=True, help="cpu or cuda.")
@threads_option
@kernels_option("both, if there are kernels")
@output_options
def main(
    model_path: Path,
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
    """Check integer purity and compare every tensor of MODEL.ONNX with its reference, exactly.

    Without options the reference is the certificate in the file: digests of PyTorch's integers
    on seeded images. That needs neither torch nor weights. With --images, PyTorch itself is
    rebuilt from the float weights and compared integer by integer. Both the functions in the
    file and mnq's native kernels are compared, where there are any.
    """
    from mnq.ops.library import why_no_library
    from mnq.runtime import verify
    from mnq.runtime.modelfile import read
    from mnq.runtime.session import LEVELS, PROVIDERS

    screen = Screen(as_json, quiet)
    for value, allowed, what in (
        *((level, LEVELS, "--level") for level in levels),
        (provider, PROVIDERS, "--provider"),
    ):
        if value not in allowed:
            raise InputError(
                f"{what}: expected one of {', '.join(allowed)}, found {value!r}; see --help"
            )
    given = (weights, random_weights, checkpoint)
    if images is None and any(value is not None for value in given):
        raise InputError(
            "verify: expected --images beside weights, found none; give images to compare with "
            "PyTorch, or leave the weights out"
        )
    forms = verify.forms(provider, kernels)
    model = read(model_path)
    screen.note(f"{model_path}: {model.name}, checking for float tensors")
    report = verify.check_purity(model)
    skipped = 0
    if images is None:
        for level, form in product(levels or LEVELS, forms):
            screen.note(f"certificate at level {level}, {_NAMES[form]}")
            run = verify.check_certificate(
                model, level, provider=provider, threads=threads, kernels=form
            )
            report.runs.append(run)
    else:
        from mnq.models.images import ImageSet

        source = ImageSet.open(images)
        reference = _reference(screen, model, weights, random_weights, checkpoint)
        for level, form in product(levels or ("all",), forms):
            total = min(count, len(source))
            with screen.progress(f"comparing {_NAMES[form]} at {level}", total) as advance:
                run = verify.compare(
                    model,
                    reference,
                    _batches(model, source, batch, count),
                    level,
                    provider=provider,
                    threads=threads,
                    kernels=form,
                    advance=advance,
                )
            report.runs.append(run)
        for name, reason in source.skipped:
            screen.warn(f"skipped image {name}: {reason}")
        skipped = len(source.skipped)
    if True not in forms and kernels is None and provider == "cpu":
        screen.warn(f"kernels are not verified, there is no native library: {why_no_library()}")
    screen.result({**report.to_json(), "skipped_images": skipped}, _table(report))
    if not report.passed:
        raise CheckFailed(_failure(report))


def _reference(
    screen: Screen,
    model: ModelFile,
    weights: Path | None,
    random_weights: int | None,
    checkpoint: Path | None,
) -> Callable[[NDArray[Any]], dict[str, NDArray[Any]]]:
    need_train()
    from mnq.models.zoo import load
    from mnq.toolchain.checkpoint import read
    from mnq.toolchain.export import rebuild, reference

    screen.note(f"rebuilding {model.name} in PyTorch")
    if checkpoint is None:
        return reference(rebuild(model, load(model.name, weights, random=random_weights)))
    return reference(rebuild(model, load(model.name, random=0), read(checkpoint)))


def _batches(model: ModelFile, source: ImageSet, batch: int, count: int) -> Iterator[NDArray[Any]]:
    from mnq.models.images import batches

    for pixels, _, _ in batches(source, model.preprocess, batch, limit=count):
        yield pixels if model.input_kind == "uint8" else model.preprocess.normalize(pixels)


def _table(report: Report) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in ("check", "images", "tensors", "differing", "result"):
        table.add_column(column, justify="left" if column in ("check", "result") else "right")
    floats = len(report.float_tensors)
    table.add_row(
        "integers only", "", "", f"{floats} float", "[red]FAILED" if floats else "[green]ok"
    )
    for run in report.runs:
        integers = run.differing_integers
        differing = run.differing_tensors if integers is None else f"{integers} integers"
        result = "[green]ok" if run.passed else "[red]FAILED"
        table.add_row(run.name, str(run.images), str(run.tensors), str(differing), result)
    return table


def _failure(report: Report) -> str:
    if report.float_tensors:
        names = ", ".join(report.float_tensors[:3])
        return (
            f"verify: expected integers only, found {len(report.float_tensors)} float tensors "
            f"({names}); export the model again"
        )
    run = next(run for run in report.runs if not run.passed)
    return (
        f"verify: expected equal integers, found a difference in {run.name}: {run.first}; "
        "run mnq-doctor, and mnq-verify --level disabled to see whether an optimizer did it"
    )
