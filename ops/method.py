"""What a method must offer for each kind of site: the contracts of the registry.

A method is one published (or our own) integer approximation of Softmax, GELU or LayerNorm.
`reference` is the float function that it approximates; the STE backward differentiates it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from mnq.ops.integer import Integers, i64, last_length, shift_right, total
from mnq.ops.operator import Operator
from mnq.ops.requantize.op import Constants


@dataclass(frozen=True)
class SoftmaxMethod:
    """Softmax over the last axis, alone and inside Attention.

    operator: codes -> output codes; its inputs are q and the keys of `constants`.
    constants(scale, bits): constant inputs of `operator` for `bits` output bits.
    probability(code): int64 output codes -> unsigned probabilities P < 2^16.
    probability_scale(bits): value of one unit of P.
    largest_sum(P, ...): no row of P sums to more; its further inputs are those of `constants`.
    weigh(d, ...): d = q - row max -> weights 0..255 and the row's normalizer (spec 4.7), which
        they sum to, at most to 3/2 of it;
        its further inputs are the keys of `weight_constants`.
    weight_constants(scale, bits): those inputs, for weights 0..2^bits - 1, 8 bits by default;
        weights that are powers of two (fqvit) keep theirs.
    """

    prefix: str
    operator: Operator
    constants: Callable[[ArrayLike, int], Constants]
    probability: Callable[[Integers], Integers]
    probability_scale: Callable[[int], float]
    weigh: Callable[..., tuple[Integers, Integers]]
    weight_constants: Callable[..., Constants]
    reference: Callable[[torch.Tensor], torch.Tensor]
    largest_sum: Callable[..., Integers] = lambda p, *constants: total(p)


@dataclass(frozen=True)
class GeluMethod:
    """GELU on int8 codes, with the requantization that follows it.

    constants(scale, out_scale, bits): constant inputs for input codes at `scale` and
        `bits`-bit output codes at `out_scale`.
    raw: the operator before its requantization, on q and the constants that it names; None for
        a table, which has nothing between the exact function and its codes.
    """

    prefix: str
    operator: Operator
    constants: Callable[[float, float, int], Constants]
    reference: Callable[[torch.Tensor], torch.Tensor]
    raw: Callable[..., Integers] | None


@dataclass(frozen=True)
class LayerNormMethod:
    """LayerNorm over the last axis, with the requantization that follows it.

    constants(weight, bias, out_scale, bits): constant inputs for float32 weight and bias
        (C,) and `bits`-bit output codes at `out_scale`; the input scale cancels.
    raw: the operator before its requantization, on q and the constants that it names; at the
        output's scale if there is no m and e.
    """

    prefix: str
    operator: Operator
    constants: Callable[[Any, Any, float, int], Constants]
    reference: Callable[..., torch.Tensor]
    raw: Callable[..., Integers]


def largest_weight(bits: ArrayLike) -> NDArray[np.float64]:
    """The weight of a row's largest score, of `bits` unsigned bits."""
    return np.exp2(np.asarray(bits, np.float64)) - 1


def offset_probability(code: Integers) -> Integers:
    """The unsigned 16-bit probability of an int64 output code that was stored minus 2^15."""
    return code + 2**15


def offset_largest_sum(p: Integers, *constants: Integers) -> Integers:
    """What a row of such probabilities sums to at most: its entries are floors of 2^32 w / sum w
    shifted by `shift`, the last constant but `zp`.
    """
    *_, shift, zp = constants
    return shift_right(2**32, i64(shift)) + (2**15 - i64(zp)) * last_length(p)


def offset_probability_scale(bits: int) -> float:
    """Value of one unit of an unsigned probability of `bits` bits."""
    return 2.0**-bits


def softmax_reference(x: torch.Tensor) -> torch.Tensor:
    """Float softmax over the last axis."""
    return torch.nn.functional.softmax(x, dim=-1)


def gelu_reference(x: torch.Tensor) -> torch.Tensor:
    """Float GELU with the error function."""
    return torch.nn.functional.gelu(x)


def layernorm_reference(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """Float LayerNorm over the last axis, without epsilon, as the integer operators are.

    A row without variance gives `bias`, and the gradient of a deviation of 1.
    """
    centred = x - x.mean(dim=-1, keepdim=True)
    variance = centred.square().mean(dim=-1, keepdim=True)
    return centred / torch.where(variance > 0, variance, 1).sqrt() * weight + bias
