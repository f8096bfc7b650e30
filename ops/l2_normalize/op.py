"""L2Normalize: rows divided by their Euclidean norm, and the requantization (SPEC.md)."""

from __future__ import annotations

import numpy as np
import torch

from mnq.ops.facts import known
from mnq.ops.integer import ElementType, Integers, i64, isqrt, maximum, quotient, total
from mnq.ops.operator import Operator
from mnq.ops.requantize.op import Constants, rescale, saturate
from mnq.ops.requantize.op import constants as requantize_constants


def compute(
    q: Integers, m: Integers, e: Integers, lo: Integers, hi: Integers, *, to: ElementType
) -> Integers:
    """y = Requantize(q * floor(2^30 / norm of q)) over the last axis; rows of zeros stay zero."""
    x = i64(q)
    factor = isqrt(quotient(2**60, maximum(total(x * x), 1)))
    u = known(x * factor, lo=-(2**30), hi=2**30, because="the sum of squares is at least x^2")
    return saturate(rescale(u, i64(m), i64(e)), lo, hi, to)


def constants(out_scale: float, bits: int) -> Constants:
    """Inputs of L2Normalize for `bits`-bit output codes at `out_scale`; the input scale cancels."""
    return requantize_constants(2.0**-30 / np.float64(out_scale), bits)


def reference(x: torch.Tensor) -> torch.Tensor:
    """Float x / norm of x over the last axis.

    A row of zeros stays zero, and has the gradient of a norm of 1.
    """
    squares = x.square().sum(dim=-1, keepdim=True)
    return x / torch.where(squares > 0, squares, 1).sqrt()


l2_normalize = Operator("L2Normalize", compute)
