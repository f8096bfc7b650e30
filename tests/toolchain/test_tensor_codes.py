"""What codes stand for: of whole tensors, and of heads that have their own."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mnq.toolchain.edges import assign_edges
from mnq.toolchain.graph import Graph
from mnq.toolchain.heads import find_parts
from mnq.toolchain.tensor_codes import TensorCodes
from mnq.toolchain.widths import Widths

QKV, ACT = "blocks.0.attn.qkv", "blocks.0.mlp.act"


@pytest.fixture(scope="module")
def codes(graph: Graph) -> TensorCodes:
    """q, k and v of two heads with scales and bits of their own; GELU with an offset."""
    edges, parts = assign_edges(graph), find_parts(graph, "paper")
    scales = {group: np.float32(0.25) for group in edges.kinds}
    scales[QKV] = np.array([1, 2, 4, 8, 16, 32], np.float32)
    bits = {QKV: np.array([2, 3, 4, 5, 6, 8]), ACT: np.array([3])}
    return TensorCodes(edges, scales, Widths(8, 8, bits, {ACT: -2}, parts))


def test_a_feature_has_the_scale_of_its_part(codes: TensorCodes) -> None:
    part = codes.widths.parts.at(QKV)
    assert codes.by_part(QKV).tolist() == [1, 2, 4, 8, 16, 32]
    np.testing.assert_array_equal(codes.scale(QKV), 2.0**part)
    assert sorted(set(part.tolist())) == [0, 1, 2, 3, 4, 5]
    assert codes.scale(ACT).shape == codes.by_part(ACT).shape == () and codes.scale(ACT) == 0.25


def test_the_width_is_of_the_widest_part_and_limits_are_of_each(codes: TensorCodes) -> None:
    assert (codes.bits(QKV), codes.bits(ACT)) == (8, 3)
    lo, hi = codes.limits(QKV).values()
    assert sorted(set(zip(lo.tolist(), hi.tolist(), strict=True)))[-1] == (-2, 1)
    np.testing.assert_array_equal(
        lo, -(2 ** (codes.widths.bits[QKV] - 1))[codes.widths.parts.at(QKV)]
    )
    assert [int(end) for end in codes.limits(ACT).values()] == [-2, 5]


def test_equal_limits_are_one_number(codes: TensorCodes) -> None:
    widths = replace(codes.widths, bits={QKV: np.full(6, 4)})
    limits = replace(codes, widths=widths).limits(QKV)
    assert [(end.shape, int(end)) for end in limits.values()] == [((), -8), ((), 7)]


def test_what_a_step_reads_is_one_scale_and_width(codes: TensorCodes) -> None:
    read = codes.read(ACT)
    assert (read.scale, read.bits) == (0.25, 3)
