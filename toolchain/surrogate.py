"""The straight-through gradient of one node: of the float function that its integers approximate.

It is taken at the dequantized inputs and with the dequantized weights. The output's quantizer
passes it where it does not saturate and stops it where it does (Eq. 2 of the paper; spec 1.8), and
so does the quantizer of the scores inside attention.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from mnq.toolchain.evaluate import attention_scores, compute, hidden_scores
from mnq.toolchain.graph import Node
from mnq.toolchain.ranges import Ranges, scale_gradient


@dataclass(frozen=True)
class Quantizer:
    """How the codes of a tensor stand for values: their group, scale and limits."""

    group: str
    scale: float
    limits: tuple[int, int]


@dataclass(frozen=True)
class Read:
    """A tensor that a node reads: codes at a scale, or float values (of pixels) without one."""

    codes: torch.Tensor
    scale: float | None = None

    def values(self, precision: str) -> torch.Tensor:
        """Real values, in the dtype of `carrier`."""
        if self.scale is None:
            return self.codes.detach()
        return self.codes.to(carrier(self.codes, precision)).mul_(self.scale)


def carrier(codes: torch.Tensor, precision: str) -> torch.dtype:
    """What gradients of a tensor are carried in: 8-bit codes lose little in bfloat16."""
    low = precision == "bfloat16" and codes.dtype == torch.int8
    return torch.bfloat16 if low else torch.float32


@dataclass(frozen=True)
class Call:
    """One node of one forward pass; its parameters are the live ones.

    codes: of the output; weight: int8 codes (K, O) and scales (O,) of a linear layer on codes.
    output: the output's quantizer; scores: that of the scores inside attention.
    ranges: are told what the quantizers clip.
    """

    node: Node
    codes: torch.Tensor
    reads: list[Read]
    weight: tuple[torch.Tensor, torch.Tensor] | None
    output: Quantizer
    scores: Quantizer | None
    ranges: Ranges
    precision: str

    def groups(self) -> list[str]:
        """The quantizers whose scales get a gradient here, if they are learned."""
        return [self.output.group, *([] if self.scores is None else [self.scores.group])]

    def gradients(
        self, gradient: torch.Tensor, needed: tuple[bool, ...]
    ) -> list[torch.Tensor | None]:
        """Gradients for inputs, trained parameters and learned scales, None where not `needed`."""
        inputs = [read.values(self.precision).requires_grad_() for read in self.reads]
        node = replace(self.node, parameters=self._parameters())
        given = [*inputs, *node.parameters.values()]
        asked = needed[: len(given)]  # the rest are learned scales
        with torch.enable_grad(), self._autocast(gradient.device):
            if self.scores is not None:
                every, logs = self._attention(node, inputs, gradient)
                return [*(g if need else None for g, need in zip(every, asked, strict=True)), *logs]
            y = compute(node, inputs, gradient)
            passed, logs = self._through(y, self.output, gradient)
            wanted = [x for x, need in zip(given, asked, strict=True) if need]
            found = iter(torch.autograd.grad(y, wanted, passed) if wanted else ())
        return [*(next(found) if need else None for need in asked), *logs]

    def _attention(
        self, node: Node, inputs: list[torch.Tensor], gradient: torch.Tensor
    ) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Gradients for q, k, v and the bias, if any; for scales of the output and the scores."""
        assert self.scores is not None
        q, k, v = inputs
        scores = attention_scores(node, q, k).float()
        lo, hi = self.scores.limits
        codes = (scores.detach() / self.scores.scale).round_().clamp_(lo, hi)
        read = codes.mul_(self.scores.scale).requires_grad_()
        y = read.softmax(-1) @ v
        passed, logs = self._through(y, self.output, gradient)
        for_scores, for_v = torch.autograd.grad(y, [read, v], passed)
        passed, more = self._through(scores, self.scores, for_scores, hidden_scores(node))
        above = [q, k, *node.parameters.values()]
        for_q, for_k, *for_bias = torch.autograd.grad(scores, above, passed)
        return [for_q, for_k, for_v, *for_bias], [*logs, *more]

    def _parameters(self) -> dict[str, torch.Tensor]:
        """Leaves with the values that the integers have; their gradients are the parameters'."""
        leaves = {
            key: value.detach().requires_grad_() for key, value in self.node.parameters.items()
        }
        if self.weight is not None:
            codes, scales = self.weight
            values = codes.t().to(torch.float32) * scales.to(codes.device)[:, None]
            leaves["weight"] = values.requires_grad_()
        return leaves

    def _through(
        self,
        y: torch.Tensor,
        quantizer: Quantizer,
        gradient: torch.Tensor,
        hidden: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """The gradient that a quantizer passes to float values `y`, and its scale's if learned.

        hidden: elements that its range need not reach.
        """
        values = y.detach()
        self.ranges.observe(
            quantizer.group, values if hidden is None else values.masked_fill(hidden, 0)
        )
        lo, hi = quantizer.limits
        # What rounds to a code inside the limits passes; as the derivative of a clamp, in one go.
        ends = (lo - 0.5) * quantizer.scale, (hi + 0.5) * quantizer.scale
        gradient = gradient.to(y.dtype)
        passed = torch.ops.aten.hardtanh_backward(gradient, values, *ends)
        if quantizer.group not in self.ranges.learned:
            return passed, []
        return passed, [scale_gradient(values, quantizer.scale, (lo, hi), gradient)]

    def _autocast(self, device: torch.device) -> Any:
        low = self.precision == "bfloat16"
        return torch.autocast(device.type, torch.bfloat16, enabled=low)


class Exact(torch.autograd.Function):
    """A node in the autograd graph: `apply(call, *inputs, *parameters, *log_scales)`.

    The output has the right shape and no meaning: its values are the codes, beside it.
    """

    @staticmethod
    def forward(ctx: Any, call: Call, *tensors: torch.Tensor) -> torch.Tensor:
        """An output of the node's shape that takes no memory."""
        ctx.call = call
        dtype = carrier(call.codes, call.precision)
        return torch.zeros((), dtype=dtype, device=call.codes.device).expand(call.codes.shape)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        """The gradients of `Call.gradients`."""
        return None, *ctx.call.gradients(gradients[0], ctx.needs_input_grad[1:])
