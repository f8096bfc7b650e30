"""Proofs of whole operators: sound, tight where they can be, and clear about what overflows."""

from __future__ import annotations

import ast
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from ops_cases import CASES
from ops_harness import Array, Case
from ops_proof import Activation, Range, activations_of, proved, proved_case

from mnq.ops import facts
from mnq.ops.attention.op import constants as attention_constants
from mnq.ops.facts import checked_facts
from mnq.ops.fqvit_layernorm.op import fqvit_layernorm
from mnq.ops.integer import INT8, INT16
from mnq.ops.operator import Operator
from mnq.ops.proof import LIMITS, Overflow, Trace, bits_of
from mnq.ops.qlinear.op import accumulate
from mnq.ops.registry import ATTENTION, LAYERNORM, OPERATORS, SOFTMAX
from mnq.ops.requantize.op import constants as requantize_constants

CODES, STREAM = (-128, 127), (-(2**15), 2**15 - 1)


def extreme(case: Case, rng: np.random.Generator) -> Case:
    """The case with other activations: ends of the range only, equal rows, single outliers."""
    arrays: dict[str, Array] = {}
    for name, ((lo, hi), _) in activations_of(case).items():
        old = case.activations[name]
        x = rng.choice([lo, hi], old.shape)
        rows = x.reshape(-1, old.shape[-1])
        for row in range(0, len(rows), 4):
            rows[row : row + 1] = rng.integers(lo, hi + 1)
            rows[row + 1 : row + 2, 1:] = lo if row % 8 else hi
            rows[row + 2 : row + 3] = rng.integers(lo, hi + 1, old.shape[-1])
        arrays[name] = x.astype(old.dtype)
    return replace(case, activations=arrays)


@pytest.mark.parametrize("name", CASES)
def test_results_and_facts_hold_for_codes_and_for_extremes(name: str) -> None:
    """Each operator at 8, 6 and 4 bits and on 16-bit streams (ops_cases) is proved."""
    case = CASES[name]()
    result = proved_case(case)
    rng = np.random.default_rng(1)
    found = [case.compute(), *(extreme(case, rng).compute() for _ in range(3))]
    lo, hi = result.ends
    assert lo <= min(y.min() for y in found) and max(y.max() for y in found) <= hi
    shape = result.shape[result.cases :]
    assert (len(shape), shape[1:]) == (found[0].ndim, found[0].shape[1:])


def test_every_fact_of_every_definition_was_checked() -> None:
    """`because` of every call of `known` is among those that the cases meet."""
    folder = Path(facts.__file__).parent
    written = {
        keyword.value.value
        for path in (folder / "facts.py", *folder.glob("*/op.py"))
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "known"
        for keyword in node.keywords
        if keyword.arg == "because" and isinstance(keyword.value, ast.Constant)
    }
    with checked_facts() as seen:
        for build in CASES.values():
            build().compute()
    assert seen == written and len(written) > 10


def test_the_accumulators_of_a_layer_are_reached() -> None:
    case = CASES["QLinear 8 bits 192 to 96"]()
    w, bias = (np.asarray(case.constants[n], np.int64) for n in ("w", "bias"))
    probe = Operator("Probe", accumulate)
    result = proved(probe, {"x": (CODES, (-1, 50, 192))}, case.constants)
    most = np.where(w > 0, 127, -128)
    least = np.where(w > 0, -128, 127)
    assert result.hi.reshape(-1).tolist() == ((most * w).sum(0) + bias).tolist()
    assert result.lo.reshape(-1).tolist() == ((least * w).sum(0) + bias).tolist()


def test_the_most_demanding_step_of_each_kind_is_noted() -> None:
    trace = Trace()
    proved_case(CASES["QLinearAdd 8 bits 1536 to 384"](), trace)
    assert trace.places.keys() == {"int32", "int64"}
    assert trace.places["int32"].step == "accumulate: matmul(x, w)"
    assert trace.places["int64"].step == "RequantizeAdd > rescale: z * m"
    assert 20 < trace.places["int32"].bits < LIMITS["int32"]
    trace = Trace()
    proved_case(CASES["IVitNormalizedPackedAttention 8 bits 65 tokens"](), trace)
    assert trace.places["sum"].step.endswith("IVitSoftmax > row_total: total(w)")


def test_bits_are_those_of_a_signed_type() -> None:
    for ends, bits in {
        (0, 0): 1, (-1, 0): 1, (0, 1): 2, (-128, 127): 8, (-129, 0): 9, (0, 128): 9,
        (-(2**63), 2**63 - 1): 64, (0, 2**63): 65,
    }.items():  # fmt: skip
        assert bits_of(*ends) == bits


LAYER = {
    "w": np.random.default_rng(0).integers(-127, 128, (64, 5)).astype(np.int8),
    "bias": np.zeros(5, np.int32),
    **requantize_constants(np.full(5, 1e-3), 8),
}
WIDE_LAYER = {
    "w": np.array([[1, 127]], np.int8).repeat(140000, axis=0),
    "bias": np.zeros(2, np.int32),
    **requantize_constants(np.full(2, 1e-3), 8),
}
NORM = {
    name: method.constants(np.ones(8), np.ones(8), 0.1, 8) for name, method in LAYERNORM.items()
}
TABLE = SOFTMAX["lut"].constants(0.1, 16)
MEAN = requantize_constants(1e-3, 8)


def changed(constants: dict[str, Array], name: str, value: int, *at: int) -> dict[str, Array]:
    """The constants with another value, at one place or everywhere."""
    array = np.array(constants[name], np.int64)
    array[at if at else ...] = value
    return {**constants, name: array}


def scores(keys: int, method: str, form: str) -> dict[str, Array]:
    bias = {"bias": np.zeros((1, 1, 1, 1), np.int32)}
    fine = np.float32(2.0**-8)
    return bias | attention_constants(SOFTMAX[method], form, 1e-3, fine, 0.01, 0.01, 8)


def q(ends: Range, *shape: int) -> dict[str, Activation]:
    return {"q": (ends, (-1, *shape))}


def qkv(keys: int) -> dict[str, Activation]:
    return {name: (CODES, (-1, 3, keys, 64)) for name in "qkv"}


def x(ends: Range, inner: int) -> dict[str, Activation]:
    return {"x": (ends, (-1, 7, inner))}


OVERFLOWS: dict[str, tuple[str, dict[str, Activation], dict[str, Array], int, str, str]] = {
    "a huge bias": (
        *("QLinear", x(CODES, 64), changed(LAYER, "bias", 2**31 - 10, 3), INT8),
        *("bias[3]", "accumulate: cast(matmul(x, w) + i64(bias), INT32)` needs 33 bits of 32"),
    ),
    "a huge negative bias": (
        *("QLinear", x(CODES, 64), changed(LAYER, "bias", 10 - 2**31, 3), INT8),
        *("bias[3]", "needs 33 bits of 32"),
    ),
    "a huge multiplier": (
        *("QLinear", x(CODES, 64), changed(LAYER, "m", 2**45, 2), INT8),
        *("m[2]", "Requantize > rescale: z * m` needs 66 bits of 64"),
    ),
    "a shift of 63": (
        *("QLinear", x(CODES, 64), changed(LAYER, "e", 63, 1), INT8),
        *("e[1]", "needs an exponent of 0 to 62, found 63"),
    ),
    "a shift of 0": (
        *("QLinear", x(CODES, 64), changed(LAYER, "e", 0, 1), INT8),
        *("e[1]", "needs an exponent of 0 to 62, found -1"),
    ),
    "codes that their type has not": (
        *("QLinear", x(CODES, 64), changed(LAYER, "hi", 200), INT8),
        *("hi", "saturate: cast(clamp(y, i64(lo), i64(hi)), to)` needs 9 bits of 8"),
    ),
    "too many channels": (
        *("QLinear", x(CODES, 140000), WIDE_LAYER, INT8),
        *("w[:, 1]", "matmul(x, w)` needs 33 bits of 32 for 140000 terms"),
    ),
    "a stream where bytes are multiplied": (
        *("QLinear", x(STREAM, 64), LAYER, INT8),
        *("x (B, 7, 64)", "needs signed bytes, found -32768 to 32767"),
    ),
    "too many tokens": (
        *("MeanTokens", q(STREAM, 2**18, 8), MEAN, INT8),
        *("q (B, 262144, 8)", "rescale: z * m` needs 65 bits of 64"),
    ),
    "more terms than doubles add": (
        *("MeanTokens", q(STREAM, 2**40, 8), MEAN, INT8),
        *("q (B, 1099511627776, 8)", "needs 56 bits of 54 for 1099511627776 terms"),
    ),
    "too many keys for a sum of exponentials": (
        *("FqVitSoftmax", q(CODES, 2**17), SOFTMAX["fqvit"].constants(2.0**-8), 0),
        *("c", "negative_log2: wide_total(exp)` needs 66 bits of 64 for 131072 terms"),
    ),
    "too many keys for 32-bit accumulators": (
        *("IBertAttention", qkv(2**18), scores(2**18, "ibert", "deferred"), 0),
        *("v (B, 3, 262144, 64)", "needs 33 bits of 32 for 262144 terms"),
    ),
    "too many keys for two byte planes": (
        *("LutNormalizedAttention", qkv(2**17), scores(2**17, "lut", "normalized"), 0),
        *("v (B, 3, 131072, 64)", "needs 33 bits of 32 for 131072 terms"),
    ),
    "an index behind the table": (
        *("LutSoftmax", q(CODES, 5), changed(TABLE, "base", 1), INT16),
        *("base", "needs an index of 0 to 255, found 1 to 256"),
    ),
    "a table of zeros": (
        *("LutSoftmax", q(CODES, 5), changed(TABLE, "table", 0), INT16),
        *("table", "quotient(2**32, row)` may divide by 0"),
    ),
    "negative weights in the table": (
        *("LutSoftmax", q(CODES, 5), changed(TABLE, "table", -20000, 3), INT16),
        *("table", "may divide by 0"),
    ),
    "a bias far above its weight": (
        *("IVitLayerNorm", q(STREAM, 4, 8), changed(NORM["ivit"], "bq", 2**40, 5), INT8),
        *("bq[5]", "rescale: z * m` needs 72 bits of 64"),
    ),
    "a huge offset": (
        *("FqVitLayerNorm", q(STREAM, 4, 8), changed(NORM["fqvit"], "bq", 2**60, 5), INT8),
        *("bq[5]", "shift(bq, n + (_GUARD_BITS - BIAS_BITS))` needs 69 bits of 64"),
    ),
    "rows that are too long": (
        *("IBertLayerNorm", q(STREAM, 4, 2**21), NORM["ibert"], INT8),
        *("q (B, 4, 2097152)", "total(shifted * shifted)` needs 55 bits of 54"),
    ),
}


@pytest.mark.parametrize("name", OVERFLOWS)
def test_an_overflow_names_the_step_and_what_to_blame(name: str) -> None:
    operator, activations, constants, to, blame, problem = OVERFLOWS[name]
    attributes = {"to": to} if to else {}
    with pytest.raises(Overflow) as caught:
        proved(OPERATORS[operator], activations, constants, **attributes)
    assert caught.value.blame == blame
    assert problem in str(caught.value)
    assert "op.py, line " in caught.value.where or "facts.py, line " in caught.value.where


def test_what_the_pages_allow_is_proved() -> None:
    """The limits of SPEC.md: tokens of a mean, channels of a LayerNorm, keys of attention."""
    proved(OPERATORS["MeanTokens"], q(STREAM, 2**16, 8), MEAN, to=INT8)
    for method, channels in (("ivit", 2**20), ("ibert", 2**20), ("fqvit", 2048)):
        constants = LAYERNORM[method].constants(np.ones(channels), np.ones(channels), 0.1, 8)
        proved(LAYERNORM[method].operator, q(STREAM, 4, channels), constants, to=INT8)
    largest = np.full(2048, 2.0**22.9)
    constants = LAYERNORM["fqvit"].constants(largest, largest, 1.0, 8)
    proved(fqvit_layernorm, q(STREAM, 4, 2048), constants, to=INT8)
    for method in SOFTMAX:
        proved(ATTENTION[method]["deferred"], qkv(2**11), scores(2**11, method, "deferred"))
        proved(ATTENTION[method]["normalized"], qkv(2**11), scores(2**11, method, "normalized"))


@pytest.mark.parametrize("p", [-31, -4, 0, 16, 60])
def test_rows_without_variance_keep_their_shifts_in_range(p: int) -> None:
    """FqVitLayerNorm does not use what it computes for them, which may wrap; a shift may not."""
    mant = np.array([0, 1, -1, 2**15, -(2**30), 2**31 - 1, 2**31 - 1, -(2**31) + 1], np.int32)
    row = np.array([[v] * 8 for v in (0, 1, -1, 2**15 - 1, -(2**15))], np.int16)
    constants = {**NORM["fqvit"], "mant": mant, "p": np.array(p, np.int32)}
    case = Case(fqvit_layernorm, {"q": row}, constants, {"to": INT8})
    assert (case.compute() == 10).all()  # bias / scale, whatever wrapped
