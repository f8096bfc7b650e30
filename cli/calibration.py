"""Calibration from images, as the commands run it: with progress and a word on every bad image."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import click

from mnq.cli.common import COUNT, Screen, counted
from mnq.models.images import ImageSet, batches
from mnq.ops.errors import InputError

if TYPE_CHECKING:
    from mnq.models.zoo import LoadedModel
    from mnq.toolchain.calibrate import Statistics
    from mnq.toolchain.graph import Graph

MINIMUM = 8  # usable calibration images
BATCH = 16  # calibration images at a time, unless the command lets one choose
SAVED = ".safetensors"  # what --save-calib writes

Function = TypeVar("Function", bound=Callable[..., Any])


@dataclass(frozen=True)
class Ranges:
    """The options that say where ranges come from: --calib, --images, --calib-method,
    --range-form and --equalize.
    """

    calib: Path | None
    images: int
    method: str
    form: str
    equalize: bool

    def open(self) -> ImageSet | None:
        """The images of --calib; None if it is a file of --save-calib. InputError if neither."""
        assert self.calib is not None, "the command asks for one"
        if self.calib.suffix != SAVED:
            return ImageSet.open(self.calib, minimum=MINIMUM)
        if not self.calib.is_file():
            raise InputError(
                f"calibration: expected a file that --save-calib made, found none at {self.calib}; "
                "check the path, or give images"
            )
        return None

    def statistics(
        self, screen: Screen, source: ImageSet | None, loaded: LoadedModel, graph: Graph, batch: int
    ) -> Statistics:
        """Statistics from what `open` returned: from images, or those of the file."""
        if source is not None:
            return calibrate(screen, source, loaded, graph, self.images, batch, self.equalize)
        assert self.calib is not None
        return saved_statistics(self.calib, loaded, graph, self.equalize)


def range_options(function: Function) -> Function:
    """Add the options of `Ranges`; the function gets them as `ranges`."""

    @wraps(function)
    def wrapped(
        *,
        calib: Path | None,
        images: int,
        calib_method: str,
        range_form: str,
        equalize: bool,
        **others: Any,
    ) -> Any:
        ranges = Ranges(calib, images, calib_method, range_form, equalize)
        return function(ranges=ranges, **others)

    result: Any = wrapped
    for option in (
        click.option(
            "--equalize/--no-equalize",
            default=True,
            show_default=True,
            help="Even out LayerNorm channels by powers of two; exact in float.",
        ),
        click.option(
            "--range-form",
            default="ivit",
            show_default=True,
            help="Scale of a range a: ivit a/(2^(b-1)-1), paper 2a/(2^b-1).",
        ),
        click.option(
            "--calib-method",
            default="mse",
            show_default=True,
            help="mse, minmax or percentile (99.99); the residual stream keeps its whole range.",
        ),
        click.option(
            "--images",
            type=click.IntRange(MINIMUM, COUNT.max),
            default=128,
            show_default=True,
            help="Calibration images to use, evenly spread.",
        ),
        click.option(
            "--calib", type=Path, help="Image folder or .zip, or a file made by --save-calib."
        ),
    ):
        result = option(result)
    return cast(Function, result)


def saved_statistics(path: Path, loaded: LoadedModel, graph: Graph, equalize: bool) -> Statistics:
    """Statistics of an earlier run. Raises InputError if they are not of these weights."""
    from mnq.toolchain.calibrate import load_statistics

    statistics = load_statistics(path, graph)
    if statistics.provenance.get("weights") != loaded.weights_digest:
        raise InputError(
            f"calibration: expected statistics of these weights, found those of others in {path}; "
            "calibrate again with --calib FOLDER"
        )
    if statistics.equalization and not equalize:
        raise InputError(
            f"calibration: expected statistics without equalization for --no-equalize, found "
            f"equalized ones in {path}; calibrate again with --calib FOLDER"
        )
    return statistics


def calibrate(
    screen: Screen,
    source: ImageSet,
    loaded: LoadedModel,
    graph: Graph,
    images: int,
    batch: int,
    equalize: bool = True,
) -> Statistics:
    """Statistics of `graph` on at most `images` images of `source`, evenly spread.

    Every image that cannot be used is named in a warning. Raises InputError if fewer than
    MINIMUM remain.
    """
    import torch

    from mnq.toolchain.calibrate import collect

    chosen = min(images, len(source))
    passes = 2 if equalize else 1
    text = "calibrating" if passes == 1 else "calibrating, two passes"
    with screen.progress(text, chosen * passes) as advance:

        def normalized() -> Iterator[torch.Tensor]:
            pixels = batches(source, loaded.preprocess, batch, limit=chosen)
            for group in counted(pixels, advance, lambda b: len(b[0])):
                yield torch.from_numpy(loaded.preprocess.normalize(group[0]))

        provenance = {"source": source.source.name, "weights": loaded.weights_digest}
        statistics = collect(graph, normalized, provenance, equalize)
    for name, reason in source.skipped:
        screen.warn(f"skipped image {name}: {reason}")
    if statistics.provenance["images"] < MINIMUM:
        raise InputError(
            f"calibration: expected at least {MINIMUM} usable images, found "
            f"{statistics.provenance['images']} in {source.source}; add images"
        )
    return statistics
