"""CIFAR-10 as the micro models take it: class names, preprocessing, the images of a split."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from mnq.models.images import ImageSet, batches, label_index
from mnq.models.preprocess import Preprocess

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["CLASSES", "PREPROCESS", "Split", "load"]

Split = Literal["train", "test"]

CLASSES = (
    *("airplane", "automobile", "bird", "cat", "deer"),
    *("dog", "frog", "horse", "ship", "truck"),
)

PREPROCESS = Preprocess(
    size=32,
    resize=32,
    interpolation="bicubic",
    mean=(0.4914, 0.4822, 0.4465),
    std=(0.2470, 0.2435, 0.2616),
    channels=3,
)


def load(archive: Path, split: Split) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Images uint8 (N, 3, 32, 32) and labels int64 (N,) of `archive`/cifar10/<split>/<class>/.

    `archive` is a .zip file or a folder; InputError if it holds no such images.
    """
    with ImageSet.open(archive / "cifar10" / split) as images:
        labels = label_index(images.classes, CLASSES)
        found = list(batches(images, PREPROCESS, 1000, labels=labels))
    return np.concatenate([part[0] for part in found]), np.concatenate([part[1] for part in found])
