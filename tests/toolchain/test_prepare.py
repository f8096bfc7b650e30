"""Prepare: fused operators, names, and the order of values; float results stay the same."""

from collections.abc import Callable
from typing import Any

import pytest
import toolchain_models as models
import torch
from toolchain_harness import Quantized, listed, returned, worst_error
from toolchain_models import Tokens, case
from torch import nn

from mnq.toolchain.capture import capture
from mnq.toolchain.evaluate import evaluate
from mnq.toolchain.graph import Graph, Node
from mnq.toolchain.prepare import prepare

FLOAT32_NOISE = 1e-5  # see test_capture.py

RAMP = torch.linspace(-2, 2, 256).reshape(1, 1, 16, 16)

Captured = Callable[..., Graph]


Quantizations = Callable[[Callable[[], nn.Module]], Quantized]


@pytest.mark.parametrize("build", models.ARCHITECTURES, ids=lambda build: build.__name__)
def test_graph_returns_what_the_torch_model_does_at_every_batch_size(
    build: Callable[[], nn.Module], quantizations: Quantizations, normalized: torch.Tensor
) -> None:
    found = quantizations(build)
    assert not [n for n in found.prepared if n.op in ("softmax", "matmul", "scale", "gain", "norm")]
    for batch in (1, 2, 5):
        with torch.no_grad():
            expected = listed(found.model(normalized[:batch]))
        values = returned(found.prepared, normalized[:batch])
        for value, want in zip(values, expected, strict=True):
            assert worst_error(value, want) < FLOAT32_NOISE, batch


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


# --- numbers per channel ---


def gains(m: Tokens, t: torch.Tensor) -> torch.Tensor:
    """Behind a layer with and without a bias, and a norm; also negative, and twice."""
    down = torch.linspace(1, -1, 32)
    t = t + m.proj(m.norm(t)) * down.reshape(1, 1, -1) * 0.5
    t = t + down * nn.functional.linear(m.norm(t) * down, m.proj.weight)
    return t + (down * m.proj(m.norm(t))) * down.abs()


def test_number_per_channel_is_folded_into_the_layer_before_it(normalized: torch.Tensor) -> None:
    model = case(gains)
    graph = models.prepared(lambda: model)
    assert [n.op for n in graph if n.op in ("linear", "layernorm", "gain", "add", "scale")] == [
        "linear", "layernorm", "linear", "scale", "add",
        *2 * ["layernorm", "linear"], "layernorm", "linear",
    ]  # fmt: skip
    with torch.no_grad():
        assert worst_error(evaluate(graph, normalized), model(normalized)) < FLOAT32_NOISE


def test_folded_layer_is_a_residual_addition_too(quantizations: Quantizations) -> None:
    """LayerScale stands between the two."""
    graph = quantizations(models.registers).prepared
    residual = [n.name for n in graph if n.op == "linear" and len(n.inputs) > 1]
    assert residual == [f"blocks.{i}.{name}" for i in range(2) for name in ("attn.proj", "mlp.fc2")]
    assert not [n for n in graph if n.op == "add" and n.module.startswith("blocks")]


# --- 8-bit codes of the residual stream ---


def test_readers_of_8_bit_codes_share_a_requantization(normalized: torch.Tensor) -> None:
    """Nothing stands between them and the 16-bit stream; a norm reads the stream itself."""

    def middle(m: Any, t: torch.Tensor) -> torch.Tensor:
        return t + m.proj(t) + nn.functional.gelu(t) + m.norm(t)

    model = case(middle)
    graph = models.prepared(lambda: model)
    (narrow,) = [node for node in graph if node.op == "requantize"]
    assert narrow.name == f"{narrow.inputs[0]}.narrow" and not narrow.site
    assert {node.op for node in graph.consumers(narrow.name)} == {"linear", "gelu"}
    assert {node.op for node in graph.consumers(narrow.inputs[0])} >= {"requantize", "layernorm"}
    with torch.no_grad():
        assert worst_error(evaluate(graph, normalized), model(normalized)) < FLOAT32_NOISE


@pytest.mark.parametrize("build", [models.tiny, models.windows], ids=["tiny", "windows"])
def test_layers_behind_norms_need_no_requantization(
    build: Callable[[], nn.Module], quantizations: Quantizations
) -> None:
    assert "requantize" not in {node.op for node in quantizations(build).prepared}


# --- several outputs ---


def forward(body: Callable[[Any, torch.Tensor], Any]) -> nn.Module:
    return models.randomize(type("Several", (Tokens,), {"forward": body})())


def around_attention(m: Any, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """The result of attention, the residual stream behind it, and what is made of both."""
    t = m.tokens(x)
    q, k, v = m.heads(t)
    context = (q @ k.transpose(-1, -2)).softmax(-1) @ v
    t = m.join(t, context)
    return context, t, m.out(t)


def around_a_layer(m: Any, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """A layer that is returned, and added to the stream as well."""
    t = m.tokens(x)
    y = m.proj(m.norm(t))
    return y, m.out(t + y)


def around_moves(m: Any, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Maps that are cut to tokens again, and tokens that are windows before a layer."""
    maps = m.embed(x)
    t = m.rows(maps)
    cut = t.unflatten(1, (2, 2, 2, 2)).transpose(2, 3)
    y = m.proj(m.norm(cut))
    return maps, cut, y, m.out(t + y.transpose(2, 3).flatten(1, 4))


def logits_first(m: Any, x: torch.Tensor) -> dict[str, torch.Tensor]:
    t = m.tokens(x)
    return {"logits": m.out(t) * torch.linspace(-1, 2, models.CLASSES), "tokens": t}


def one_of_attention(m: Any, x: torch.Tensor) -> torch.Tensor:
    context: torch.Tensor = around_attention(m, x)[0]
    return context


def one_of_the_stream(m: Any, x: torch.Tensor) -> torch.Tensor:
    t: torch.Tensor = around_attention(m, x)[1]
    return t


@pytest.mark.parametrize(
    "body",
    [
        around_attention,
        around_a_layer,
        around_moves,
        logits_first,
        one_of_attention,
        one_of_the_stream,
    ],
)
def test_what_is_returned_is_followed_where_it_is_fused(
    body: Callable[[Any, torch.Tensor], Any], normalized: torch.Tensor
) -> None:
    model = forward(body)
    graph = models.prepared(lambda: model)
    with torch.no_grad():
        result = model(normalized)
    expected = [*result.values()] if isinstance(result, dict) else listed(result)
    assert len(graph.outputs) == len(expected)
    for value, want in zip(returned(graph, normalized), expected, strict=True):
        assert worst_error(value, want) < FLOAT32_NOISE
    if body is around_attention:
        assert graph.outputs[1] == "proj" and graph.nodes["proj"].inputs[1:]


INNER = {
    "scores": lambda q, k: q @ k.transpose(-1, -2),
    "probabilities": lambda q, k: (q @ k.transpose(-1, -2)).softmax(-1),
}


@pytest.mark.parametrize("what", INNER)
def test_what_is_inside_attention_cannot_be_returned(
    what: str, refusal: Callable[..., str]
) -> None:
    def body(m: Any, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        t = m.tokens(x)
        q, k, v = m.heads(t)
        inner = INNER[what](q, k)
        weights = inner.softmax(-1) if what == "scores" else inner
        return inner, m.out(m.join(t, weights @ v))

    assert "another softmax" in refusal(models.prepared, lambda: forward(body))


def test_a_layer_that_is_returned_keeps_its_own_numbers(refusal: Callable[..., str]) -> None:
    """Folding the gain into it would change what is returned."""

    def body(m: Any, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        y = m.proj(m.tokens(x))
        return y, m.out(y * torch.linspace(0.5, 1, 32))

    text = refusal(models.prepared, lambda: forward(body))
    assert "number per channel behind a layer" in text


# --- moves and names ---


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
