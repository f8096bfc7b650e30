"""scikit-learn's handwritten digits: 1797 images of 8x8, split once and for all."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from PIL import Image

from mnq.ops.errors import EnvironmentLack

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["SPLIT_SEED", "Split", "load", "write_folder"]

Split = Literal["train", "test"]

SPLIT_SEED = 0
_TEST_SHARE = 5  # every class gives one fifth of its images to the test split


def load(split: Split) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Images uint8 (N, 1, 8, 8), 0..255, and labels int64 (N,): N = 1442 to train, 355 to test.

    EnvironmentLack if scikit-learn, which carries the images, is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise EnvironmentLack(
            f"digits: expected scikit-learn, found no {error.name}; pip install 'mnq[train]'"
        ) from error
    bunch = load_digits()
    # 0..16 in the original. Rounding loses nothing: the steps are 15.94 apart.
    pixels = np.rint(bunch.images * (255 / 16)).astype(np.uint8)[:, None]
    labels = np.asarray(bunch.target, dtype=np.int64)
    # RandomState: its stream is frozen, so the split is the same with any numpy.
    generator = np.random.RandomState(SPLIT_SEED)
    test = np.zeros(len(labels), dtype=bool)
    for digit in range(10):
        order = generator.permutation(np.flatnonzero(labels == digit))
        test[order[: len(order) // _TEST_SHARE]] = True
    chosen = test if split == "test" else ~test
    return pixels[chosen], labels[chosen]


def write_folder(root: Path, split: Split) -> int:
    """Write a split as `root/<digit>/<number>.png` (ImageFolder layout); return how many."""
    images, labels = load(split)
    for number, (image, label) in enumerate(zip(images, labels, strict=True)):
        folder = root / str(label)
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[0]).save(folder / f"{number:04d}.png")
    return len(images)
