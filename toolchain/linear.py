"""A linear layer in integers: one product, or a sum of one for each head (Q-ViT, Eq. 10).

Codes whose scale changes along the layer's input cannot be summed in one accumulator. Each run of
equal scales is then a layer of its own, rescaled and added to what is before it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from mnq.ops.operator import Operator
from mnq.ops.qlinear.op import qlinear, qlinear_add
from mnq.ops.requantize.op import Constants
from mnq.ops.requantize.op import constants as requantize_constants
from mnq.ops.requantize_add.op import constants as requantize_add_constants
from mnq.toolchain.edges import RESIDUAL_BITS
from mnq.toolchain.heads import Index
from mnq.toolchain.program import Inputs, Weight
from mnq.toolchain.quantizers import quantize

LARGEST_BIAS = 2.0**30
"""Accumulator and bias together stay in int32."""
_SUM_BITS = 13  # of 16 in a sum of products: eight times the output's range, for what cancels


@dataclass(frozen=True)
class Product:
    """An operator on some columns of a layer's input; `above`: whether it adds what is before it.

    scale: of its output, one number or one for each channel; bits: of its codes.
    """

    columns: slice
    operator: Operator
    constants: Inputs
    above: bool
    scale: NDArray[np.float64]
    bits: int


@dataclass(frozen=True)
class Layer:
    """A layer with a float weight (O, K) and bias (O,), float64.

    scale, bits: of the weight, they broadcast to it; input_scale: one number, or (K,).
    """

    weight: torch.Tensor
    bias: NDArray[np.float64]
    scale: NDArray[np.float32]
    bits: NDArray[np.int64]
    input_scale: NDArray[np.float64]

    def quantized(self) -> Weight:
        """The weight's codes and their scales."""
        # A channel with a large bias and tiny weights gets coarser weights, not an overflow.
        least = np.abs(self.bias) / (self.input_scale.flat[0] * LARGEST_BIAS)
        scale = np.maximum(self.scale, least[:, None]).astype(np.float32)
        return Weight(quantize(self.weight, scale, self.bits).to(torch.int8), scale)

    def products(
        self,
        weight: Weight,
        columns: list[slice],
        out: tuple[NDArray[np.float64], int, Constants],
        residual: NDArray[np.float64] | None,
    ) -> Iterator[Product]:
        """The layer's products, for `columns` of equal scales; the last makes the output.

        out: its scale, bits and limits; residual: scale of what is added, if anything is. A sum has
        16 bits: those of the residual stream, or finer codes than the output's.
        """
        out_scale, bits, limits = out
        codes, inner = weight.codes, weight.codes.shape[1]
        scale = np.broadcast_to(weight.scale, codes.shape)
        input_scale = np.broadcast_to(self.input_scale, (inner,))
        wide = out_scale if bits > 8 else out_scale * 2.0 ** (bits - _SUM_BITS)
        above = residual
        for part in columns:
            last = part.stop == inner
            target, width = (out_scale, bits) if last else (wide, RESIDUAL_BITS)
            accumulators = scale[:, part.start].astype(np.float64) * input_scale[part.start]
            bias = self.bias if part.start == 0 else np.zeros_like(self.bias)
            constants: Constants = {"bias": np.rint(bias / accumulators).astype(np.int32)}
            ratio = accumulators / target
            if above is None:
                constants |= requantize_constants(ratio, width)
            else:
                constants |= requantize_add_constants(ratio, above / target, width)
            constants |= limits if last else {}
            inputs: Inputs = {"w": codes[:, part].t().contiguous(), **constants}
            operator = qlinear if above is None else qlinear_add
            yield Product(part, operator, inputs, above is not None, target, width)
            above = target


def runs(rows: list[Index], inner: int) -> list[slice]:
    """Runs of the `inner` columns in which none of `rows` (K,), or one number, changes."""
    changes = np.zeros(inner - 1, bool)
    for row in rows:
        every = np.broadcast_to(row, (inner,))
        changes |= every[1:] != every[:-1]
    ends = [0, *(np.flatnonzero(changes) + 1).tolist(), inner]
    return [slice(a, b) for a, b in itertools.pairwise(ends)]
