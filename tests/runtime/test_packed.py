"""Packed weights: INT4 where codes fit, and the same codes again."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper

from mnq.ops.body import DOMAIN
from mnq.runtime.packed import pack, unpack


def model(codes: NDArray[np.int8], operator: str = "QLinear") -> ModelProto:
    """A node with this weight; nothing runs it."""
    before = ["x", "r"] if operator == "QLinearAdd" else ["x"]
    node = helper.make_node(operator, [*before, "w", "b"], ["y"], domain=DOMAIN)
    x = helper.make_tensor_value_info("x", TensorProto.INT8, [1, codes.shape[0]])
    y = helper.make_tensor_value_info("y", TensorProto.INT8, [1, codes.shape[1]])
    return helper.make_model(
        helper.make_graph([node], "one", [x], [y], [numpy_helper.from_array(codes, "w")])
    )


def kinds(found: ModelProto) -> list[int]:
    return [tensor.data_type for tensor in found.graph.initializer]


def drawn(*bits: int, inner: int = 32, seed: int = 0) -> NDArray[np.int8]:
    """Columns by eights, of so many bits, both ends of their range among the codes."""
    rng = np.random.default_rng(seed)
    parts = []
    for width in bits:
        half = 2 ** (width - 1)
        part = rng.integers(-half, half, (inner, 8))
        part[0], part[1] = -half, half - 1
        parts.append(part)
    return np.concatenate(parts, axis=1).astype(np.int8)


@pytest.mark.parametrize("operator", ["QLinear", "QLinearAdd", "QLinearLut"])
def test_four_bits_are_two_in_a_byte(operator: str) -> None:
    codes = drawn(4, 3)
    found = model(codes, operator)
    pack(found)
    assert kinds(found) == [TensorProto.INT4]
    assert [node.op_type for node in found.graph.node] == ["Cast", operator]
    (tensor,) = found.graph.initializer
    assert len(tensor.raw_data) * 2 == codes.size
    np.testing.assert_array_equal(numpy_helper.to_array(tensor).astype(np.int8), codes)


def test_runs_of_columns_are_packed_each_for_itself() -> None:
    found = model(drawn(4, 4, 8, 5, 3))
    pack(found)
    assert sorted(kinds(found)) == [TensorProto.INT8, TensorProto.INT4, TensorProto.INT4]
    assert [node.op_type for node in found.graph.node] == ["Cast", "Cast", "Concat", "QLinear"]


@pytest.mark.parametrize("codes", [drawn(8), drawn(5, 5), drawn(4, 8, inner=4)])
def test_what_does_not_fit_or_is_not_worth_it_stays(codes: NDArray[np.int8]) -> None:
    found = model(codes)
    pack(found)
    assert found == model(codes) and unpack(found) is found


@settings(deadline=None, derandomize=True, max_examples=60, database=None)
@given(st.lists(st.integers(2, 8), min_size=1, max_size=6), st.integers(31, 40))
def test_unpacking_gives_the_codes_back(bits: list[int], inner: int) -> None:
    """Odd numbers of codes too."""
    codes = drawn(*bits, inner=inner)[:, : 8 * len(bits) - 1]
    found = model(codes)
    pack(found)
    plain = unpack(found)
    assert kinds(plain) == [TensorProto.INT8]
    assert [node.op_type for node in plain.graph.node] == ["QLinear"]
    np.testing.assert_array_equal(numpy_helper.to_array(plain.graph.initializer[0]), codes)
