"""Widths: what a file may say about bits."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from mnq.toolchain.graph import Graph
from mnq.toolchain.heads import Parts, find_parts
from mnq.toolchain.widths import Widths, from_json, layout_of

QKV, ACT = "blocks.0.attn.qkv", "blocks.0.mlp.act"


@pytest.fixture(scope="module")
def parts(graph: Graph) -> Parts:
    return find_parts(graph, "paper")


def read(data: Any, parts: Parts) -> Widths:
    return from_json(data, parts, {QKV, ACT}, Widths(), "the file")


def good(**changes: Any) -> dict[str, Any]:
    bits = {QKV: [2, 3, 4, 5, 6, 8], ACT: [3]}
    return {"heads": "paper", "bits": bits, "lowest": {ACT: -2}, **changes}


def test_what_is_written_is_what_is_read(parts: Parts) -> None:
    found = read(good(), parts)
    assert found.bits[QKV].tolist() == [2, 3, 4, 5, 6, 8]
    again = json.loads(json.dumps(found.to_json()))
    assert again == good() and layout_of(again, "x") == "paper"
    np.testing.assert_array_equal(read(again, parts).bits[QKV], found.bits[QKV])
    assert Widths(6, 4).to_json() == {}


@pytest.mark.parametrize(
    "changes",
    [
        {"bits": []},
        {"bits": {QKV: [4] * 5}},
        {"bits": {QKV: 4}},
        {"bits": {QKV: [4] * 5 + [9]}},
        {"bits": {QKV: [4] * 5 + [1]}},
        {"bits": {QKV: [4] * 5 + [4.0]}},
        {"bits": {QKV: [4] * 5 + [True]}},
        {"bits": {"elsewhere": [4]}},
        {"lowest": {ACT: 1}},
        {"lowest": {ACT: -8}},
        {"lowest": {ACT: "x"}},
        {"lowest": {QKV: -1}},
        {"lowest": {"elsewhere": -1}},
        {"bits": {ACT: [8]}, "lowest": {ACT: -127}},
        {"lowest": None},
    ],
)
def test_what_cannot_be_is_refused(
    changes: dict[str, Any], parts: Parts, refusal: Callable[..., str]
) -> None:
    text = refusal(read, good(**changes), parts)
    assert text.startswith("bits: expected ") and "in the file; give a file that" in text


@pytest.mark.parametrize("data", [{}, {"heads": "some"}, {"heads": ["paper"]}, None])
def test_a_file_names_a_layout(data: Any, refusal: Callable[..., str]) -> None:
    assert "expected heads as paper or published or none" in refusal(layout_of, data, "x")
