"""Biases of layers and of attention scores: in int32 whatever their size, or refused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from toolchain_harness import METHODS, Quantized, exact, sqnr, step
from toolchain_models import case

from mnq.toolchain import linear
from mnq.toolchain.build import build
from mnq.toolchain.edges import assign_edges
from mnq.toolchain.graph import Graph, Node
from mnq.toolchain.image import ImageInput
from mnq.toolchain.map import Map
from mnq.toolchain.program import Program

Refusal = Callable[..., str]


def one_layer(weight: np.ndarray[Any, Any], bias: np.ndarray[Any, Any]) -> Program:
    """A linear layer on a float image of 1 x 1 x K, with logits as its output."""
    inputs, outputs = weight.shape[1], weight.shape[0]
    parameters = {
        "weight": torch.from_numpy(weight.astype(np.float32)),
        "bias": torch.from_numpy(bias.astype(np.float32)),
    }
    nodes = [
        Node("input", "input", (), (-1, 1, 1, inputs), ""),
        Node("head", "linear", ("input",), (-1, 1, 1, outputs), "head", parameters),
    ]
    graph = Graph({node.name: node for node in nodes}, "input", "head")
    image = ImageInput("float", 2.0**-6, (0.0,), (1.0,), (1, 1, inputs))
    return build(graph, assign_edges(graph), {}, Map("one").widths(), {}, image)


MAGNITUDES = st.floats(-30, 30).map(lambda e: 2.0**e)


@exact
@given(st.lists(MAGNITUDES, min_size=1, max_size=4), MAGNITUDES, st.integers(1, 300), st.booleans())
def test_large_bias_over_small_weights_never_overflows(
    biases: list[float], size: float, inputs: int, negative: bool
) -> None:
    rng = np.random.default_rng(inputs)
    weight = rng.uniform(-size, size, (len(biases), inputs)).astype(np.float32)
    bias = np.float32(biases) * (-1 if negative else 1)
    (layer,) = one_layer(weight, bias).steps
    codes, offset = (np.asarray(layer.constants[k], np.int64) for k in ("w", "bias"))
    # 2^-23: the weight scale that the rule gives is rounded to float32.
    assert np.abs(offset).max() <= linear.LARGEST_BIAS * (1 + 2.0**-23)
    assert (128 * np.abs(codes).sum(axis=0) + np.abs(offset)).max() < 2**31
    # What the bias stands for is right to float32 precision, or to one accumulator step.
    plain = np.maximum(np.abs(weight).max(axis=1).astype(np.float64) / 127, 2.0**-23)
    steps = np.maximum(plain, np.abs(bias) / (2.0**-6 * linear.LARGEST_BIAS)) * 2.0**-6
    error = np.abs(offset * steps - bias)
    assert (error <= steps + np.abs(bias) * 2.0**-22).all()


def test_rule_for_large_biases_leaves_others_alone() -> None:
    weight = np.float32([[0.5, -1.0], [0.0625, 0.125]])
    (layer,) = one_layer(weight, np.float32([1.0, 2.0**20])).steps
    codes, offset = layer.constants["w"].T, layer.constants["bias"]
    assert codes[0].tolist() == [64, -127] and abs(int(offset[0])) < 2**20
    assert codes[1].tolist() == [1, 2] and int(offset[1]) == 2**30  # coarser by this rule


def with_position_bias(size: float) -> torch.nn.Module:
    draw = torch.Generator().manual_seed(2)
    bias = torch.randn(1, 2, 16, 16, generator=draw) * size

    def middle(m: Any, t: torch.Tensor) -> torch.Tensor:
        q, k, v = m.heads(t)
        return m.join(t, torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=bias))

    return case(middle)


@pytest.mark.parametrize("method", METHODS)
def test_position_bias_enters_the_scores(
    method: str, normalized: torch.Tensor, pixels: torch.Tensor
) -> None:
    found = Quantized(with_position_bias(1.5), normalized)
    program = found.program(method)
    codes = program.run(pixels)["context"]
    expected = found.values["context"].transpose(1, 2)  # the integers are token-major
    quality = sqnr(expected, codes.double() * step(program, "context").scale)
    assert quality > 12.0  # measured 16 (fqvit) to 32 dB; 8 dB without the bias


@pytest.mark.parametrize("size", [1e12, float("nan")])
def test_attention_bias_beyond_int32_is_refused(
    size: float, normalized: torch.Tensor, refusal: Refusal
) -> None:
    found = Quantized(with_position_bias(3.0), normalized)
    bias = found.graph.nodes["context"].parameters["bias"]
    bias[0, 1, 3, 3] = size
    assert "attention bias below 2^30" in refusal(found.program, "lut")
