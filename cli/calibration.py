"""Calibration from images, as the commands run it: with progress and a word on every bad image."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from mnq.cli.common import Screen, counted
from mnq.models.images import ImageSet, batches
from mnq.ops.errors import InputError

if TYPE_CHECKING:
    from mnq.models.zoo import LoadedModel
    from mnq.toolchain.calibrate import Statistics
    from mnq.toolchain.graph import Graph

MINIMUM = 8  # usable calibration images


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
