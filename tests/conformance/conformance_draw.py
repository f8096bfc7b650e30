"""What the vectors are made of: integers that are the same on every machine, and cases.

Numbers come from SHA-256, not from numpy's generators, whose streams may change with its version.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnq.ops.requantize.op import code_range

Array = NDArray[Any]
Integers = NDArray[np.int64]
Shape = tuple[int, ...]

BITS = (8, 6, 4)
INT32_MIN, INT32_MAX = -(2**31), 2**31 - 1


@dataclass(frozen=True)
class Case:
    """Inputs of an operator: those that are fed, and its constants, by name in its order.

    name: unique among the operator's; to: numpy name of the attribute, None if there is none.
    """

    operator: str
    name: str
    activations: Mapping[str, Array]
    constants: Mapping[str, Array] = field(default_factory=dict)
    to: str | None = None

    @property
    def inputs(self) -> dict[str, Array]:
        """All inputs by name."""
        return {**self.activations, **self.constants}


class Draw:
    """A stream of integers that depends on its name alone."""

    def __init__(self, name: str) -> None:
        digests = (hashlib.sha256(f"{name} {i}".encode()).digest() for i in itertools.count())
        self._words = (
            int.from_bytes(digest[at : at + 8], "big")
            for digest in digests
            for at in (0, 8, 16, 24)
        )

    def integers(self, lo: int, hi: int, shape: Shape = ()) -> Integers:
        """Integers lo..hi, both included."""
        flat = [lo + next(self._words) % (hi - lo + 1) for _ in range(int(np.prod(shape)))]
        return np.array(flat, np.int64).reshape(shape)

    def choice(self, options: Sequence[int], shape: Shape = ()) -> Integers:
        return np.array(options, np.int64)[self.integers(0, len(options) - 1, shape)]

    def order(self, count: int) -> Integers:
        """The numbers 0..count - 1 in any order."""
        return np.argsort(self.integers(0, 2**62, (count,)), kind="stable")

    def ratios(self, low: int, high: int, count: int) -> NDArray[np.float64]:
        """Numbers of both signs between 2^low and 2^high, uniform in the exponent."""
        sign = self.choice([1, 1, 1, -1], (count,))
        fraction = 1 + self.integers(0, 2**30 - 1, (count,)) / 2.0**30
        return np.ldexp(fraction * sign, self.integers(low, high - 1, (count,)))

    def int32(self, shape: Shape) -> Integers:
        """All of int32, uniform in the number of bits, both ends first."""
        z = self.integers(INT32_MIN, INT32_MAX, shape) >> self.integers(0, 31, shape)
        z.reshape(-1)[:6] = INT32_MIN, INT32_MAX, 0, -1, 1, INT32_MIN + 1
        return z


def codes(draw: Draw, shape: Shape, bits: int, dtype: type[np.generic] | None = None) -> Array:
    """Codes of `bits` bits, rows along the last axis.

    The first rows are edges: zeros, all equal to the smallest and to the largest code, one-hot,
    extremes, negative only, one code apart, and two whose mean is a tie. Of the others every
    third is small and every third is half as large as it may be.
    """
    lo, hi = code_range(bits)
    length = shape[-1]
    count = int(np.prod(shape[:-1]))
    limits = [max(hi // 8, 1), hi // 2, hi]
    x = np.stack(
        [draw.integers(-limits[i % 3] - 1, limits[i % 3], (length,)) for i in range(count)]
    )
    half = np.arange(length) < length // 2
    edges = [
        np.zeros(length),
        np.full(length, lo),
        np.full(length, hi),
        np.where(np.arange(length) == 0, hi, lo),
        draw.choice([lo, hi], (length,)),
        draw.integers(lo, -1, (length,)),
        np.where(np.arange(length) == length - 1, hi, hi - 1),
        np.where(half, 1, 0),
        np.where(half, -1, 0),
    ]
    for row, edge in zip(x, edges, strict=False):
        row[:] = edge
    return x.reshape(shape).astype(dtype or (np.int8 if bits <= 8 else np.int16))


def named(bits: int) -> str:
    """The element type that holds codes of `bits` bits."""
    return "int8" if bits <= 8 else "int16" if bits <= 16 else "int32"
