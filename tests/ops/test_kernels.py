"""Operators by the library's C interface, a kernel for each call: torch's integers, or an error."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto
from ops_cases import CASES
from ops_harness import Array, Case, assert_same

from mnq.ops import kernels
from mnq.ops.errors import EnvironmentLack, InputError
from mnq.ops.integer import INT8, INT16
from mnq.ops.kernels import Kernel, paths, run, signatures
from mnq.ops.requantize.op import constants as requantize_constants
from mnq.ops.requantize.op import requantize

# One of each kind: with `to` and without, one activation to three, int8 and int16 outputs.
NAMES = [
    "QLinear 8 bits 192 to 96",
    "QLinearAdd 8 bits 192 to 96",
    "RequantizeAdd 16 bits",
    "QMatMul 8 bits",
    "IVitLayerNorm 16 bits C=192 from 16 bits",
    "LutGelu 6 bits scale 0.13",
    "IBertSoftmax 16 bits scale 0.05",
    "FqVitNormalizedAttention 6 bits 49 tokens masked",
    "LutPackedAttention 4 bits 16 tokens",
    "IBertWindowAttention 6 bits 6 windows of 4",
    "Patches 8 bits pixels",
]
LAYER = NAMES[1]


@cache
def case_of(name: str) -> Case:
    return CASES[name]()


def ordered(case: Case) -> tuple[dict[str, Array], dict[str, Array]]:
    """The case's activations and constants in the operator's order."""
    names = case.operator.inputs
    activations = {name: case.activations[name] for name in names if name in case.activations}
    return activations, {name: case.constants[name] for name in names if name in case.constants}


def call(case: Case, change: Callable[[Array], Array] = np.asarray, threads: int = 1) -> Array:
    """What `run` returns with every input changed so."""
    activations, constants = (
        {name: change(array) for name, array in part.items()} for part in ordered(case)
    )
    to = case.attributes.get("to", 0)
    return run(case.operator.name, activations, constants, to, threads)


def spread(array: Array) -> Array:
    """The same values, every other one in memory and in the order of columns."""
    wide = np.zeros([2 * n for n in array.shape], array.dtype, order="F")
    wide[tuple(slice(None, None, 2) for _ in array.shape)] = array
    return wide[tuple(slice(None, None, 2) for _ in array.shape)]


@pytest.mark.native
@pytest.mark.parametrize("name", NAMES)
def test_run_gives_the_integers_of_the_definition(name: str) -> None:
    case = case_of(name)
    for threads in (1, 3):
        assert_same(call(case, threads=threads), case.expected, f"{name}, {threads} threads")


@pytest.mark.native
@pytest.mark.parametrize("name", NAMES)
def test_inputs_may_lie_in_memory_as_they_like(name: str) -> None:
    case = case_of(name)
    for array in case.activations.values():
        assert not spread(array).flags.c_contiguous
    assert_same(call(case, spread), case.expected, name)


@pytest.mark.native
@settings(deadline=None, derandomize=True, max_examples=60, database=None)
@given(
    st.permutations(range(3)),
    st.tuples(*[st.sampled_from([-2, -1, 1, 2])] * 3),
    st.tuples(*[st.integers(1, 5)] * 3),
    st.sampled_from([np.int8, np.int16, np.int32]),
)
def test_any_view_of_an_activation_is_read_as_its_copy_is(
    perm: list[int], steps: tuple[int, ...], shape: tuple[int, ...], kind: type[np.signedinteger]
) -> None:
    """Transposed, reversed, and with gaps."""
    info = np.iinfo(kind)
    whole = np.random.default_rng(sum(shape)).integers(info.min, info.max, (10, 10, 10))
    view = whole.astype(kind).transpose(perm)[tuple(slice(None, None, s) for s in steps)]
    view = view[tuple(slice(0, n) for n in shape)]
    constants = requantize_constants(2.0**-7 if kind is np.int16 else 2.0**-20, 8)
    expected = Case(requantize, {"z": view.copy()}, constants, {"to": INT8}).expected
    assert_same(run("Requantize", {"z": view}, constants, INT8), expected, str(view.strides))


@pytest.mark.native
def test_constants_of_no_axis_are_passed_as_they_are() -> None:
    """Limits, shared multipliers, a bias of one number; as arrays and as numpy's scalars."""
    found = [
        {name for name, array in case_of(each).constants.items() if array.ndim == 0}
        for each in NAMES
    ]
    assert {"lo", "hi", "bias", "m", "e"} <= set().union(*found)
    case = case_of("QMatMul 8 bits")
    scalar = call(case, lambda array: array[()])  # a 0-d array becomes a scalar
    assert_same(scalar, case.expected, "scalars")


@pytest.mark.native
def test_the_output_has_the_type_that_was_asked_for() -> None:
    z = np.arange(-(2**20), 2**20, 1001, dtype=np.int32)[None]
    constants = requantize_constants(2.0**-6, 16)
    for to, kind in ((INT16, np.int16), (INT8, np.int8)):
        if to == INT8:
            constants = requantize_constants(2.0**-14, 8)
        found = run("Requantize", {"z": z}, constants, to)
        assert found.dtype == kind and np.abs(found.astype(int)).max() > np.iinfo(kind).max // 2
        assert_same(found, Case(requantize, {"z": z}, constants, {"to": to}).expected, str(kind))


@pytest.mark.native
def test_the_result_is_new_memory_and_the_inputs_stay() -> None:
    case = case_of(LAYER)
    before = {name: array.copy() for name, array in case.activations.items()}
    first, second = call(case), call(case)
    assert not np.shares_memory(first, second)
    first[...] = 0
    assert_same(second, case.expected, "after a write to the first result")
    for name, array in case.activations.items():
        assert_same(array, before[name], name)


# --- refusals ---


def refusal(name: str, changed: dict[str, Array], to: int | None = None) -> str:
    """What `run` says to the layer with some inputs changed, as `name`."""
    activations, constants = ordered(case_of(LAYER))
    activations |= {key: value for key, value in changed.items() if key in activations}
    constants |= {key: value for key, value in changed.items() if key in constants}
    with pytest.raises(InputError) as caught:
        run(name, activations, constants, INT16 if to is None else to)
    return str(caught.value)


@pytest.mark.native
def test_what_the_library_refuses_is_an_input_error_with_its_words() -> None:
    activations, constants = ordered(case_of(LAYER))
    x, w = activations["x"], constants["w"]
    assert "found 'QLinearSub'" in refusal("QLinearSub", {})
    assert "'x': expected int8" in refusal("QLinearAdd", {"x": x.astype(np.int32)})
    assert "'x': expected shape (..., 192)" in refusal("QLinearAdd", {"x": x[..., 1:]})
    assert "'r': expected shape" in refusal("QLinearAdd", {"r": activations["r"][..., 1:]})
    assert "'w': expected int8, found int16" in refusal("QLinearAdd", {"w": w.astype(np.int16)})
    assert "found number 1 of ONNX" in refusal("QLinearAdd", {}, TensorProto.FLOAT)


@pytest.mark.native
def test_a_refused_call_does_not_spoil_the_next_one() -> None:
    refusal("QLinearAdd", {}, TensorProto.FLOAT)
    case = case_of(LAYER)
    assert_same(call(case), case.expected, LAYER)


@pytest.mark.native
def test_a_path_that_the_machine_lacks_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "_chosen_path", cache(kernels._chosen_path.__wrapped__))
    monkeypatch.setenv("MNQ_CPU_PATH", "sse2")
    with pytest.raises(EnvironmentLack, match="found 'sse2'"):
        call(case_of(LAYER))
    monkeypatch.setenv("MNQ_CPU_PATH", "portable")
    assert_same(call(case_of(LAYER)), case_of(LAYER).expected, "portable, by the environment")


USES: dict[str, Callable[[], object]] = {
    "run": lambda: call(case_of(LAYER)),
    "Kernel": lambda: Kernel("Requantize", {}, set(), INT8, "portable"),
    "paths": paths,
    "signatures": signatures,
}


@pytest.mark.parametrize("use", USES)
def test_without_a_library_the_error_says_why(use: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "_library", cache(kernels._library.__wrapped__))
    monkeypatch.setattr(kernels, "library_path", lambda: None)
    monkeypatch.setattr(kernels, "why_no_library", lambda: "expected a compiler; install one")
    for _ in range(2):  # the answer is not remembered as a library
        with pytest.raises(EnvironmentLack, match="found none; expected a compiler; install one"):
            USES[use]()


@pytest.mark.native
def test_the_library_is_found_again_once_it_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kernels, "_library", cache(kernels._library.__wrapped__))
    with monkeypatch.context() as without:
        without.setattr(kernels, "library_path", lambda: None)
        with pytest.raises(EnvironmentLack):
            paths()
    case = case_of(LAYER)
    assert_same(call(case), case.expected, LAYER)
