"""Primitives that look along an axis: reductions, gathers, products, in torch and as a body."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch
from ops_harness import BODIES, Array, Case, assert_same

from mnq.ops import integer
from mnq.ops.integer import Integers
from mnq.ops.operator import Operator


def probe(compute: Callable[..., Integers], *arrays: Array) -> Case:
    """One primitive fed with the arrays."""
    names = ("a", "b")[: len(arrays)]
    return Case(Operator("Probe", compute, names), dict(zip(names, arrays, strict=True)))


def any_int64(shape: tuple[int, ...], bits: int = 63) -> Array:
    """Signed integers below 2^bits, uniform in the number of bits."""
    rng = np.random.default_rng(1)
    return rng.integers(-(2**bits), 2**bits, shape) >> rng.integers(0, bits, shape)


@pytest.mark.parametrize("backend", BODIES)
@pytest.mark.parametrize("shape", [(7, 1), (5, 33), (2, 3, 4, 197)])
def test_row_max_over_all_of_int64(backend: str, shape: tuple[int, ...]) -> None:
    x = any_int64(shape)
    made = probe(integer.row_max, x)
    assert_same(made.expected, x.max(axis=-1, keepdims=True), "torch")
    made.check(backend)


@pytest.mark.parametrize("backend", BODIES)
@pytest.mark.parametrize("axis", [-1, -2])
def test_total_up_to_53_bits(backend: str, axis: int) -> None:
    x = any_int64((3, 40, 40), 47)
    made = probe(lambda a: integer.total(a, axis), x)
    assert_same(made.expected, x.sum(axis=axis, keepdims=True), "torch")
    made.check(backend)


@pytest.mark.parametrize("backend", BODIES)
@pytest.mark.parametrize("sign", [1, -1])
def test_total_is_exact_at_its_last_odd_sum(backend: str, sign: int) -> None:
    x = sign * np.array([[2**52, 2**52 - 1, 0], [2**53 - 3, 1, 1]], np.int64)
    made = probe(integer.total, x)
    assert made.expected.tolist() == [[sign * (2**53 - 1)], [sign * (2**53 - 1)]]
    made.check(backend)


@pytest.mark.parametrize("backend", BODIES)
def test_wide_total_is_exact_where_a_double_rounds(backend: str) -> None:
    """onnxruntime 1.31.1 (CPU) sums int64 in doubles; two halves stay below 2^53."""
    rng = np.random.default_rng(2)
    rows = rng.integers(0, 2**63 // 197, (50, 197)) >> rng.integers(0, 50, (50, 1))
    rows[0] = 2**63 // 197
    rows[1, :] = 0
    rows[2, :2] = 2**62, 2**62 - 1
    rows[2, 2:] = 0
    made = probe(integer.wide_total, rows)
    want = [[sum(row)] for row in rows.tolist()]
    assert made.expected.tolist() == want
    assert any(int(float(total)) != total for (total,) in want), "no sum needs more than 53 bits"
    made.check(backend)


@pytest.mark.parametrize("backend", BODIES)
@pytest.mark.parametrize("shape", [(4, 1), (2, 3, 5), (1, 2, 3, 197)])
def test_last_length_is_the_length_of_rows(backend: str, shape: tuple[int, ...]) -> None:
    made = probe(lambda a: a * 0 + integer.last_length(a), any_int64(shape))
    assert (made.expected == shape[-1]).all()
    made.check(backend)


@pytest.mark.parametrize("backend", BODIES)
@pytest.mark.parametrize("shape", [(), (5,), (2, 3, 4)])
def test_gather_reads_the_table(backend: str, shape: tuple[int, ...]) -> None:
    table = any_int64((256,))
    index = np.array(np.random.default_rng(3).integers(0, 256, shape), np.int64)
    made = probe(integer.gather, table, index)
    assert_same(made.expected, table[index], "torch")
    made.check(backend)


@pytest.mark.parametrize("backend", BODIES)
@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("shape", [(5,), (2, 3)])
def test_gather_along_an_axis_puts_the_index_in_its_place(
    backend: str, shape: tuple[int, ...], axis: int
) -> None:
    x = any_int64((4, 5, 6))
    index = np.array(np.random.default_rng(3).integers(0, 4, shape), np.int64)
    made = probe(lambda a, b: integer.gather(a, b, axis), x, index)
    assert_same(made.expected, np.take(x, index, axis), "torch")
    made.check(backend)


@pytest.mark.parametrize("backend", BODIES)
@pytest.mark.parametrize("perm", [(1, 0), (0, 1, 3, 2), (2, 0, 3, 1, 4)])
def test_transpose_orders_the_axes(backend: str, perm: tuple[int, ...]) -> None:
    x = any_int64((2, 3, 4, 5, 6)[: len(perm)])
    made = probe(lambda a: integer.transpose(a, perm), x)
    assert_same(made.expected, x.transpose(perm), "torch")
    made.check(backend)


@pytest.mark.parametrize("backend", BODIES)
@pytest.mark.parametrize("index", [0, 2])
def test_select_takes_one_entry_of_the_first_axis(backend: str, index: int) -> None:
    x = any_int64((3, 2, 4, 5))
    made = probe(lambda a: integer.select(a, index), x)
    assert_same(made.expected, x[index], "torch")
    made.check(backend)


@pytest.mark.parametrize("backend", BODIES)
@pytest.mark.parametrize("axis", [1, 3])
def test_select_takes_one_entry_of_another_axis(backend: str, axis: int) -> None:
    x = any_int64((3, 2, 4, 5))
    made = probe(lambda a: integer.select(a, 1, axis), x)
    assert_same(made.expected, x.take(1, axis), "torch")
    made.check(backend)


@pytest.mark.parametrize("backend", BODIES)
@pytest.mark.parametrize("shape", [(-1, 4), (2, 3, 2, 2), (24,)])
def test_reshape_keeps_the_order(backend: str, shape: tuple[int, ...]) -> None:
    x = any_int64((2, 3, 4))
    made = probe(integer.reshape, x, np.array(shape, np.int64))
    assert_same(made.expected, x.reshape(shape), "torch")
    made.check(backend)


@pytest.mark.parametrize("backend", BODIES)
@pytest.mark.parametrize("shape", [(0, -1, 1, 0), (-1, 0, 4), (0, 0, 0, 5)])
def test_reshape_to_a_tuple_keeps_lengths_of_0(backend: str, shape: tuple[int, ...]) -> None:
    x = any_int64((2, 3, 4, 5))
    want = x.reshape([n or x.shape[axis] for axis, n in enumerate(shape)])
    made = probe(lambda a: integer.reshape(a, shape), x)
    assert_same(made.expected, want, "torch")
    made.check(backend)
    made = probe(integer.reshape, x, np.array(shape, np.int64))
    assert_same(made.expected, want, "torch, of an input")
    made.check(backend)


LENGTHS = (1, 64, 1023, 1024, 1025, 2048, 2049, 3072)


def worst_codes(length: int) -> Iterator[tuple[str, Array, Array]]:
    """Codes whose sums are largest, all even but one term, or odd and of random sign."""
    rng = np.random.default_rng(length)
    a, b = np.full((9, length), -128, np.int8), np.full((length, 17), -128, np.int8)
    yield "largest", a, b
    yield "smallest", a, np.full_like(b, 127)
    nearly, other = a.copy(), b.copy()
    nearly[:, -1], other[-1, :] = -127, 127
    yield "one odd term", nearly, other
    extremes = np.array([-128, -127, 127], np.int8)
    yield "random", rng.choice(extremes, a.shape), rng.choice(extremes, b.shape)


@pytest.fixture(params=[1, 2])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.parametrize("length", LENGTHS)
def test_matmul_is_exact_at_the_worst_codes(length: int, threads: int) -> None:
    assert torch.get_num_threads() == threads
    for name, a, b in worst_codes(length):
        want = a.astype(np.int64) @ b.astype(np.int64)
        assert_same(probe(integer.matmul, a, b).compute(), want, name)
        stacked = np.stack([a, a[::-1]])[None], np.stack([b, b[:, ::-1]])[None]
        want = stacked[0].astype(np.int64) @ stacked[1].astype(np.int64)
        assert_same(probe(integer.matmul, *stacked).compute(), want, f"{name}, rank 4")


@pytest.mark.parametrize("backend", BODIES)
@pytest.mark.parametrize("length", [64, 1025, 3072])
def test_matmul_body_is_exact_at_the_worst_codes(backend: str, length: int) -> None:
    for _, a, b in worst_codes(length):
        probe(integer.matmul, a, b).check(backend)


@pytest.mark.parametrize("backend", BODIES)
def test_matmul_takes_any_leading_axes(backend: str) -> None:
    rng = np.random.default_rng(4)
    a = rng.integers(-128, 128, (2, 3, 5, 8)).astype(np.int8)
    for b_shape in ((8, 6), (2, 3, 8, 6)):
        b = rng.integers(-128, 128, b_shape).astype(np.int8)
        made = probe(integer.matmul, a, b)
        assert_same(made.expected, a.astype(np.int64) @ b.astype(np.int64), "torch")
        made.check(backend)


@pytest.mark.gpu
def test_torch_gives_the_same_integers_on_a_gpu() -> None:
    x = any_int64((5, 3, 197), 45)
    for compute in (integer.row_max, integer.total, integer.last_length):
        probe(lambda a, compute=compute: a * 0 + compute(a), x).check_cuda()
    probe(integer.gather, x[0, 0], np.arange(197)).check_cuda()
    for length in LENGTHS:
        for _, a, b in worst_codes(length):
            probe(integer.matmul, a, b).check_cuda()
