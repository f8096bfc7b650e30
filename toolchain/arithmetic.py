"""Arithmetic: the operator of a node and its constants, for everything but linear layers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from mnq.ops.attention.op import constants as attention_constants
from mnq.ops.errors import InputError
from mnq.ops.l2_normalize.op import constants as l2_constants
from mnq.ops.l2_normalize.op import l2_normalize
from mnq.ops.mean_tokens.op import constants as mean_constants
from mnq.ops.mean_tokens.op import mean_tokens
from mnq.ops.operator import Operator
from mnq.ops.qmatmul.op import qmatmul
from mnq.ops.registry import ATTENTION, GELU, LAYERNORM, SOFTMAX
from mnq.ops.requantize.op import Constants, requantize
from mnq.ops.requantize.op import constants as requantize_constants
from mnq.ops.requantize_add.op import constants as requantize_add_constants
from mnq.ops.requantize_add.op import requantize_add
from mnq.toolchain.graph import Graph, Node
from mnq.toolchain.heads import softmax_of
from mnq.toolchain.linear import LARGEST_BIAS
from mnq.toolchain.map import Choice
from mnq.toolchain.program import Codes
from mnq.toolchain.tensor_codes import TensorCodes

# Finer scores would change no weight by more than 1 part in 500, and leave the softmaxes' range.
_FINEST_SCORES = 2.0**-8
_MOST_TOKENS = 1 << 16  # of 16-bit codes


@dataclass(frozen=True)
class Arithmetic:
    """An operator with constants; reads: the codes that a site's non-linear function reads."""

    operator: Operator
    constants: Constants
    reads: Codes | None = None


def arithmetic(node: Node, graph: Graph, codes: TensorCodes, choice: Choice | None) -> Arithmetic:
    """What computes a node; choice: the method, at a site.

    Raises InputError where the operator cannot: its reason.
    """
    if node.op in _METHODS:
        assert choice is not None, "a site without a method"
        return _METHODS[node.op](node, codes, choice)
    return _OTHERS[node.op](node, graph, codes)


def _add(node: Node, _: Graph, codes: TensorCodes) -> Arithmetic:
    left, right = (codes.scale(name) / codes.scale(node.name) for name in node.inputs)
    constants = requantize_add_constants(left, right, codes.bits(node.name))
    return Arithmetic(requantize_add, constants)


def _matmul(node: Node, _: Graph, codes: TensorCodes) -> Arithmetic:
    product = codes.scale(node.inputs[0]) * codes.scale(node.inputs[1])
    constants = requantize_constants(product / codes.scale(node.name), codes.bits(node.name))
    return Arithmetic(qmatmul, {**constants, "bias": np.zeros((), np.int32)})


def _requantize(node: Node, _: Graph, codes: TensorCodes) -> Arithmetic:
    ratio = codes.scale(node.inputs[0]) / codes.scale(node.name)
    return Arithmetic(requantize, requantize_constants(ratio, codes.bits(node.name)))


def _normalize(node: Node, _: Graph, codes: TensorCodes) -> Arithmetic:
    constants = l2_constants(float(codes.scale(node.name)), codes.bits(node.name))
    return Arithmetic(l2_normalize, constants)


def _mean(node: Node, graph: Graph, codes: TensorCodes) -> Arithmetic:
    tokens = graph.nodes[node.inputs[0]].shape[1]
    if tokens > _MOST_TOKENS:
        raise InputError(
            f"export: expected a mean over at most {_MOST_TOKENS} tokens, found {tokens} in "
            f"module {node.module or '(top)'!r}; its sum would not fit 32 bits"
        )
    ratio = codes.scale(node.inputs[0]) / codes.scale(node.name)
    constants = mean_constants(float(ratio), tokens, codes.bits(node.name))
    return Arithmetic(mean_tokens, constants)


def _layernorm(node: Node, codes: TensorCodes, choice: Choice) -> Arithmetic:
    method = LAYERNORM[choice.method]
    weight, bias = (to_numpy(node.parameters[key]) for key in ("weight", "bias"))
    scale, bits = float(codes.scale(node.name)), codes.bits(node.name)
    constants = method.constants(weight, bias, scale, bits)
    return Arithmetic(method.operator, constants, codes.read(node.inputs[0]))


def _gelu(node: Node, codes: TensorCodes, choice: Choice) -> Arithmetic:
    method = GELU[choice.method]
    scales = float(codes.scale(node.inputs[0])), float(codes.scale(node.name))
    limits = codes.limits(node.name)
    # With all codes of 8 bits before them, limits of any offset are those of the quantizer.
    constants = method.constants(*scales, 8)
    if "table" in constants:
        constants["table"] = constants["table"].clip(*limits.values()).astype(np.int8)
    else:
        constants |= limits
    return Arithmetic(method.operator, constants, codes.read(node.inputs[0]))


def _attention(node: Node, codes: TensorCodes, choice: Choice) -> Arithmetic:
    q, k, v = (codes.scale(name) for name in node.inputs)
    product, quantizer, widths = q * k, softmax_of(node.name), codes.widths
    per_head = to_numpy(node.parameters.get("factor", torch.ones(()))).astype(np.float64)
    score_scale = np.float32(max(float(codes.scale(node.scores)), _FINEST_SCORES))
    constants = attention_constants(
        SOFTMAX[choice.method],
        choice.attention,
        product * node.settings["factor"] * per_head,
        score_scale,
        v,
        codes.scale(node.name),
        codes.bits(node.scores),
        widths.softmax(quantizer)[widths.parts.at(quantizer)],
    )
    constants |= codes.limits(node.name)
    bias = np.zeros((1, 1, 1, 1))
    if "bias" in node.parameters:
        bias = to_numpy(node.parameters["bias"]) / product
    if not np.abs(bias).max() < LARGEST_BIAS:  # nor NaN
        raise InputError(
            f"export: expected an attention bias below 2^30 accumulator steps, found "
            f"{float(np.abs(bias).max()):.3g} in module {node.module or '(top)'!r}; "
            "calibrate again"
        )
    constants["bias"] = np.rint(bias).astype(np.int32)
    operator = ATTENTION[choice.method][choice.attention]
    return Arithmetic(operator, constants, Codes(float(score_scale), codes.bits(node.scores)))


_METHODS: dict[str, Callable[[Node, TensorCodes, Choice], Arithmetic]] = {
    "layernorm": _layernorm,
    "gelu": _gelu,
    "attention": _attention,
}
_OTHERS: dict[str, Callable[[Node, Graph, TensorCodes], Arithmetic]] = {
    "add": _add,
    "matmul": _matmul,
    "requantize": _requantize,
    "normalize": _normalize,
    "mean": _mean,
}


def to_numpy(parameter: torch.Tensor) -> NDArray[np.float32]:
    """A parameter's values."""
    result: NDArray[np.float32] = parameter.detach().cpu().numpy()
    return result
