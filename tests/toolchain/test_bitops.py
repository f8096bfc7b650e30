"""BitOPs: the paper's figures, and counts that can be checked by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mnq.models.zoo import load
from mnq.toolchain.bitops import bitops, products, uniform
from mnq.toolchain.edges import assign_edges
from mnq.toolchain.export import graph_of
from mnq.toolchain.graph import Graph
from mnq.toolchain.heads import LAYOUTS, Parts, find_parts

PAPER = {  # in G, of 4 and 3 bits: spec 6.5; of Swin-T the paper's Table 1
    "deit_t": (21.455, 12.883, 5e-4),
    "deit_s": (76.375, 44.590, 5e-4),
    "swin_t": (72.6, 41.3, 0.05),
}


@pytest.fixture(scope="module")
def micro() -> Graph:
    return graph_of(load("micro_vit"))


@pytest.mark.slow
@pytest.mark.parametrize("name", PAPER)
def test_uniform_models_cost_what_the_paper_says(name: str) -> None:
    graph = graph_of(load(name, random=0))
    found = products(graph, assign_edges(graph), Parts())
    four, three, tolerance = PAPER[name]
    assert uniform(found, 4) == pytest.approx(four, abs=tolerance)
    assert uniform(found, 3) == pytest.approx(three, abs=tolerance)


def by_hand(tokens: int, width: int, depth: int, bits: int) -> float:
    """micro_vit: 64 patches of 48 values, and a class token."""
    ends = 64 * 48 * width * 64 + width * 10 * 64
    block = tokens * 12 * width * width + 2 * tokens * tokens * width
    return (ends + depth * block * bits * bits) * 1e-9


@pytest.mark.parametrize("bits", [3, 4])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_parts_do_not_change_what_a_uniform_model_costs(
    micro: Graph, layout: str, bits: int
) -> None:
    found = products(micro, assign_edges(micro), find_parts(micro, layout))
    assert uniform(found, bits) == pytest.approx(by_hand(65, 96, 4, bits), rel=1e-12)


def widths(micro: Graph, parts: Parts, bits: int) -> dict[str, torch.Tensor]:
    found = products(micro, assign_edges(micro), parts)
    names = {name for product in found for name in (product.left, product.right)}
    return {name: torch.full((parts.count(name),), float(bits)) for name in names}


def test_every_product_counts_with_the_bits_of_its_own_head(micro: Graph) -> None:
    parts = find_parts(micro, "paper")
    found = products(micro, assign_edges(micro), parts)
    before = widths(micro, parts, 4)
    qkv = "blocks.0.attn.qkv"
    after = {**before, qkv: torch.tensor([8.0, 4, 4, 4, 4, 4, 4, 4, 4])}  # query of head 0
    scores = 65 * 65 * 32 * 1e-9
    gained = float(bitops(found, after) - bitops(found, before))
    assert gained == pytest.approx(scores * (8 * 4 - 4 * 4), rel=1e-4)
    after = {**before, f"{qkv}:weight": torch.tensor([4.0, 4, 4, 4, 4, 4, 4, 4, 8])}
    gained = float(bitops(found, after) - bitops(found, before))
    assert gained == pytest.approx(65 * 96 * 32 * 1e-9 * (8 * 4 - 4 * 4), rel=1e-4)


def test_the_output_projection_counts_head_by_head_or_as_published(micro: Graph) -> None:
    """In the paper's layout head i meets the weights of head i, as published those of all."""
    context, weight = "blocks.0.attn.context", "blocks.0.attn.proj:weight"
    head = 65 * 32 * 96 * 1e-9
    for layout, wanted in (("paper", 2 * 3 + 4 * 5 + 6 * 8), ("published", 12 * 16 / 3)):
        parts = find_parts(micro, layout)
        (product,) = [p for p in products(micro, assign_edges(micro), parts) if p.right == weight]
        bits = {context: np.array([2.0, 4, 6]), weight: np.array([3.0, 5, 8])}
        assert float(product.bitops(bits)) == pytest.approx(head * wanted, rel=1e-9)


def test_bitops_have_the_gradient_of_the_bits(micro: Graph) -> None:
    parts = find_parts(micro, "paper")
    found = products(micro, assign_edges(micro), parts)
    bits = {name: b.double().requires_grad_() for name, b in widths(micro, parts, 4).items()}
    bitops(found, bits).backward()
    softmax = "blocks.2.attn.context:softmax"
    wanted = 65 * 65 * 32 * 4 * 1e-9  # every more bit meets values of 4
    assert bits[softmax].grad is not None
    assert bits[softmax].grad.tolist() == pytest.approx([wanted] * 3, rel=1e-9)
