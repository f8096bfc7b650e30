"""Prepare: fused operators, names, and the order of values; float results stay the same."""

from collections.abc import Callable
from typing import Any

import pytest
import toolchain_models as models
import torch
from toolchain_harness import worst_error
from toolchain_models import case
from torch import nn

from mnq.toolchain.capture import capture
from mnq.toolchain.evaluate import evaluate
from mnq.toolchain.graph import Graph, Node
from mnq.toolchain.prepare import prepare

FLOAT32_NOISE = 1e-5  # see test_capture.py

RAMP = torch.linspace(-2, 2, 256).reshape(1, 1, 16, 16)

Captured = Callable[..., Graph]


def attention(scores: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]) -> nn.Module:
    """A model whose attention has these scores, written out."""

    def middle(m: Any, t: torch.Tensor) -> torch.Tensor:
        q, k, v = m.heads(t)
        return m.join(t, scores(q, k).softmax(-1) @ v)

    return case(middle)


WRITTEN: dict[str, Callable[[torch.Tensor, torch.Tensor], torch.Tensor]] = {
    "plain": lambda q, k: q @ k.transpose(-1, -2),
    "scaled queries": lambda q, k: (q * 0.3) @ k.transpose(-1, -2),
    "scaled keys": lambda q, k: q @ (k * 0.3).transpose(-1, -2),
    "scaled transposed keys": lambda q, k: q @ (k.transpose(-2, -1) * 0.3),
    "scaled scores": lambda q, k: (q @ k.transpose(-1, -2)) / 3,
    "bias": lambda q, k: q @ k.transpose(-1, -2) + RAMP,
    "bias in front": lambda q, k: RAMP + q @ k.transpose(-1, -2),
    "bias, then scale": lambda q, k: (q @ k.transpose(-1, -2) + RAMP) * 0.3,
    "scale, then bias": lambda q, k: (q * 0.5) @ (k * 0.7).transpose(-1, -2) * 3.0 + RAMP,
    "bias between scales, twice": lambda q, k: (
        ((q * 0.4) @ k.transpose(-1, -2) + RAMP) * 0.5 + RAMP[..., :1]
    ),
}


@pytest.mark.parametrize("name", WRITTEN)
def test_written_attention_becomes_one_node_of_the_same_value(
    name: str, normalized: torch.Tensor
) -> None:
    model = attention(WRITTEN[name])
    graph = models.prepared(lambda: model)
    assert not [node for node in graph if node.op in ("softmax", "matmul", "scale")]
    (fused,) = [node for node in graph if node.op == "attention"]
    assert ("bias" in fused.parameters) == ("bias" in name)
    assert len({graph.nodes[read].settings["index"] for read in fused.inputs}) == 3
    with torch.no_grad():
        found, expected = evaluate(graph, normalized), model(normalized)
    assert worst_error(found, expected) < FLOAT32_NOISE


@pytest.mark.parametrize("heads", [2, 3])  # of 16 and 8 channels: 1/sqrt(d) exact and not
def test_fused_and_written_attention_of_timm_give_one_graph(heads: int) -> None:
    graphs = []
    for fused in (True, False):
        with models.fused_attention(fused):
            built = models.tiny(depth=2, num_heads=heads, embed_dim={2: 32, 3: 24}[heads])
            captured = capture(built, torch.zeros(2, 3, 32, 32))
            assert any(n.op == "softmax" for n in captured) == (not fused)
            graphs.append(prepare(captured))
    first, second = graphs
    assert list(first.nodes) == list(second.nodes)
    for a, b in zip(first, second, strict=True):
        assert (a.op, a.inputs, a.shape, a.module, a.site) == (
            *(b.op, b.inputs, b.shape, b.module, b.site),
        )
        assert a.settings == b.settings, a.name
        assert a.parameters.keys() == b.parameters.keys()
        assert all(torch.equal(value, b.parameters[k]) for k, value in a.parameters.items())
    assert (first.input, first.output) == (second.input, second.output)


def test_attention_reads_queries_keys_and_values_in_order(graph: Graph) -> None:
    fused = graph.nodes["blocks.1.attn.context"]
    assert [graph.nodes[name].settings["index"] for name in fused.inputs] == [0, 1, 2]
    assert fused.site == "blocks.1.attn.softmax"


def test_residual_additions_are_part_of_their_linear_layer(graph: Graph) -> None:
    residual = {n.name: n.inputs[1] for n in graph if n.op == "linear" and len(n.inputs) > 1}
    assert residual == {
        "blocks.0.attn.proj": "add",  # of the position embedding
        "blocks.0.mlp.fc2": "blocks.0.attn.proj",
        "blocks.1.attn.proj": "blocks.0.mlp.fc2",
        "blocks.1.mlp.fc2": "blocks.1.attn.proj",
    }
    assert [n.name for n in graph if n.op == "add"] == ["add"]


def test_layer_that_something_else_reads_keeps_its_own_tensor(normalized: torch.Tensor) -> None:
    def middle(m: Any, t: torch.Tensor) -> torch.Tensor:
        y = m.proj(m.norm(t))
        return t + y + m.norm(y)

    model = case(middle)
    graph = models.prepared(lambda: model)
    assert graph.nodes["proj"].inputs == ("norm",)
    with torch.no_grad():
        assert worst_error(evaluate(graph, normalized), model(normalized)) < FLOAT32_NOISE


def test_moves_that_keep_the_order_become_one_reshape(captured: Captured) -> None:
    graph = captured(models.tiny)
    readers = graph.consumers("patch_embed.proj")
    assert [(n.op, n.shape) for n in readers] == [("reshape", (-1, 16, 32))]


def test_moves_that_change_the_order_stay(graph: Graph) -> None:
    chain = [n for n in graph if n.module == "blocks.0.attn" and n.op == "transpose"]
    assert [n.settings["perm"] for n in chain] == [(2, 0, 3, 1, 4), (0, 2, 1, 3)]


def test_names_number_the_views_of_a_module(graph: Graph) -> None:
    names = [n.name for n in graph if n.module == "blocks.1.attn" and n.op == "select"]
    stem = "blocks.1.attn.select"
    assert names == [stem, f"{stem}_1", f"{stem}_2"]


def test_module_called_like_a_view_has_a_name_of_its_own(normalized: torch.Tensor) -> None:
    class Named(models.Tokens):
        def __init__(self) -> None:
            super().__init__()
            self.add_module("reshape", nn.Linear(32, 32))
            self.add_module("select", nn.LayerNorm(32))

        def middle(self, t: torch.Tensor) -> torch.Tensor:
            return self.get_submodule("select")(self.get_submodule("reshape")(self.norm(t)))

    model = models.randomize(Named())
    graph = models.prepared(lambda: model)
    assert all(name == node.name for name, node in graph.nodes.items())
    modules = [node.module for node in graph if node.op in ("linear", "layernorm")]
    assert modules == ["embed", "norm", "reshape", "select", "norm", "head"]
    with torch.no_grad():
        assert worst_error(evaluate(graph, normalized), model(normalized)) < FLOAT32_NOISE


def test_shared_module_has_a_tensor_and_a_site_for_every_call(normalized: torch.Tensor) -> None:
    model = case(lambda m, t: t + m.norm(t))
    graph = models.prepared(lambda: model)
    assert graph.sites() == {"norm": "layernorm", "norm_1": "layernorm"}
    with torch.no_grad():
        assert worst_error(evaluate(graph, normalized), model(normalized)) < FLOAT32_NOISE


def test_what_the_output_does_not_need_is_dropped() -> None:
    def middle(m: Any, t: torch.Tensor) -> torch.Tensor:
        m.proj(m.norm(t))
        return t

    assert "proj" not in models.prepared(lambda: case(middle)).nodes


def test_every_tensor_is_made_before_it_is_read(captured: Captured) -> None:
    for build in (models.tiny, models.distilled):
        seen: set[str] = set()
        for node in captured(build):
            assert seen.issuperset(node.inputs), node.name
            seen.add(node.name)


@pytest.mark.parametrize("fused", [True, False])
def test_prepare_leaves_the_captured_graph_alone(fused: bool) -> None:
    with models.fused_attention(fused):
        captured = capture(models.tiny(depth=1), torch.zeros(2, 3, 32, 32))
    before = [(node.name, node.op, node.inputs, node.site, {**node.settings}) for node in captured]
    sites = prepare(captured).sites()
    after = [(node.name, node.op, node.inputs, node.site, node.settings) for node in captured]
    assert after == before
    assert prepare(captured).sites() == sites


def test_product_with_a_constant_is_refused(refusal: Callable[..., str]) -> None:
    nodes = [
        Node("c", "constant", (), (4, 4), "", {"value": torch.eye(4)}),
        Node("input", "input", (), (-1, 4, 4), ""),
        Node("product", "matmul", ("input", "c"), (-1, 4, 4), "inner"),
    ]
    graph = Graph({node.name: node for node in nodes}, "input", "product")
    text = refusal(prepare, graph)
    assert "constant factor" in text and "'inner'" in text
