"""Probe: what a non-linear site of the integer program reads and writes, in real values.

It writes what the operator computes before the requantization that follows (spec 5.2). What an
attention operator reads is its scores, and it writes the probabilities.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from mnq.ops.attention.op import PROBABILITY_BITS, scores, unpack, unpack_windows
from mnq.ops.integer import INT16, gather, i64, row_max
from mnq.ops.registry import GELU, LAYERNORM, SOFTMAX
from mnq.toolchain.map import Choice
from mnq.toolchain.program import Codes, Step
from mnq.toolchain.quantizers import quantize


@dataclass(frozen=True)
class Probe:
    """Looks into the step of a site of `kind` that runs the method of `choice`."""

    step: Step
    kind: str
    choice: Choice

    @property
    def reads(self) -> Codes:
        """What the codes that the function reads mean."""
        assert self.step.reads is not None, "a step without a site"
        return self.step.reads

    def read(self, inputs: list[torch.Tensor]) -> torch.Tensor:
        """Codes that the function reads, int64, from the step's input tensors."""
        if self.kind == "softmax":
            bias, *rest = (self._constant(n) for n in ("bias", "m_s", "e_s", "lo_s", "hi_s"))
            if "order" in self.step.constants:
                q, k, _ = unpack_windows(inputs[0], self._constant("order"))
                bias = gather(bias, self._constant("kind"))
            else:
                q, k, _ = unpack(*inputs) if len(inputs) == 1 else inputs
            return i64(scores(q, k, bias, *rest, rank=q.ndim))
        return i64(inputs[0])

    def value(self, codes: torch.Tensor) -> torch.Tensor:
        """Real values (float64) of codes that the function reads."""
        return codes.double() * self.reads.scale

    def quantize(self, x: torch.Tensor) -> torch.Tensor:
        """Codes (int64) of float values of what the function reads."""
        return quantize(x, self.reads.scale, self.reads.bits).long()

    def write(self, codes: torch.Tensor) -> torch.Tensor:
        """Real values (float64) of what the function makes of codes."""
        if self.kind == "softmax":
            return self._softmax(codes)
        if self.kind == "gelu":
            gelu = GELU[self.choice.method]
            if gelu.raw is None:
                return gelu.reference(self.value(codes))
            return self._raw(gelu.raw, codes)
        return self._raw(LAYERNORM[self.choice.method].raw, codes)

    def _softmax(self, codes: torch.Tensor) -> torch.Tensor:
        method = SOFTMAX[self.choice.method]
        if self.choice.attention == "deferred":
            names = method.weight_constants(np.float32(0.125))
            weights, normalizer = method.weigh(codes - row_max(codes), *map(self._constant, names))
            return weights.double() / normalizer.double()
        names = method.constants(np.float32(0.125), PROBABILITY_BITS)
        attributes = {"to": INT16} if method.operator.attributes else {}
        code = method.operator(codes, *map(self._constant, names), **attributes)
        scale = method.probability_scale(PROBABILITY_BITS)
        return method.probability(i64(code)).double() * scale

    def _raw(self, raw: Callable[..., torch.Tensor], codes: torch.Tensor) -> torch.Tensor:
        names = list(inspect.signature(raw).parameters)[1:]
        value = raw(codes, *map(self._constant, names)).double()
        if "m" in self.step.constants:
            m, e = (self._constant(name).double() for name in ("m", "e"))
            value = value * (m * torch.exp2(-e))
        assert isinstance(self.step.scale, float), "only attention has several"
        return value * self.step.scale

    def _constant(self, name: str) -> torch.Tensor:
        return torch.from_numpy(np.asarray(self.step.constants[name]))
