"""Equalization: the same float function, with LayerNorm channels of about one size."""

from collections.abc import Callable
from typing import Any

import pytest
import toolchain_models as models
import torch
from toolchain_harness import Quantized
from toolchain_models import case

from mnq.toolchain.equalize import LARGEST_EXPONENT, equalize, find_exponents
from mnq.toolchain.evaluate import evaluate
from mnq.toolchain.graph import Graph

NORMS = [f"blocks.{i}.norm{k}" for i in range(2) for k in (1, 2)] + ["norm"]


def test_every_norm_that_linear_layers_read_is_equalized(quantized: Quantized) -> None:
    found = quantized.statistics.equalization
    assert list(found) == NORMS
    assert all(len(values) == 32 and any(values) for values in found.values())


def test_float_function_stays_the_same_bit_for_bit(quantized: Quantized) -> None:
    """Powers of two commute with every rounding."""
    assert quantized.graph is not quantized.prepared
    with torch.no_grad():
        before, after = (
            evaluate(g, quantized.normalized) for g in (quantized.prepared, quantized.graph)
        )
    assert torch.equal(after, before)


def test_channels_are_within_a_factor_of_2_afterwards(quantized: Quantized) -> None:
    for name in NORMS:
        value = quantized.values[name].abs().amax(dim=(0, 1))
        exponents = quantized.statistics.equalization[name]
        assert max(map(abs, exponents)) < LARGEST_EXPONENT
        assert float(value.max() / value.min()) <= 2.0 + 1e-6, name


def test_exponents_do_not_depend_on_the_batches(quantized: Quantized) -> None:
    batches = quantized.normalized.split(3)
    again = find_exponents(quantized.prepared, reversed(batches))
    for name, values in quantized.statistics.equalization.items():
        # A maximum next to a rounding boundary may fall on its other side: float32 sums of
        # another batch size differ in their last bits.
        moved = [abs(a - b) for a, b in zip(values, again[name], strict=True)]
        assert max(moved) <= 1 and sum(moved) <= 1, name


def test_norm_that_something_else_reads_is_left_alone(normalized: torch.Tensor) -> None:
    graph = models.prepared(lambda: case(lambda m, t: t + m.norm(t)))
    assert list(find_exponents(graph, [normalized])) == ["norm_1"]  # the one before the head


def test_silent_channel_is_finite(normalized: torch.Tensor) -> None:
    model = case(lambda m, t: t)
    with torch.no_grad():
        model.norm.weight[3] = model.norm.bias[3] = 0.0
        graph = models.prepared(lambda: model)
        exponents = find_exponents(graph, [normalized])
        assert exponents["norm"][3] == -LARGEST_EXPONENT
        after = evaluate(equalize(graph, exponents), normalized)
        assert torch.equal(after, evaluate(graph, normalized))


def test_equalize_leaves_its_graph_alone(quantized: Quantized) -> None:
    before = {n.name: {k: v.clone() for k, v in n.parameters.items()} for n in quantized.prepared}
    equalize(quantized.prepared, quantized.statistics.equalization)
    for node in quantized.prepared:
        for key, value in before[node.name].items():
            assert torch.equal(node.parameters[key], value)


WRONG: list[tuple[str, Any]] = [
    ("blocks.7.norm1", [0] * 32),
    ("blocks.0.mlp.act", [0] * 128),
    ("head", [0] * 10),
    ("norm", [0] * 31),
    ("norm", [0.0] * 32),
    ("norm", [True] * 32),
    ("norm", [LARGEST_EXPONENT + 1] + [0] * 31),
    ("norm", "0" * 32),
    ("norm", None),
    ("norm", {}),
]


@pytest.mark.parametrize(("name", "values"), WRONG)
def test_exponents_that_do_not_fit_are_refused(
    name: str, values: Any, graph: Graph, refusal: Callable[..., str]
) -> None:
    assert repr(name) in refusal(equalize, graph, {name: values})
