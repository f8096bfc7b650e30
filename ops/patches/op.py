"""Patches: an image cut into the rows that a patch embedding reads (SPEC.md)."""

from __future__ import annotations

import numpy as np

from mnq.ops.integer import INT8, Integers, cast, i64, reshape, transpose
from mnq.ops.operator import Operator
from mnq.ops.requantize.op import Constants


def compute(x: Integers, offset: Integers, split: Integers, flat: Integers) -> Integers:
    """x - offset, a row per patch: channel by channel, each from left to right and downward."""
    patches = transpose(reshape(x, split), (0, 2, 4, 1, 3, 5))
    return cast(i64(reshape(patches, flat)) - i64(offset), INT8)


patches = Operator("Patches", compute)


def constants(offset: int, shape: tuple[int, int, int], patch: tuple[int, int]) -> Constants:
    """Constant inputs for images of `shape` (C, H, W) and patches of `patch` (P, Q) pixels.

    P divides H and Q divides W. offset: 128 for uint8 pixels, 0 for int8 codes.
    """
    (channels, height, width), (p, q) = shape, patch
    rows, columns = height // p, width // q
    return {
        "offset": np.array(offset, np.int32),
        "split": np.array([-1, channels, rows, p, columns, q], np.int64),
        "flat": np.array([-1, rows, columns, channels * p * q], np.int64),
    }
