"""What a model file says of its integers' ranges, read without torch."""

from __future__ import annotations

import json
from typing import Any

import pytest
from runtime_tiny import Tiny

from mnq.ops.errors import InputError
from mnq.runtime import overflow
from mnq.runtime.modelfile import parse
from mnq.runtime.overflow import Proven

ROWS = [
    Proven("embed", "QLinear", -128, 127, 8, 8, {"int64": (50, "z * m"), "int32": (23, "x w")}),
    Proven("tokens", "concat", -90, 127, 8, 8, {}),
    Proven("norm", "IVitLayerNorm", -9, 40, 7, 8, {"int64": (63, "z * m"), "sum": (41, "y * y")}),
]
ENTRY = overflow.to_json(ROWS)["embed"]


def test_rows_survive_the_metadata() -> None:
    assert overflow.from_json(json.loads(json.dumps(overflow.to_json(ROWS)))) == ROWS
    assert [row.spare for row in ROWS] == [0, 0, 1]


def test_the_tightest_step_of_each_kind_is_found() -> None:
    found = overflow.tightest(ROWS)
    assert {kind: (place["spare"], place["tensor"]) for kind, place in found.items()} == {
        "int64": (1, "norm"),
        "sum": (13, "norm"),
        "int32": (9, "embed"),
    }
    assert overflow.sentence(ROWS) == (
        "no integer can overflow; bits to spare: 1 of 64 (norm), 13 of 54 in sums (norm), "
        "9 of 32 in accumulators (embed)"
    )


def test_an_exported_file_holds_a_range_for_every_tensor(tiny: Tiny) -> None:
    model = parse(tiny.copy(), "m.onnx")
    rows = overflow.from_json(model.overflow)
    assert [row.tensor for row in rows] == ["input.codes", *model.tensors]
    reference = tiny.reference(tiny.images)
    for row in rows:
        values = reference[row.tensor]
        assert row.lo <= values.min() and values.max() <= row.hi, row.tensor
        assert row.width == 8 * values.dtype.itemsize
        assert row.bits <= row.width


@pytest.mark.parametrize(
    "table",
    [
        {},
        None,
        [1],
        {"embed": {}},
        {"embed": 3},
        {"embed": {**ENTRY, "range": [1]}},
        {"embed": {**ENTRY, "range": ["1", 2]}},
        {"embed": {**ENTRY, "bits": [True, 8]}},
        {"embed": {**ENTRY, "inside": {"float": [1, "x"]}}},
        {"embed": {**ENTRY, "inside": {"int64": [1, 2]}}},
        {"embed": {**ENTRY, "inside": {"int64": 1}}},
        {"embed": {**ENTRY, "more": 1}},
        {"embed": {**ENTRY, "operator": 7}},
    ],
    ids=str,
)
def test_anything_else_is_refused(table: Any) -> None:
    with pytest.raises(InputError, match=r"^overflow: expected .*, found .*; .*export") as caught:
        overflow.from_json(table)
    assert "\n" not in str(caught.value)
