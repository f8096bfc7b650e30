"""Distillation: the float model's answers and features, and the distances from them."""

from __future__ import annotations

import pytest
import torch

from mnq.toolchain.distill import ask, distance, divergence
from mnq.toolchain.evaluate import evaluate
from mnq.toolchain.graph import Graph


def test_the_teacher_tells_logits_and_named_tensors(graph: Graph, normalized: torch.Tensor) -> None:
    names = [name for name, node in graph.nodes.items() if node.op == "layernorm"]
    seen: dict[str, torch.Tensor] = {}
    logits = evaluate(graph, normalized, seen.__setitem__)
    told = ask(graph, normalized, names)
    assert torch.equal(told[0], logits) and not told[0].requires_grad
    assert len(names) > 2
    assert all(torch.equal(a, seen[n]) for a, n in zip(told[1:], names, strict=True))
    assert len(ask(graph, normalized)) == 1


def test_what_the_teacher_tells_is_float32_under_autocast(
    graph: Graph, normalized: torch.Tensor
) -> None:
    with torch.autocast("cpu", torch.bfloat16):
        told = ask(graph, normalized, [graph.output])
    assert [value.dtype for value in told] == [torch.float32] * 2


def test_divergence_is_zero_for_equal_distributions_and_positive_for_others() -> None:
    wanted = torch.tensor([[1.0, 2.0, -1.0], [0.0, 0.0, 3.0]])
    assert float(divergence(wanted + 5, wanted)) == pytest.approx(0, abs=1e-6)  # the same classes
    p, q = wanted.double().softmax(1), (-wanted).double().softmax(1)
    expected = (p * (p / q).log()).sum(1).mean()
    assert float(divergence(-wanted, wanted)) == pytest.approx(float(expected), rel=1e-5)


def test_distance_is_the_mean_of_noise_over_signal() -> None:
    first, second = torch.tensor([[3.0, 4.0]]), torch.tensor([[1.0], [2.0], [2.0]])
    found = [torch.tensor([[3.0, 5.0]]), torch.tensor([[1.0], [2.0], [5.0]])]
    assert float(distance(found, [first, second])) == pytest.approx((1 / 25 + 9 / 9) / 2)
    assert float(distance([first, second], [first, second])) == 0


def test_distance_weighs_tensors_of_any_scale_alike() -> None:
    draw = torch.Generator().manual_seed(0)
    wanted = [torch.randn(5, 4, generator=draw), torch.randn(3, generator=draw)]
    found = [w + 0.1 * torch.randn(w.shape, generator=draw) for w in wanted]
    large = distance([1024 * found[0], found[1]], [1024 * wanted[0], wanted[1]])
    assert torch.equal(large, distance(found, wanted))


def test_distance_from_nothing_is_finite() -> None:
    value = torch.ones(3, requires_grad=True)
    distance([value], [torch.zeros(3)]).backward()
    assert value.grad is not None and bool(value.grad.isfinite().all())
