"""Edges: which tensors share a quantizer, and how wide its codes are (spec 1.7)."""

from collections.abc import Callable
from typing import Any

import pytest
import toolchain_models as models
import torch
from toolchain_harness import Quantized, check_on_onnxruntime
from toolchain_models import case

from mnq.toolchain.edges import Edge, Edges, assign_edges, narrow
from mnq.toolchain.graph import Graph

Refusal = Callable[..., str]


def edges_of(middle: Callable[[Any, torch.Tensor], torch.Tensor]) -> Edges:
    return assign_edges(models.prepared(lambda: case(middle)))


def test_residual_stream_has_16_bits_and_the_rest_the_bits_of_the_map(
    quantized: Quantized,
) -> None:
    kinds = quantized.edges.kinds
    expected = {"input": "input", "constant": "residual", "constant_1": "residual"}
    expected |= {"add": "residual", "norm": "activation", "head": "logits"}
    for i in range(2):
        block = f"blocks.{i}"
        expected |= dict.fromkeys(
            (f"{block}.{name}" for name in ("attn.proj", "mlp.fc2")), "residual"
        )
        narrow = ("norm1", "attn.qkv", "attn.context", "attn.context.scores")
        narrow += ("norm2", "mlp.fc1", "mlp.act")
        expected |= dict.fromkeys((f"{block}.{name}" for name in narrow), "activation")
    assert kinds == expected


@pytest.mark.parametrize("bits", [8, 6, 4, 2])
def test_widths_by_kind(quantized: Quantized, bits: int) -> None:
    groups = ("input", "add", "norm", "head")
    assert [quantized.edges.bits(g, bits) for g in groups] == [8, 16, bits, 32]


def test_every_tensor_has_an_edge_of_a_known_group(quantized: Quantized) -> None:
    edges = quantized.edges.edges
    assert set(edges) == set(quantized.values)
    assert {edge.group for edge in edges.values()} == set(quantized.edges.kinds)


def test_group_is_named_after_its_first_tensor(quantized: Quantized) -> None:
    edges = quantized.edges.edges
    first = {}
    for name, edge in edges.items():
        first.setdefault(edge.group, name)
    assert all(group == name for group, name in first.items())


def test_queries_keys_and_values_share_one_quantizer(quantized: Quantized) -> None:
    graph = quantized.graph
    for block in range(2):
        fused = graph.nodes[f"blocks.{block}.attn.context"]
        found = {quantized.edges.edges[name] for name in fused.inputs}
        assert found == {Edge(f"blocks.{block}.attn.qkv", 1.0)}


def test_concatenated_tensors_share_one_quantizer(quantized: Quantized) -> None:
    """The class token and the patches: one scale, as in the published models."""
    edges = quantized.edges.edges
    for name in ("constant", "expand", "patch_embed.proj", "patch_embed.reshape", "concat"):
        assert edges[name] == Edge("constant", 1.0), name


def test_views_keep_the_quantizer_of_what_they_move(quantized: Quantized) -> None:
    edges, graph = quantized.edges.edges, quantized.graph
    moved = [n for n in graph if n.op in ("reshape", "transpose", "select", "expand")]
    assert len(moved) > 15
    assert all(edges[node.name] == edges[node.inputs[0]] for node in moved)


def test_multiplication_by_a_number_changes_the_factor_and_no_code() -> None:
    edges = edges_of(lambda m, t: (m.norm(t) * 0.5).transpose(1, 2).transpose(1, 2) / 4 + t)
    factors = {n: e.factor for n, e in edges.edges.items() if e.group == "norm"}
    assert factors == {"norm": 1.0, "scale": 0.5, "reshape_1": 0.5, "scale_1": 0.125}


def test_concatenation_of_scaled_and_unscaled_tensors_is_refused(refusal: Refusal) -> None:
    text = refusal(edges_of, lambda m, t: torch.cat([t, t * 0.5], 1))
    assert "one scale" in text and "'(top)'" in text


def test_concatenation_of_equally_scaled_tensors_is_one_group() -> None:
    edges = edges_of(lambda m, t: torch.cat([t * 0.5, m.norm(t) * 0.5], 1))
    assert edges.edges["concat"] == Edge("embed", 0.5)
    assert edges.edges["norm"] == Edge("embed", 1.0)
    assert edges.kinds["embed"] == "residual" and "norm" not in edges.kinds


def test_group_that_joins_another_takes_its_width_along() -> None:
    class Joined(models.Tokens):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            t = self.tokens(x)
            return torch.cat([self.proj(self.norm(t)), t + t], 1)

    edges = assign_edges(models.prepared(Joined))
    assert edges.edges["add"] == edges.edges["concat"] == Edge("proj", 1.0)
    assert edges.kinds["proj"] == "residual" and "add" not in edges.kinds


@pytest.mark.parametrize("option", ["qk_norm", "scale_attn_norm", "scale_mlp_norm"])
def test_norm_behind_8_bit_codes_reads_8_bit_codes(
    option: str, captured: Callable[..., Graph]
) -> None:
    """The operators that make these codes, or also read them, have 8 bits only."""

    def build() -> torch.nn.Module:
        return models.tiny(depth=1, **{option: True})

    edges = assign_edges(captured(build))
    kinds = {g: k for g, k in edges.kinds.items() if g.startswith("blocks.0")}
    residual = {g for g, kind in kinds.items() if kind == "residual"}
    assert residual == {"blocks.0.attn.proj", "blocks.0.mlp.fc2"}


def test_gelu_added_to_the_residual_keeps_8_bits() -> None:
    gelu = torch.nn.functional.gelu
    edges = edges_of(lambda m, t: t + gelu(m.proj(m.norm(t))))
    assert edges.kinds["gelu"] == "activation" and edges.kinds["add"] == "residual"


NARROW: list[tuple[str, Callable[[Any, torch.Tensor], torch.Tensor]]] = [
    ("linear", lambda m, t: t + m.proj(t + t)),
    ("gelu", lambda m, t: t + torch.nn.functional.gelu(t + t)),
    ("matmul", lambda m, t: (t + t) @ m.norm(t).transpose(1, 2) @ m.norm(t)),
    ("normalize", lambda m, t: t + torch.nn.functional.normalize(t + t, dim=-1)),
    (
        "attention",
        lambda m, t: (
            torch.nn.functional.scaled_dot_product_attention(
                *(3 * [(t + t).reshape(-1, 16, 2, 16).transpose(1, 2)])
            )
            .transpose(1, 2)
            .flatten(2)
        ),
    ),
]


@pytest.mark.onnxruntime
@pytest.mark.parametrize(("reader", "middle"), NARROW, ids=lambda v: v if type(v) is str else "")
def test_operator_on_8_bit_codes_reads_the_residual_stream_requantized(
    reader: str, middle: Callable[[Any, torch.Tensor], torch.Tensor], normalized: torch.Tensor
) -> None:
    """Once for all inputs of the operator; the codes have a scale of their own."""
    quantized = Quantized(case(middle), normalized)
    graph, edges = quantized.graph, quantized.edges
    (narrow,) = [node for node in graph if node.op == "requantize"]
    assert {node.op for node in graph.consumers(narrow.name)} == {reader}
    assert edges.edges[narrow.name] == Edge(narrow.name, 1.0)
    assert edges.kinds[narrow.name] == "activation"
    assert edges.kinds[edges.edges[narrow.inputs[0]].group] == "residual"
    check_on_onnxruntime(quantized.program("lut", bits=4), ("all",), deployed=False)


def test_narrowing_twice_changes_nothing(quantizations: Callable[..., Quantized]) -> None:
    graph = quantizations(models.cosine_windows).prepared
    assert "requantize" in {node.op for node in graph}
    assert list(narrow(graph).nodes) == list(graph.nodes)


def test_unit_vectors_and_means_have_the_bits_of_what_reads_them() -> None:
    """16 where they are added to the stream, which their operators can write."""
    normalize = torch.nn.functional.normalize

    def middle(m: Any, t: torch.Tensor) -> torch.Tensor:
        return normalize(m.proj(m.norm(t)), dim=-1) + m.norm(t).mean(1, keepdim=True)

    kinds = edges_of(middle).kinds
    assert {kinds["normalize"], kinds["mean"]} == {"residual"}
    kinds = edges_of(lambda m, t: t + m.proj(normalize(m.norm(t), dim=-1))).kinds
    assert kinds["normalize"] == "activation"


def test_maps_beside_logits_make_them_codes_like_others() -> None:
    """The last of several outputs is no classifier's alone: it has a calibrated scale."""

    class Both(models.Tokens):
        def forward(self, x: torch.Tensor) -> Any:
            t = self.tokens(x)
            return t, self.out(t)

    kinds = assign_edges(models.prepared(Both)).kinds
    assert kinds["head"] == "activation" and "logits" not in kinds.values()


def test_only_a_linear_layer_at_the_end_gives_logits() -> None:
    last = assign_edges(models.prepared(lambda: models.tiny(depth=1, num_classes=0)))
    assert "logits" not in last.kinds.values()
    halved = assign_edges(models.prepared(models.distilled))
    assert halved.kinds["head_dist"] == "residual"
    assert halved.edges["scale"] == Edge("head_dist", 0.5)
