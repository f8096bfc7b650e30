"""Ranges: the scale of every quantizer while a model trains (spec 1.3, 6.2).

`ema`: each range follows the running mean of the batches' largest values, as I-ViT has it. What
calibration clipped stays clipped: a range is its calibrated share of that mean. `learned`: the
scales of the b-bit groups are parameters with the gradient of LSQ; the 16-bit residual stream
still follows the mean. The scale in use is a bf16 number: a range's rounded up, as calibration
has it, a learned one the nearest.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import distributed

from mnq.toolchain.calibrate import Statistics, ranges
from mnq.toolchain.edges import Edges
from mnq.toolchain.quantizers import activation_scale
from mnq.toolchain.widths import Widths

KINDS = ("ema", "learned")

MOMENTUM = 0.95
SMALLEST_LOG = -23.0
"""log2 of the smallest scale (spec 1.1)."""


@dataclass(frozen=True)
class Quantizer:
    """How the codes of a tensor stand for values: group, scale and limits.

    scale: one number, or one for each feature; tensor: that they are of, or the weight; batched:
    whether its first axis is that of the images.
    """

    group: str
    scale: float | torch.Tensor
    limits: tuple[int, int]
    tensor: str = ""
    batched: bool = True


class Ranges(torch.nn.Module):
    """Scales by quantizer group, from calibration `statistics`.

    Raises InputError for an unknown calibration method or form, as calibration does.
    """

    largest: torch.Tensor  # float64, per group: the largest value that is represented
    share: torch.Tensor  # float64, per group: how much that is of the largest value there is
    seen: torch.Tensor  # float32, per group: the largest value since the last update

    def __init__(
        self,
        statistics: Statistics,
        edges: Edges,
        bits: int,
        method: str = "mse",
        form: str = "ivit",
        learned: bool = False,
    ) -> None:
        super().__init__()
        found = ranges(statistics, edges, bits, method, form)
        self.form = form
        self.widths = {group: edges.bits(group, bits) for group in found}
        self.index = {group: number for number, group in enumerate(found)}
        tops = [statistics.histograms[group].largest for group in found]
        shares = [a / top if top > 0 else 1.0 for a, top in zip(found.values(), tops, strict=True)]
        self.register_buffer("largest", torch.tensor([*found.values()], dtype=torch.float64))
        self.register_buffer("share", torch.tensor(shares, dtype=torch.float64))
        self.register_buffer("seen", torch.zeros(len(found)), persistent=False)
        wanted = [group for group in found if learned and edges.kinds[group] == "activation"]
        self.learned = {group: number for number, group in enumerate(wanted)}
        logs = [math.log2(activation_scale(found[g], self.widths[g], form)) for g in wanted]
        self.log_scale = torch.nn.Parameter(torch.tensor(logs)) if wanted else None

    def calibrated(self) -> dict[str, np.float32]:
        """A bf16 scale for every group from its present range, as `calibrate.scales` gives."""
        tops = self.largest.tolist()
        return {
            group: activation_scale(tops[number], self.widths[group], self.form)
            for group, number in self.index.items()
        }

    def scales(self) -> Mapping[str, NDArray[np.float32] | np.float32]:
        """A bf16 scale for every group, learned or from its range."""
        result = self.calibrated()
        if self.log_scale is not None:
            logs = self.log_scale.detach().cpu().double().clamp_min(SMALLEST_LOG)
            learned = torch.exp2(logs).to(torch.bfloat16).float().numpy()
            result |= {group: learned[number] for group, number in self.learned.items()}
        return result

    def bit_widths(self, uniform: Widths) -> Widths:
        """The bits of every quantizer: here those of the map."""
        return uniform

    def inputs(self) -> dict[str, list[torch.Tensor]]:
        """What autograd trains of each quantizer: log2 of its scale, if it is learned."""
        if self.log_scale is None:
            return {}
        logs = self.log_scale.unbind()
        return {group: [log] for group, log in zip(self.learned, logs, strict=True)}

    def through(
        self, quantizer: Quantizer, values: torch.Tensor, gradient: torch.Tensor
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """The gradient that a quantizer passes to float `values`, and those of its `inputs`."""
        lo, hi = quantizer.limits
        scale = float(quantizer.scale)
        # What rounds to a code inside the limits passes; as the derivative of a clamp, in one go.
        ends = (lo - 0.5) * scale, (hi + 0.5) * scale
        passed = torch.ops.aten.hardtanh_backward(gradient, values, *ends)
        if quantizer.group not in self.learned:
            return passed, []
        return passed, [scale_gradient(values, scale, (lo, hi), gradient)]

    def through_softmax(
        self, quantizer: str, slopes: Callable[[], torch.Tensor]
    ) -> list[torch.Tensor]:
        """Gradients for the `inputs` of a softmax's weights, from the slopes of every weight."""
        return []

    def observe(self, group: str, values: torch.Tensor) -> None:
        """Note the largest magnitude of float `values`, before their quantizer clips them."""
        if group in self.index and group not in self.learned:
            low, high = torch.aminmax(values)
            number = self.index[group]
            self.seen[number] = torch.maximum(self.seen[number], torch.maximum(-low, high))

    def update(self) -> None:
        """After a step: move the ranges toward what was observed, in all processes alike."""
        if distributed.is_available() and distributed.is_initialized():
            distributed.all_reduce(self.seen, op=distributed.ReduceOp.MAX)
        seen = self.seen.double()
        moved = MOMENTUM * self.largest + (1 - MOMENTUM) * seen * self.share
        self.largest.copy_(torch.where(seen > 0, moved, self.largest))
        self.seen.zero_()


def scale_gradient(
    values: torch.Tensor, scale: float, limits: tuple[int, int], gradient: torch.Tensor
) -> torch.Tensor:
    """dL / d log2(scale) of quantized float `values`, for the `gradient` of their codes' values.

    LSQ: rne(v / S) - v / S inside the limits, the limit outside; over the square root of the
    features of one image times the largest code, and times S ln 2 for the logarithm (spec 6.2).
    """
    lo, hi = limits
    ratio = values / scale
    inside = torch.ops.aten.hardtanh_backward(ratio, ratio, lo, hi)  # 0 outside, in one go
    error = ratio.round_().clamp_(lo, hi).sub_(inside).mul_(gradient)
    features = values[0].numel() if values.ndim > 1 else values.numel()
    factor = scale * math.log(2.0) / math.sqrt(features * hi)
    return error.sum(dtype=torch.promote_types(error.dtype, torch.float32)) * factor
