"""QLinearLut: the layer's codes through the table, whatever limits leave of them."""

from __future__ import annotations

import numpy as np
import ops_reference as plain
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from ops_cases import looked_up
from ops_harness import BACKENDS, Case
from ops_native import PATHS, Native
from ops_proof import proved
from ops_strategies import few

from mnq.ops.errors import InputError
from mnq.ops.integer import INT8
from mnq.ops.kernels import run
from mnq.ops.qlinear.op import qlinear
from mnq.ops.qlinear_lut.op import qlinear_lut
from mnq.ops.registry import GELU, OPERATORS
from mnq.ops.requantize.op import constants

RATIOS = np.array([0.004, -0.003, 2.0**-7])
ALL_CODES = np.arange(-128, 128)

limits = st.tuples(st.integers(-128, 127), st.integers(-128, 127)).map(sorted)
edges = st.sampled_from([[-128, 127], [-128, -128], [127, 127], [0, 0], [-8, 7], [-2, 1]])


def layer(rng: np.random.Generator, rows: int, inner: int, ratios: np.ndarray) -> Case:
    """A layer on extreme codes; its table is of any codes."""
    outer = ratios.size
    fixed = {
        "w": rng.integers(-128, 128, (inner, outer)).astype(np.int8),
        "bias": rng.integers(-(2**15), 2**15, outer).astype(np.int32),
        **constants(ratios, 8),
        "table": rng.integers(-128, 128, 256).astype(np.int8),
    }
    x = rng.choice([-128, -127, -1, 0, 5, 127], (2, rows, inner)).astype(np.int8)
    return Case(qlinear_lut, {"x": x}, fixed)


def limited(case: Case, pairs: list[list[int]]) -> Case:
    """The case with limits of its own for every column, or with one pair for all."""
    ends = np.array(pairs, np.int32).T
    lo, hi = ends if len(pairs) > 1 else ends[:, 0]
    return Case(qlinear_lut, case.activations, {**case.constants, "lo": lo, "hi": hi})


@few
@given(st.integers(0, 2**32 - 1), st.lists(limits | edges, min_size=3, max_size=3))
def test_qlinear_lut_equals_plain_integers(seed: int, pairs: list[list[int]]) -> None:
    case = limited(layer(np.random.default_rng(seed), 3, 5, RATIOS), pairs)
    w, bias, table = (case.constants[name].tolist() for name in ("w", "bias", "table"))
    want = []
    for row in case.activations["x"].reshape(-1, 5).tolist():
        for n, (ratio, (lo, hi)) in enumerate(zip(RATIOS, pairs, strict=True)):
            acc = sum(x * column[n] for x, column in zip(row, w, strict=True)) + bias[n]
            want.append(
                table[plain.saturate(plain.scaled(acc, *plain.dyadic(ratio)), lo, hi) + 128]
            )
    got = case.compute()
    assert got.dtype == np.int8 and got.shape == (2, 3, 3)
    assert got.reshape(-1).tolist() == want


@pytest.mark.parametrize("name", [m for m in GELU if GELU[m].operator.elementwise])
@pytest.mark.parametrize("bits", [8, 6, 4, 2])
def test_a_gelu_in_the_table_gives_the_integers_of_both_operators(name: str, bits: int) -> None:
    gelu = GELU[name]
    case = layer(np.random.default_rng(bits), 50, 16, np.full(40, 0.003 * 2.0 ** (bits - 8)))
    before = {k: v for k, v in case.constants.items() if k != "table"} | constants(
        case.constants["m"] / 2.0 ** case.constants["e"], bits
    )
    made = gelu.constants(0.03 * 2.0 ** (8 - bits), 0.02 * 2.0 ** (8 - bits), bits)
    of = [torch.as_tensor(value) for value in made.values()]
    table = gelu.operator(torch.from_numpy(ALL_CODES).to(torch.int8), *of, to=INT8).numpy()
    z = Case(qlinear, case.activations, before, {"to": INT8}).compute()
    want = Case(gelu.operator, {"q": z}, made, {"to": INT8}).compute()
    got = Case(qlinear_lut, case.activations, {**before, "table": table}).compute()
    assert len(np.unique(want)) >= 2
    np.testing.assert_array_equal(got, want, strict=True)


@pytest.mark.parametrize("pairs", [[[-128, 127]], [[-8, 7]], [[3, 3]], [[-128, 127], [-2, 1]] * 20])
@pytest.mark.parametrize("backend", BACKENDS)
def test_backend_gives_the_integers_of_torch(backend: str | Native, pairs: list[list[int]]) -> None:
    case = layer(np.random.default_rng(3), 50, 70, np.full(40, 0.001))
    limited(case, pairs).check(backend)


@pytest.mark.native
@pytest.mark.parametrize("path", PATHS)
@few
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([1, 2, 15, 16, 17, 33, 64, 65, 129, 300]),
    st.sampled_from([1, 3, 16, 63, 64, 65, 100]),
    st.sampled_from([1, 2, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 129]),
    limits | edges,
)
def test_kernel_gives_the_integers_of_torch_whatever_the_shape(
    path: str, seed: int, rows: int, inner: int, outer: int, pair: list[int]
) -> None:
    ratios = np.random.default_rng(seed).choice([0.004, -0.01, 2.0**-9, 0.3], outer)
    case = layer(np.random.default_rng(seed), rows, inner, ratios)
    limited(case, [pair]).check(Native(path, 2))


def test_its_range_is_that_of_the_entries_within_the_limits() -> None:
    case = limited(layer(np.random.default_rng(0), 1, 9, np.full(3, 0.01)), [[-4, 3]])
    table = ALL_CODES.astype(np.int8)
    fixed = {**case.constants, "table": table}
    assert proved(qlinear_lut, {"x": ((-128, 127), (-1, 1, 9))}, fixed).ends == (-4, 3)


@pytest.mark.native
@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"table": np.zeros(255, np.int8)}, r"'table': expected shape \(256,\)"),
        ({"table": np.zeros(256, np.int16)}, "'table': expected int8"),
        ({"lo": np.array(-129, np.int32)}, "within int8"),
        ({"lo": np.zeros(4, np.int32), "hi": np.ones(4, np.int32)}, "one number or shape"),
    ],
)
def test_kernel_refuses_constants_that_do_not_fit(
    change: dict[str, np.ndarray], found: str
) -> None:
    case = looked_up(np.random.default_rng(0), 16, 8, 8, 4)
    with pytest.raises(InputError, match=found):
        run("QLinearLut", case.activations, {**case.constants, **change}, 0)


@pytest.mark.parametrize("name", [n for n, o in OPERATORS.items() if o.elementwise])
def test_an_elementwise_operator_looks_at_one_code_at_a_time(name: str) -> None:
    """What QLinearLut's table rests on."""
    (gelu,) = (method for method in GELU.values() if method.operator.name == name)
    of = [torch.as_tensor(value) for value in gelu.constants(0.05, 0.04, 8).values()]
    q = torch.from_numpy(ALL_CODES).to(torch.int8)
    alone = [gelu.operator(code[None], *of, to=INT8) for code in q]
    assert torch.equal(torch.cat(alone), gelu.operator(q.reshape(16, 16), *of, to=INT8).flatten())
