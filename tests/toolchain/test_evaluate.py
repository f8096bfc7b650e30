"""The float evaluation of a graph: what observers see, and what it keeps."""

import gc
import weakref
from collections.abc import Callable
from dataclasses import replace

import pytest
import toolchain_models as models
import torch
from toolchain_harness import Quantized, returned, worst_error

from mnq.toolchain.evaluate import evaluate, hidden_scores
from mnq.toolchain.graph import Graph, Node


def test_observer_sees_every_tensor_and_the_attention_scores(quantized: Quantized) -> None:
    graph = quantized.graph
    scores = [node.scores for node in graph if node.op == "attention"]
    assert len(scores) == 2
    assert set(quantized.values) == {*graph.nodes, *scores}


def test_observing_changes_nothing(quantized: Quantized) -> None:
    with torch.no_grad():
        plain = evaluate(quantized.graph, quantized.normalized)
    assert torch.equal(plain, quantized.values[quantized.graph.output])


def test_scores_are_what_the_softmax_reads(quantized: Quantized) -> None:
    node = quantized.graph.nodes["blocks.1.attn.context"]
    q, k, v = (quantized.values[name] for name in node.inputs)
    scores = quantized.values[node.scores]
    assert torch.equal(scores, q @ k.transpose(-1, -2) * 0.25)  # head width 16
    assert torch.equal(scores.softmax(-1) @ v, quantized.values[node.name])


def test_values_of_layers_are_those_of_the_torch_modules(
    graph: Graph, model: torch.nn.Module, normalized: torch.Tensor
) -> None:
    expected: dict[str, torch.Tensor] = {}
    modules = dict(model.named_modules())
    names = [node.name for node in graph if node.op in ("layernorm", "gelu")]
    handles = [
        modules[name].register_forward_hook(
            lambda module, inputs, output, name=name: expected.__setitem__(name, output)
        )
        for name in names
    ]
    found: dict[str, torch.Tensor] = {}
    with torch.no_grad():
        model(normalized)
        evaluate(graph, normalized, found.__setitem__)
    for handle in handles:
        handle.remove()
    for name in names:  # 1e-5: float32 rounding, see test_capture.py
        assert worst_error(found[name], expected[name]) < 1e-5, name


def test_tensors_are_dropped_after_their_last_reader(quantized: Quantized) -> None:
    references: dict[str, weakref.ref[torch.Tensor]] = {}

    def observe(name: str, value: torch.Tensor) -> None:
        if name == "head":
            gc.collect()
            alive = {n for n, reference in references.items() if reference() is not None}
            assert "blocks.0.mlp.act" not in alive and "blocks.1.mlp.fc1" not in alive
        references[name] = weakref.ref(value)

    with torch.no_grad():
        evaluate(quantized.graph, quantized.normalized[:2], observe)
    assert "head" in references


def test_bias_enters_before_the_factor() -> None:
    draw = torch.Generator().manual_seed(0)
    nodes = [
        Node("input", "input", (), (-1, 1, 4, 2), ""),
        Node(
            "context",
            "attention",
            ("input", "input", "input"),
            (-1, 1, 4, 2),
            "",
            parameters={"bias": torch.randn(4, 4, generator=draw)},
            settings={"factor": 0.5},
        ),
    ]
    graph = Graph({node.name: node for node in nodes}, "input", "context")
    x = torch.randn(3, 1, 4, 2, generator=draw)
    scores = (x @ x.transpose(-1, -2) + nodes[1].parameters["bias"]) * 0.5
    assert torch.equal(evaluate(graph, x), scores.softmax(-1) @ x)


def test_hidden_scores_are_those_far_below_others_of_their_row() -> None:
    bias = torch.tensor([[[[0.0, -200.0, 3.0], [-100.0, -100.0, -100.0]]]])
    settings = {"factor": 0.5}
    node = Node("a", "attention", ("q", "k", "v"), (-1, 1, 2, 4), "", {"bias": bias}, settings)
    found = hidden_scores(node)
    assert found is not None
    assert found.tolist() == [[[[False, True, False], [False, False, False]]]]
    assert hidden_scores(replace(node, parameters={"bias": bias * 0.1})) is None
    assert hidden_scores(replace(node, parameters={})) is None
    heads = {"bias": bias, "factor": torch.tensor([[[0.1]]])}
    assert hidden_scores(replace(node, parameters=heads)) is None


def test_returned_tensors_outlive_their_readers(
    quantizations: Callable[..., Quantized],
) -> None:
    """As the last one does; the first map is read again by the next stage."""
    found = quantizations(models.pyramid)
    graph, images = found.prepared, found.normalized[:2]
    first = returned(graph, images)[0]
    early = replace(graph, output=graph.features[0], features=())
    with torch.no_grad():
        assert torch.equal(evaluate(early, images), first)


def test_unknown_operator_is_a_bug_that_shows() -> None:
    nodes = [Node("input", "input", (), (-1, 1), ""), Node("x", "sine", ("input",), (-1, 1), "")]
    with pytest.raises(AssertionError, match="sine"):
        evaluate(Graph({n.name: n for n in nodes}, "input", "x"), torch.zeros(1, 1))
