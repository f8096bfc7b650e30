"""Requantize: integers at one scale to b-bit codes at another (SPEC.md beside this file)."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from mnq.ops.errors import InputError
from mnq.ops.integer import (
    ElementType,
    Integers,
    cast,
    clamp,
    i64,
    round_shift,
)
from mnq.ops.operator import Operator

Constants = dict[str, NDArray[np.generic]]
"""Constant inputs of an operator by name."""


def dyadic(ratio: ArrayLike, spare: ArrayLike = 0) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """The multiplier and shift (m, e) with m / 2^e next to `ratio`, |m| in [2^30, 2^31).

    `ratio` is taken in float64, any shape. A ratio below 2^-32 has e > 62 and becomes
    m = 0, e = 62: no 32-bit integer times it rounds to anything else than 0. For integers of
    32 + `spare` bits, m keeps `spare` bits fewer, so that their product stays in int64.

    Raises InputError if a ratio is 2^30 or more, or not finite (spec 1.4).
    """
    r = np.asarray(ratio, dtype=np.float64)
    fraction, exponent = np.frexp(r)
    scaled = fraction * 2.0**31
    with np.errstate(invalid="ignore"):  # refused below
        m = (np.sign(scaled) * np.floor(np.abs(scaled) + 0.5)).astype(np.int64)
    e = 31 - exponent.astype(np.int64)
    overflow = np.abs(m) == 2**31  # the fraction rounded up to 1
    m, e = np.where(overflow, m // 2, m), np.where(overflow, e - 1, e)
    drop = np.asarray(spare, np.int64)
    m, e = (m + (2**drop >> 1)) >> drop, e - drop
    vanishes = (e > 62) | (m == 0)
    m, e = np.where(vanishes, 0, m), np.where(vanishes, 62, e)
    if not np.isfinite(r).all() or (e < 1).any():
        raise InputError(
            f"requantization: expected a finite ratio of scales below 2^30, found "
            f"{float(np.abs(r).max())}; check the calibrated scales on both sides"
        )
    return m.astype(np.int32), e.astype(np.int32)


def code_range(bits: int) -> tuple[int, int]:
    """Smallest and largest signed code of `bits` bits."""
    return -(2 ** (bits - 1)), 2 ** (bits - 1) - 1


def constants(ratio: ArrayLike, bits: int) -> Constants:
    """Inputs m, e, lo, hi of a requantization by `ratio` = S_in / S_out to `bits` bits."""
    m, e = dyadic(ratio)
    lo, hi = code_range(bits)
    return {"m": m, "e": e, "lo": np.array(lo, np.int32), "hi": np.array(hi, np.int32)}


def rescale(z: Integers, m: Integers, e: Integers) -> Integers:
    """round_half_up(z * m / 2^e) for int64 operands with |z * m| < 2^62 + 2^61, 1 <= e <= 62."""
    return round_shift(z * m, e)


def saturate(y: Integers, lo: Integers, hi: Integers, to: ElementType) -> Integers:
    """`y` limited to [lo, hi], as element type `to`."""
    return cast(clamp(y, i64(lo), i64(hi)), to)


def compute(
    z: Integers, m: Integers, e: Integers, lo: Integers, hi: Integers, *, to: ElementType
) -> Integers:
    """y = saturate((z*m + 2^(e-1)) >> e): dyadic rescaling, round half up."""
    return saturate(rescale(i64(z), i64(m), i64(e)), lo, hi, to)


requantize = Operator("Requantize", compute)
