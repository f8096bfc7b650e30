"""LSQ, LSQ+ and Q-ViT's quantizer: gradients of scale, bit-width and offset, and a start by MSE.

x_hat = S * clamp(rne(x / S), lo, hi) with hi = lo + 2^b - 1. LSQ (Esser et al., 2020) learns S,
LSQ+ (Bhalgat et al., 2020) an offset too, Q-ViT (Li et al., 2022) also b (spec 6.1, 6.2).

An offset is -lo * S here: a whole number of steps, so that it needs no arithmetic when deployed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import torch

_SETTLED = 1e-5  # relative change of a scale in `least_square_scale`
_MOST_ROUNDS = 200
_NOTHING = 1e-30  # below the distance of any ratio to an end that it is outside of


def sum_by_part(values: torch.Tensor, index: torch.Tensor, parts: int) -> torch.Tensor:
    """Sums (P,), float32, over the features that have each part in `index`, and all else.

    Those of a row or a feature are rounded to the values' dtype: float32 would copy every value.
    """
    if index.ndim == 0:
        return values.sum(-1).sum(dtype=torch.float32).reshape(1)
    rows = values.sum_to_size(index.shape).float().reshape(-1)
    return rows.new_zeros(parts).index_add_(0, index.reshape(-1), rows)


@dataclass(frozen=True)
class Grid:
    """The codes of a quantizer: tensors that broadcast to the values, all of their dtype.

    scale: value of a step; lo: smallest code; bits; index (int64): the part of each feature,
    `parts` of them in all, single numbers if there is one; unsigned: codes begin at lo whatever the
    width, which then has one bit more for what is above.
    """

    scale: torch.Tensor
    lo: torch.Tensor
    bits: torch.Tensor
    index: torch.Tensor
    parts: int = 1
    unsigned: bool = False

    @property
    def hi(self) -> torch.Tensor:
        """Largest code."""
        return self.lo + torch.exp2(self.bits) - 1

    @cached_property
    def ends(self) -> tuple[float, float] | tuple[torch.Tensor, torch.Tensor]:
        """Smallest and largest code: numbers if there is one part, which is faster."""
        return (self.lo, self.hi) if self.index.ndim else (float(self.lo), float(self.hi))

    def codes(self, values: torch.Tensor) -> torch.Tensor:
        """The codes of float values, of their dtype."""
        return (values / self.scale).round_().clamp_(*self.ends)

    def by_part(self, values: torch.Tensor) -> torch.Tensor:
        """Sums (P,) of `values` over the features of each part and everything else."""
        return sum_by_part(values, self.index, self.parts)

    def of_part(self, values: torch.Tensor) -> torch.Tensor:
        """What each part (P,) has of `values`, which are equal within a part."""
        rows = values.expand(self.index.shape).reshape(-1)
        return rows.new_zeros(self.parts).index_copy_(0, self.index.reshape(-1), rows)

    def inside(self, ratio: torch.Tensor, *values: torch.Tensor) -> list[torch.Tensor]:
        """Each of `values` where a ratio to the scale is inside the limits, 0 elsewhere."""
        # The derivative of a clamp, in one go: ten times faster than a mask on a CPU. It has limits
        # for all; what parts have of their own is taken off first, which leaves zero inside.
        ends = self.ends
        if self.index.ndim:
            lo, hi = (torch.nextafter(end, torch.zeros_like(end)) for end in (self.lo, self.hi))
            ratio, ends = ratio - ratio.clamp(lo, hi), (-_NOTHING, _NOTHING)
        return [torch.ops.aten.hardtanh_backward(each, ratio, *ends) for each in values]


@dataclass(frozen=True)
class Gradients:
    """Of a loss, for what a quantizer reads (as it) and learns (P,)."""

    values: torch.Tensor
    scale: torch.Tensor
    bits: torch.Tensor
    offset: torch.Tensor


def gradients(
    values: torch.Tensor, grid: Grid, gradient: torch.Tensor, of_bits: bool = True
) -> Gradients:
    """The gradients of spec 6.2, for float `values` and the `gradient` of their codes' values.

    values: nothing where the quantizer clips. scale: rne(x/S) - x/S inside, the end outside
    (counted from lo with an offset). bits: ln 2 * 2^(b-1) * S (2^b if unsigned) for what is clipped
    above, minus the same for what is clipped below if both ends move. offset: of what is clipped.
    The scale's is not yet divided as LSQ has it (`step_factor`). of_bits: without, theirs is 0.
    """
    ratio = values / grid.scale
    passed, exact = grid.inside(ratio, gradient, ratio)
    outside = gradient - passed
    clipped = grid.by_part(outside)
    above = torch.ops.aten.threshold_backward(outside, ratio, 0.0) if of_bits else None
    error = ratio.round_().clamp_(*grid.ends).sub_(exact).mul_(gradient)
    for_scale = grid.by_part(error)
    step, bits = grid.of_part(grid.scale), grid.of_part(grid.bits)
    if grid.unsigned:
        for_scale = for_scale - grid.of_part(grid.lo) * clipped
    for_bits = torch.zeros_like(step)
    if above is not None:
        high, span = grid.by_part(above), torch.exp2(bits)
        ends = span * high if grid.unsigned else span / 2 * (2 * high - clipped)
        for_bits = math.log(2.0) * step * ends
    return Gradients(passed, for_scale, for_bits, clipped)


def step_factor(features: torch.Tensor, largest: torch.Tensor) -> torch.Tensor:
    """LSQ's g = 1 / sqrt(features * largest code), for the features of one image or weight."""
    return 1 / torch.sqrt(features * largest.clamp_min(1))


def least_square_scale(
    values: torch.Tensor, bits: int, unsigned: bool = False, offset: bool = False
) -> tuple[float, float]:
    """The scale and offset that nearly minimize the squared error (spec 6.4): (S, beta).

    From max|x| / hi in turns: the codes, then the scale, and the offset, that fit these best.
    """
    x = values.detach().reshape(-1).double()
    lo, hi = (0, 2**bits - 1) if unsigned else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    beta = float(x.min()) if offset else 0.0
    scale = float((x - beta).abs().max()) / hi
    if scale == 0:
        return 0.0, beta
    for _ in range(_MOST_ROUNDS):
        q = ((x - beta) / scale).round_().clamp_(lo, hi)
        power = float(q.square().sum())
        if power == 0:
            break
        before, scale = scale, float(((x - beta) * q).sum()) / power
        if offset:
            beta = float((x - scale * q).mean())
        if abs(scale - before) <= _SETTLED * before:
            break
    return scale, beta
