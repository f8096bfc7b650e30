"""Attention of every method in both forms against plain integers."""

from collections.abc import Callable
from fractions import Fraction

import numpy as np
import ops_reference as plain
import pytest
from hypothesis import given
from hypothesis import strategies as st
from ops_cases import window_maps
from ops_harness import Array, Case
from ops_strategies import few

from mnq.ops.attention.op import attention, constants
from mnq.ops.registry import ATTENTION, PACKED_ATTENTION, SOFTMAX, WINDOW_ATTENTION

SCORE_SCALES = (0.02, 0.375)  # one per head
ACCUMULATOR_SCALE, VALUE_SCALE, OUT_SCALE = 0.0009, 0.02, 0.01

Weights = tuple[list[int], int]
"""Weights 0..255 of a row of scores, and what the product with V is divided by [4.7]."""


def ivit_weights(row: list[int], scale: float) -> Weights:
    x0 = int(plain.f32(-1.0 / plain.f32(scale)) // 1)
    m, e = plain.dyadic(255.0 / (-x0 * 2.0**15))
    w = [plain.scaled(plain.shift_exp(s - max(row), x0, 15), m, e) for s in row]
    return w, sum(w)


def ibert_weights(row: list[int], scale: float) -> Weights:
    x0, b, c = plain.i_exp_constants(scale)
    m, e = plain.dyadic(255.0 / c)
    pairs = [plain.i_exp(s - max(row), x0, b, c) for s in row]
    w = [plain.scaled(z, m, e + k) for z, k in pairs]
    return w, sum(w)


def fqvit_weights(row: list[int], scale: float) -> Weights:
    logs = plain.log_int_softmax(row, *plain.i_exp_constants(scale))
    least = min(log for log in logs if log is not None)
    w = [0 if log is None or log - least > 7 else 2 ** (7 - (log - least)) for log in logs]
    return w, 2 ** (least + 7)


def lut_weights(row: list[int], scale: float) -> Weights:
    table = plain.exp_table(scale, 255)
    w = [table[max(row) - s] for s in row]
    return w, sum(w)


def ivit_probabilities(row: list[int], scale: float) -> list[int]:
    return plain.shiftmax(row, int(plain.f32(-1.0 / plain.f32(scale)) // 1), 16)


def ibert_probabilities(row: list[int], scale: float) -> list[int]:
    return plain.i_softmax(row, *plain.i_exp_constants(scale), 16)


def fqvit_probabilities(row: list[int], scale: float) -> list[int]:
    codes = plain.log_codes(plain.log_int_softmax(row, *plain.i_exp_constants(scale)))
    return [0 if code == 15 else 2 ** (15 - code) for code in codes]


def lut_probabilities(row: list[int], scale: float) -> list[int]:
    return plain.lut_softmax(row, scale, 16)


WEIGHTS: dict[str, Callable[[list[int], float], Weights]] = {
    "ivit": ivit_weights,
    "ibert": ibert_weights,
    "fqvit": fqvit_weights,
    "lut": lut_weights,
}
PROBABILITIES: dict[str, tuple[Callable[[list[int], float], list[int]], float]] = {
    "ivit": (ivit_probabilities, 2.0**-15),
    "ibert": (ibert_probabilities, 2.0**-16),
    "fqvit": (fqvit_probabilities, 2.0**-15),
    "lut": (lut_probabilities, 2.0**-16),
}


def mixed(method: str, form: str, row: list[int], scale: float, v: list[list[int]]) -> list[int]:
    """Row of scores times V (M rows), before the last requantization."""
    columns = list(zip(*v, strict=True))
    if form == "normalized":
        p = PROBABILITIES[method][0](row, scale)
        return [sum(a * b for a, b in zip(p, column, strict=True)) for column in columns]
    w, normalizer = WEIGHTS[method](row, scale)
    accumulators = [sum(a * b for a, b in zip(w, column, strict=True)) for column in columns]
    return [plain.half_up(Fraction(acc * (2**31 // normalizer), 2**16)) for acc in accumulators]


@pytest.mark.parametrize("form", ["deferred", "normalized"])
@pytest.mark.parametrize("method", SOFTMAX)
@few
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([4, 6, 8]),
    st.integers(1, 7),
    st.booleans(),
)
def test_attention_equals_plain_integers(
    method: str, form: str, seed: int, bits: int, keys: int, masked: bool
) -> None:
    rng = np.random.default_rng(seed)
    lo, hi = plain.code_range(bits)
    spread = int(rng.choice([2, hi]))
    q, k, v = (
        np.clip(rng.integers(-spread - 1, spread + 1, (1, 2, n, 4)), lo, hi).astype(np.int8)
        for n in (3, keys, keys)
    )
    bias = rng.integers(-2000, 2000, (1, 2, 3, keys)).astype(np.int32)
    if masked:
        bias[..., 1:] = -(2**24)
    score_scales = np.array(SCORE_SCALES, np.float32).reshape(2, 1, 1)
    values = constants(
        SOFTMAX[method], form, ACCUMULATOR_SCALE, score_scales, VALUE_SCALE, OUT_SCALE, bits
    )
    got = Case(
        ATTENTION[method][form], {"q": q, "k": k, "v": v}, {"bias": bias, **values}
    ).compute()

    unit = 2.0**-15 if form == "deferred" else PROBABILITIES[method][1]
    last = plain.dyadic(VALUE_SCALE * unit / OUT_SCALE)
    want = np.empty(q.shape, np.int8)
    for head, row in np.ndindex(2, 3):
        scale = float(score_scales[head, 0, 0])
        first = plain.dyadic(ACCUMULATOR_SCALE / scale)
        scores = [
            sum(int(x) * int(y) for x, y in zip(q[0, head, row], key, strict=True)) + int(b)
            for key, b in zip(k[0, head], bias[0, head, row], strict=True)
        ]
        scores = [plain.saturate(plain.scaled(s, *first), lo, hi) for s in scores]
        for column, u in enumerate(mixed(method, form, scores, scale, v[0, head].tolist())):
            want[0, head, row, column] = plain.saturate(plain.scaled(u, *last), lo, hi)
    assert got.dtype == np.int8
    assert got.tolist() == want.tolist()


@pytest.mark.parametrize("method", SOFTMAX)
def test_constants_are_the_inputs_after_the_bias(method: str) -> None:
    for form, operator in attention(SOFTMAX[method]).items():
        values = constants(SOFTMAX[method], form, 0.001, np.float32(0.05), 0.02, 0.01, 8)
        assert operator.inputs == ("q", "k", "v", "bias", *values)
        assert PACKED_ATTENTION[operator.name].inputs == ("qkv", "bias", *values)
        window = WINDOW_ATTENTION[operator.name]
        assert window.inputs == ("qkv", "bias", "kind", "order", "inverse", *values)
        assert operator.attributes == PACKED_ATTENTION[operator.name].attributes == ()
        assert window.attributes == ()


@pytest.mark.parametrize("form", ["deferred", "normalized"])
@pytest.mark.parametrize("method", SOFTMAX)
def test_packed_attention_differs_in_layout_only(method: str, form: str) -> None:
    batch, tokens, heads, width = 2, 5, 3, 4
    rng = np.random.default_rng(5)
    qkv = rng.integers(-128, 128, (batch, tokens, 3, heads, width)).astype(np.int8)
    separate = {name: np.empty((batch, heads, tokens, width), np.int8) for name in ("q", "k", "v")}
    for b, n, part, head in np.ndindex(qkv.shape[:-1]):
        separate["qkv"[part]][b, head, n] = qkv[b, n, part, head]
    values = constants(
        SOFTMAX[method], form, ACCUMULATOR_SCALE, np.float32(0.05), VALUE_SCALE, OUT_SCALE, 8
    )
    values["bias"] = rng.integers(-2000, 2000, (1, heads, tokens, tokens)).astype(np.int32)
    operator = ATTENTION[method][form]
    want = Case(operator, separate, values).compute()
    got = Case(PACKED_ATTENTION[operator.name], {"qkv": qkv}, values).compute()
    assert got.shape == (batch, tokens, heads, width) and got.dtype == np.int8
    for b, n, head in np.ndindex(got.shape[:-1]):
        assert got[b, n, head].tolist() == want[b, head, n].tolist()


def window_case(
    method: str, form: str, qkv: Array, bias: Array, maps: dict[str, Array], scale: object
) -> Case:
    values = constants(SOFTMAX[method], form, ACCUMULATOR_SCALE, scale, VALUE_SCALE, OUT_SCALE, 8)
    operator = WINDOW_ATTENTION[ATTENTION[method][form].name]
    return Case(operator, {"qkv": qkv}, {"bias": bias, **maps, **values})


@pytest.mark.parametrize(
    ("windows", "places", "width"), [(3, 5, 4), (1, 6, 4), (4, 1, 4), (2, 3, 1)]
)
@pytest.mark.parametrize("form", ["deferred", "normalized"])
@pytest.mark.parametrize("method", SOFTMAX)
def test_window_attention_is_packed_attention_of_every_windows_tokens(
    method: str, form: str, windows: int, places: int, width: int
) -> None:
    """Each with its plane of the bias, one of which masks; scores have a scale per head."""
    batch, heads, kinds = 2, 2, 3
    rng = np.random.default_rng(6)
    qkv = rng.integers(-128, 128, (batch, windows * places, 3, heads, width)).astype(np.int8)
    bias = rng.integers(-2000, 2000, (kinds, heads, places, places)).astype(np.int32)
    bias[0, :, :, places // 2 :] = -(2**24)
    maps = window_maps(rng, windows, places, kinds)
    scale = np.array(SCORE_SCALES, np.float32).reshape(heads, 1, 1)
    case = window_case(method, form, qkv, bias, maps, scale)
    got = case.compute()
    assert got.shape == (batch, windows * places, heads, width) and got.dtype == np.int8
    shared = {name: x for name, x in case.constants.items() if name not in ("bias", *maps)}
    packed = PACKED_ATTENTION[ATTENTION[method][form].name]
    for window, kind in enumerate(maps["kind"]):
        tokens = [int(token) for token in maps["order"][window]]
        own = {"bias": bias[kind : kind + 1], **shared}
        want = Case(packed, {"qkv": np.stack([qkv[:, t] for t in tokens], axis=1)}, own).compute()
        for place, token in enumerate(tokens):
            assert maps["inverse"][token] == window * places + place
            assert got[:, token].tolist() == want[:, place].tolist()


@pytest.mark.parametrize("form", ["deferred", "normalized"])
@pytest.mark.parametrize("method", SOFTMAX)
def test_tokens_that_a_window_masks_from_each_other_do_not_mix(method: str, form: str) -> None:
    """As at the edge of a shifted image: the window holds two regions that do not touch."""
    rng = np.random.default_rng(7)
    qkv = rng.integers(-128, 128, (1, 12, 3, 2, 4)).astype(np.int8)
    region = np.arange(6) % 2
    apart = region[:, None] != region
    bias = np.stack([np.zeros((6, 6)), np.where(apart, -(2**24), 0)])[:, None].astype(np.int32)
    maps = window_maps(rng, 2, 6, 2)
    maps["kind"] = np.array([1, 0])
    scale = np.float32(SCORE_SCALES[1])
    before = window_case(method, form, qkv, bias, maps, scale).compute()
    first, second = (maps["order"][0][region == each] for each in (0, 1))
    qkv[:, second, 1:] = 100
    after = window_case(method, form, qkv, bias, maps, scale).compute()
    assert (after[:, first] == before[:, first]).all()
    assert (after[:, maps["order"][1]] == before[:, maps["order"][1]]).all()
    assert (after[:, second] != before[:, second]).any()


@pytest.mark.parametrize("method", ["ivit", "ibert", "lut"])
def test_deferred_attention_of_a_flat_row_keeps_the_mean_of_v(method: str) -> None:
    """197 equal scores: 8-bit probabilities of 1/197 would be 1.3 of 256 steps."""
    q = np.zeros((1, 1, 1, 64), np.int8)
    k = np.zeros((1, 1, 197, 64), np.int8)
    v = np.full((1, 1, 197, 64), 100, np.int8)
    values = constants(SOFTMAX[method], "deferred", 0.001, np.float32(0.05), 0.02, 0.02, 8)
    values["bias"] = np.zeros((1, 1, 1, 1), np.int32)
    got = Case(ATTENTION[method]["deferred"], {"q": q, "k": k, "v": v}, values).compute()
    assert (got == 100).all()
