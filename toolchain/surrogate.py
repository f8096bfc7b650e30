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

from mnq.ops.ste import straight_through
from mnq.toolchain.evaluate import attention_scores, compute, hidden_scores
from mnq.toolchain.graph import Node
from mnq.toolchain.heads import softmax_of
from mnq.toolchain.program import Weight
from mnq.toolchain.ranges import Quantizer, Ranges


@dataclass(frozen=True)
class Read:
    """A tensor that a node reads: codes at a scale, one or one for each feature; or float values
    (of pixels) without one.
    """

    codes: torch.Tensor
    scale: float | torch.Tensor | None = None

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
class LearnedWeight:
    """The quantizer of a linear layer's weight, if it is learned.

    fold: what the weight (O, K) is multiplied by before it is quantized, (K,), or one number.
    """

    quantizer: Quantizer
    fold: float | torch.Tensor


@dataclass(frozen=True)
class Call:
    """One node of one forward pass; its parameters are the live ones.

    codes: of the output; weight: of a linear layer on codes, as they stand for it.
    output: the output's quantizer; scores: that of the scores inside attention; softmax: bits of
    its weights, (H, 1, 1), if they are learned.
    ranges: are told what the quantizers clip.
    """

    node: Node
    codes: torch.Tensor
    reads: list[Read]
    weight: Weight | None
    output: Quantizer
    scores: Quantizer | None
    ranges: Ranges
    precision: str
    learned_weight: LearnedWeight | None = None
    softmax: torch.Tensor | None = None

    def groups(self) -> list[str]:
        """The quantizers that get gradients here, if they are learned."""
        found = [self.output.group]
        if self.learned_weight is not None:
            found.append(self.learned_weight.quantizer.group)
        if self.scores is not None:
            found.append(self.scores.group)
        if self.softmax is not None:
            found.append(softmax_of(self.node.name))
        return found

    def gradients(
        self, gradient: torch.Tensor, needed: tuple[bool, ...]
    ) -> list[torch.Tensor | None]:
        """Gradients for inputs, trained parameters and quantizers, None where not `needed`."""
        inputs = [read.values(self.precision).requires_grad_() for read in self.reads]
        node = replace(self.node, parameters=self._parameters())
        given = [*inputs, *node.parameters.values()]
        asked = needed[: len(given)]  # the rest are the quantizers'
        with torch.enable_grad(), self._autocast(gradient.device):
            if self.scores is not None:
                every, logs = self._attention(node, inputs, gradient)
                return [*(g if need else None for g, need in zip(every, asked, strict=True)), *logs]
            y = compute(node, inputs, gradient)
            passed, logs = self._through(y, self.output, gradient)
            wanted = [x for x, need in zip(given, asked, strict=True) if need]
            found = iter(torch.autograd.grad(y, wanted, passed) if wanted else ())
        result = [next(found) if need else None for need in asked]
        if self.learned_weight is not None:
            place = len(inputs) + list(node.parameters).index("weight")
            result[place], more = self._weight(self.learned_weight, result[place])
            logs = [*logs, *more]
        return [*result, *logs]

    def _weight(
        self, learned: LearnedWeight, gradient: torch.Tensor | None
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """The gradients of a weight and of its quantizer, which saw it folded."""
        weight = self.node.parameters["weight"].detach()
        assert gradient is not None, "a weight that does not train"
        values = weight * learned.fold
        passed, more = self.ranges.through(learned.quantizer, values, gradient / learned.fold)
        return passed * learned.fold, more

    def _attention(
        self, node: Node, inputs: list[torch.Tensor], gradient: torch.Tensor
    ) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        """Gradients for q, k, v and the bias, if any; for the output, the scores, the softmax."""
        assert self.scores is not None
        q, k, v = inputs
        scores = attention_scores(node, q, k).float()
        lo, hi = self.scores.limits
        codes = (scores.detach() / self.scores.scale).round_().clamp_(lo, hi)
        read = codes.mul_(self.scores.scale).requires_grad_()
        p = read.softmax(-1)
        if self.softmax is not None:
            p = straight_through(p, weights_of_bits(read, self.softmax))
        y = p @ v
        passed_out, logs = self._through(y, self.output, gradient)
        for_scores, for_v = torch.autograd.grad(y, [read, v], passed_out)
        passed, more = self._through(scores, self.scores, for_scores, hidden_scores(node))
        above = [q, k, *node.parameters.values()]
        for_q, for_k, *for_bias = torch.autograd.grad(scores, above, passed)
        logs += more
        if self.softmax is not None:
            bits, values = self.softmax, v.detach().transpose(-1, -2)
            logs += self.ranges.through_softmax(
                softmax_of(node.name), lambda: (passed_out @ values).mul_(softmax_slope(read, bits))
            )
        return [for_q, for_k, for_v, *for_bias], logs

    def _parameters(self) -> dict[str, torch.Tensor]:
        """Leaves with the values that the integers have; their gradients are the parameters'."""
        leaves = {
            key: value.detach().requires_grad_() for key, value in self.node.parameters.items()
        }
        if self.weight is not None:
            values = self.weight.values()
            if self.learned_weight is not None:
                values = values / self.learned_weight.fold
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
        return self.ranges.through(quantizer, values, gradient.to(y.dtype))

    def _autocast(self, device: torch.device) -> Any:
        low = self.precision == "bfloat16"
        return torch.autocast(device.type, torch.bfloat16, enabled=low)


def weights_of_bits(scores: torch.Tensor, bits: torch.Tensor) -> torch.Tensor:
    """The softmax of `scores` with weights 0..2^bits - 1 relative to the row's largest (spec 4.7).

    bits: broadcasts to the scores, fractions allowed.
    """
    return _of_exponentials(_exponentials(scores), bits)


def softmax_slope(scores: torch.Tensor, bits: torch.Tensor) -> torch.Tensor:
    """How `weights_of_bits` changes with the bits: from one fewer to one more.

    The gradient that other quantizers have (spec 6.2) is of what they clip; here nothing is.
    """
    exponentials = _exponentials(scores)
    more, fewer = (_of_exponentials(exponentials, bits + step) for step in (1, -1))
    return more.sub_(fewer).div_(2)


def _exponentials(scores: torch.Tensor) -> torch.Tensor:
    return (scores.detach() - scores.detach().amax(-1, keepdim=True)).exp_()


def _of_exponentials(exponentials: torch.Tensor, bits: torch.Tensor) -> torch.Tensor:
    weights = (exponentials * (torch.exp2(bits) - 1)).round_()
    return weights.div_(weights.sum(-1, keepdim=True))


class Exact(torch.autograd.Function):
    """A node in the autograd graph: `apply(call, *inputs, *parameters, *quantizers)`.

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
