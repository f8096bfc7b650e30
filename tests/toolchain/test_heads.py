"""Heads: which channels are whose, in every layout."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import toolchain_models as models
import torch

from mnq.toolchain.graph import Graph
from mnq.toolchain.heads import find_parts, sizes_of_one_image, softmax_of, weight_of

QKV, CONTEXT, PROJ = "blocks.0.attn.qkv", "blocks.0.attn.context", "blocks.0.attn.proj"


def test_the_paper_cuts_what_makes_a_head_and_what_reads_it(graph: Graph) -> None:
    """Two heads of 16 channels: of q, k and v one after the other."""
    parts = find_parts(graph, "paper")
    assert parts.counts[QKV] == parts.counts[weight_of(QKV)] == 6
    np.testing.assert_array_equal(parts.index[QKV], np.arange(96) // 16)
    np.testing.assert_array_equal(parts.index[weight_of(QKV)], np.arange(96)[:, None] // 16)
    q, k, v = graph.nodes[CONTEXT].inputs
    assert [parts.index[name].ravel().tolist() for name in (q, k, v)] == [[0, 1], [2, 3], [4, 5]]
    assert parts.index[softmax_of(CONTEXT)].shape == (2, 1, 1)
    read = graph.nodes[PROJ].inputs[0]
    np.testing.assert_array_equal(parts.index[read], np.arange(32) // 16)
    np.testing.assert_array_equal(parts.index[weight_of(PROJ)], np.arange(32)[None] // 16)


def test_the_published_code_cuts_the_other_axes(graph: Graph) -> None:
    parts = find_parts(graph, "published")
    weight = parts.index[weight_of(QKV)]
    assert weight.shape == (96, 32)
    np.testing.assert_array_equal(weight[0], np.arange(32) // 16)  # of q
    np.testing.assert_array_equal(weight[95], 4 + np.arange(32) // 16)  # of v
    np.testing.assert_array_equal(parts.index[weight_of(PROJ)], np.arange(32)[:, None] // 16)
    assert parts.tensors[QKV].tolist() == [0, 0, 1, 1, 2, 2]


def test_without_heads_everything_is_in_one_part(graph: Graph) -> None:
    parts = find_parts(graph, "none")
    assert (parts.counts, parts.index, parts.count(QKV)) == ({}, {}, 1)
    assert parts.at(QKV).shape == ()


@pytest.mark.parametrize("build", [models.windows, models.distilled, models.relative_positions])
def test_every_head_of_other_models_is_found(
    build: Callable[[], torch.nn.Module], captured: Callable[..., Graph]
) -> None:
    """Windows beside the images, windows among the heads, a bias on the scores."""
    graph = captured(build)
    parts, sizes = find_parts(graph, "paper"), sizes_of_one_image(graph)
    attention = [node for node in graph if node.op == "attention"]
    assert attention
    for node in attention:
        index = parts.index[softmax_of(node.name)]
        assert index.shape == (node.shape[1], 1, 1)
        assert int(index.max()) + 1 == parts.counts[node.name] > 1
        for name in (*node.inputs, node.name):
            np.broadcast_to(parts.index[name], sizes[name][1:])
        assert len(np.unique(parts.index[node.inputs[0]])) == parts.counts[node.name]


def test_a_tensor_that_others_read_too_stays_whole() -> None:
    def middle(m: Any, t: torch.Tensor) -> torch.Tensor:
        q, k, v = m.heads(t)
        t = m.join(t, (q @ k.transpose(-1, -2) * 0.25).softmax(-1) @ v)
        return t + v.transpose(1, 2).reshape(t.shape)

    graph = models.prepared(lambda: models.case(middle))
    (node,) = [node for node in graph if node.op == "attention"]
    parts = find_parts(graph, "paper")
    assert all(parts.count(name) == 1 for name in node.inputs)
    assert parts.index == {}


def test_an_unknown_layout_is_refused(graph: Graph, refusal: Callable[..., str]) -> None:
    assert "expected paper or published or none" in refusal(find_parts, graph, "x")
