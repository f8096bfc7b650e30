"""Moves: views change places with layers, and vanish; what the graph computes stays the same."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import toolchain_models as models
import torch
from hypothesis import given
from hypothesis import strategies as st
from toolchain_harness import Quantized, exact, returned, worst_error
from toolchain_models import Tokens, case
from torch import nn

from mnq.toolchain.evaluate import evaluate
from mnq.toolchain.graph import Graph, Node
from mnq.toolchain.moves import settle_moves, simplify_moves
from mnq.toolchain.rewrite import graph_of, nodes_of

FLOAT32_NOISE = 1e-5  # see test_capture.py

Middle = Callable[[Any, torch.Tensor], torch.Tensor]
Quantizations = Callable[[Callable[[], nn.Module]], Quantized]


def prepared(middle: Middle, normalized: torch.Tensor) -> Graph:
    """The graph of a case, which computes it."""
    model = case(middle)
    graph = models.prepared(lambda: model)
    with torch.no_grad():
        assert worst_error(evaluate(graph, normalized), model(normalized)) < FLOAT32_NOISE
    return graph


def ops(graph: Graph, first: str, last: str) -> list[str]:
    """The kinds of the nodes from one tensor to another, without constants."""
    names = list(graph.nodes)
    chosen = names[names.index(first) : names.index(last) + 1]
    return [graph.nodes[name].op for name in chosen if graph.nodes[name].op != "constant"]


# --- layers and moves change places ---


def cut(t: torch.Tensor) -> torch.Tensor:
    """Windows of 2x2 tokens, (4 B, 4, C)."""
    return t.reshape(-1, 2, 2, 2, 2, t.shape[-1]).transpose(2, 3).reshape(-1, 4, t.shape[-1])


def pasted(t: torch.Tensor) -> torch.Tensor:
    return t.reshape(-1, 2, 2, 2, 2, t.shape[-1]).transpose(2, 3).reshape(-1, 16, t.shape[-1])


def test_windows_are_cut_behind_the_layer_that_reads_them(normalized: torch.Tensor) -> None:
    graph = prepared(lambda m, t: pasted(m.qkv(cut(m.norm(t)))[..., :32]), normalized)
    assert graph.nodes["qkv"].inputs == ("norm",)
    assert graph.nodes["qkv"].shape == (-1, 16, 96)


def test_windows_are_pasted_before_the_layer_that_is_added(normalized: torch.Tensor) -> None:
    gelu = nn.functional.gelu

    def middle(m: Tokens, t: torch.Tensor) -> torch.Tensor:
        return t + pasted(m.proj(gelu(cut(m.norm(t)))))

    graph = prepared(middle, normalized)
    assert graph.nodes["proj"].inputs[1:] and graph.nodes["proj"].shape == (-1, 16, 32)
    assert "add" not in {node.op for node in graph}


def test_rolls_and_cuts_pass_the_layer_that_is_added(normalized: torch.Tensor) -> None:
    def middle(m: Tokens, t: torch.Tensor) -> torch.Tensor:
        more = torch.cat([t, t], 1)
        return t + m.proj(nn.functional.gelu(more)).roll(1, 1)[:, :16]

    graph = prepared(middle, normalized)
    assert ops(graph, "gelu", "proj") == ["gelu", "gather", "slice", "linear"]
    assert graph.nodes["proj"].inputs[1:] == ("reshape",)


def test_a_layer_that_nothing_is_added_to_keeps_its_place(normalized: torch.Tensor) -> None:
    graph = prepared(lambda m, t: m.proj(nn.functional.gelu(t)).roll(1, 1), normalized)
    assert ops(graph, "gelu", "gather") == ["gelu", "linear", "gather"]


def between_channels(m: Tokens, t: torch.Tensor) -> torch.Tensor:
    return m.proj(m.norm(t).roll(1, 2))


def across_channels(m: Tokens, t: torch.Tensor) -> torch.Tensor:
    return m.proj(m.norm(t).reshape(-1, 32, 16).transpose(1, 2))


def read_elsewhere(m: Tokens, t: torch.Tensor) -> torch.Tensor:
    moved = m.norm(t).roll(1, 1)
    return nn.functional.gelu(moved) + m.proj(moved)


def added_twice(m: Tokens, t: torch.Tensor) -> torch.Tensor:
    y = m.proj(nn.functional.gelu(t)).roll(1, 1)
    return t + y + y


@pytest.mark.parametrize(
    ("middle", "chain"),
    [
        (between_channels, ["layernorm", "gather", "linear"]),
        (across_channels, ["layernorm", "reshape", "transpose", "linear"]),
        (read_elsewhere, ["layernorm", "gather", "gelu"]),
        (added_twice, ["gelu", "linear", "gather"]),
    ],
)
def test_moves_that_others_read_or_that_mix_channels_stay(
    middle: Middle, chain: list[str], normalized: torch.Tensor
) -> None:
    graph = prepared(middle, normalized)
    last = "gather" if chain[-1] == "gather" else "proj"
    first = "gelu" if chain[0] == "gelu" else "norm"
    assert ops(graph, first, last)[: len(chain)] == chain


def test_the_norms_of_windows_are_read_by_layers_alone(quantizations: Quantizations) -> None:
    """Equalization needs that: it changes their channels and the layers' columns."""
    found = quantizations(models.windows)
    norms = [node.name for node in found.prepared if node.op == "layernorm"]
    merging = [name for name in norms if "blocks" not in name and name != "norm"]
    assert set(found.statistics.equalization) >= {n for n in norms if ".norm" in n} - {*merging}


# --- moves vanish ---


def chain_of(shape: tuple[int, ...], data: st.DataObject) -> list[Node]:
    """Random reshapes, transpositions and rolls of codes (B, *shape)."""
    nodes = [Node("input", "input", (), (-1, *shape), "")]
    for number in range(data.draw(st.integers(2, 5))):
        before = nodes[-1].shape
        kind = data.draw(st.sampled_from(["reshape", "transpose", "gather"]))
        settings: dict[str, Any] = {}
        after = before
        if kind == "transpose":
            perm = tuple(data.draw(st.permutations(range(len(before)))))
            settings, after = {"perm": perm}, tuple(before[axis] for axis in perm)
        elif kind == "gather":
            axis = data.draw(st.sampled_from([i for i, size in enumerate(before) if size != -1]))
            order = tuple(data.draw(st.permutations(range(before[axis]))))
            settings = {"axis": axis, "order": order}
        else:
            after = data.draw(
                st.sampled_from([(-1, 24), (-1, 4, 6), (-1, 3, 2, 4), (-1, 2), (8, -1)])
            )
        nodes.append(Node(f"n{number}", kind, (nodes[-1].name,), after, "", {}, settings))
    return nodes


@exact
@given(st.data())
def test_a_chain_that_keeps_the_order_is_one_reshape_and_others_are_left(
    data: st.DataObject,
) -> None:
    """Whatever is cut off the batch: the same values, and never more nodes."""
    chain = chain_of((4, 6), data)
    graph = Graph({node.name: node for node in chain}, "input", chain[-1].name)
    nodes = nodes_of(graph)
    simplify_moves(nodes)
    found = graph_of(nodes, "input")
    assert found.output == graph.output and len(found.nodes) <= len(chain)
    for batch in (4, 8):
        x = torch.arange(24 * batch).float().reshape(batch, 4, 6)
        (value,), (want,) = returned(found, x), returned(graph, x)
        assert torch.equal(value, want)
        if torch.equal(want.flatten(), x.flatten()) and len(chain) > 2:
            assert [node.op for node in found] == ["input", "reshape"]


def test_a_move_that_is_returned_is_not_simplified_away() -> None:
    names = ("a", "b", "c")
    perms = [(0, 2, 1), (0, 2, 1), (0, 2, 1)]
    nodes = [Node("input", "input", (), (-1, 4, 6), "")]
    for name, perm in zip(names, perms, strict=True):
        shape = tuple(nodes[-1].shape[axis] for axis in perm)
        nodes.append(Node(name, "transpose", (nodes[-1].name,), shape, "", {}, {"perm": perm}))
    graph = Graph({node.name: node for node in nodes}, "input", "c", ("a",))
    rewritten = nodes_of(graph)
    simplify_moves(rewritten)
    settle_moves(rewritten)
    found = graph_of(rewritten, "input")
    x = torch.randn(2, 4, 6)
    assert all(map(torch.equal, returned(found, x), returned(graph, x)))
    assert "a" in found.nodes and found.nodes["c"].op == "reshape"
