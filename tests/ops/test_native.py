"""The native library by itself: what it has, what it refuses, threads, and what it is made of."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto
from ops_cases import CASES
from ops_harness import Array, Case, assert_same
from ops_native import make_kernel

from mnq.ops.errors import InputError
from mnq.ops.kernels import Kernel, paths, signatures
from mnq.ops.library import cpu_path, library_path
from mnq.ops.registry import OPERATORS

pytestmark = pytest.mark.native

LAYER = "QLinearAdd 8 bits 192 to 96"
ATTENTION = "LutAttention 8 bits 197 tokens"


def kernel_of(case: Case, path: str = "portable") -> Kernel:
    to = case.attributes.get("to", 0)
    return make_kernel(case.operator, case.activations, case.constants, to, path)


def inputs_of(case: Case) -> dict[str, Array]:
    """All inputs in the operator's order."""
    arrays = {**case.activations, **case.constants}
    return {name: arrays[name] for name in case.operator.inputs}


def test_every_operator_has_a_kernel_of_the_same_signature() -> None:
    """The order of the inputs is the contract between a model file and the library."""
    found = signatures()
    assert set(found) == set(OPERATORS)
    for name, (activations, constants, attributes) in found.items():
        assert (*activations, *constants) == OPERATORS[name].inputs
        assert tuple(attributes) == OPERATORS[name].attributes


def test_activations_are_those_of_the_cases() -> None:
    for name, (activations, _, _) in signatures().items():
        case = next(build for key, build in CASES.items() if key.split()[0] == name)()
        assert set(activations) == set(case.activations)


def test_portable_comes_first_and_the_last_path_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MNQ_CPU_PATH", raising=False)
    library = library_path()
    assert library is not None
    assert paths()[0] == "portable"
    assert cpu_path(library) == paths()[-1]


def test_the_path_can_be_chosen_from_the_environment() -> None:
    code = "from mnq.ops.library import *; print(cpu_path(library_path()))"
    for path in paths():
        environment = {**os.environ, "MNQ_CPU_PATH": path}
        command = [sys.executable, "-c", code]
        assert subprocess.check_output(command, text=True, env=environment).strip() == path


def test_only_the_interface_is_exported() -> None:
    if shutil.which("nm") is None:
        pytest.skip("missing program: nm")
    lines = subprocess.check_output(["nm", "-D", "--defined-only", str(library_path())], text=True)
    names = {line.split()[-1] for line in lines.splitlines()}
    assert "RegisterCustomOps" in names
    assert all(re.fullmatch("RegisterCustomOps|mnq_[a-z_]+", name) for name in names), names


def test_nothing_of_onnxruntime_or_python_is_linked() -> None:
    if shutil.which("objdump") is None:
        pytest.skip("missing program: objdump")
    lines = subprocess.check_output(["objdump", "-p", str(library_path())], text=True)
    needed = re.findall(r"NEEDED\s+(\S+)", lines)
    assert needed
    assert not [name for name in needed if re.search("onnx|python", name)]


@pytest.mark.parametrize("path", ["avx2", "avx512", "amx"])
def test_a_path_shares_no_code_with_others(path: str) -> None:
    """A function that several files have is kept once, maybe with instructions a CPU lacks."""
    objects = Path(__file__).parents[2] / f"build/native/CMakeFiles/mnq_path_{path}.dir"
    found = [*objects.rglob("*.o")]
    if not found or shutil.which("nm") is None:
        pytest.skip(f"missing build: nm and the object files of {objects}")
    lines = subprocess.check_output(["nm", "-C", *map(str, found)], text=True).splitlines()
    shared = [line for line in lines if " W " in line]
    assert not [line for line in shared if f"mnq::{path}::" not in line]


def test_any_number_of_threads_gives_the_same_integers() -> None:
    for name in (LAYER, ATTENTION):
        case = CASES[name]()
        for path in paths():
            kernel = kernel_of(case, path)
            for threads in (1, 2, 3, 8, 64):
                assert_same(kernel.run(case.activations, threads), case.expected, path)


def test_a_kernel_runs_in_several_threads_at_once() -> None:
    case = CASES[ATTENTION]()
    kernel = kernel_of(case, paths()[-1])
    results: list[Array] = []

    def work() -> None:
        results.extend(kernel.run(case.activations, 2) for _ in range(5))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 20
    for result in results:
        assert_same(result, case.expected, "concurrent calls")


def test_the_batch_may_change_from_call_to_call() -> None:
    case = CASES[LAYER]()
    kernel = kernel_of(case)
    for batch in (1, 3, 0, 2):
        repeated = {name: np.repeat(x, batch, axis=0) for name, x in case.activations.items()}
        expected = np.repeat(case.expected, batch, axis=0)
        assert_same(kernel.run(repeated, 3), expected, f"batch {batch}")


def test_an_unknown_operator_or_path_is_refused() -> None:
    case = CASES[LAYER]()
    with pytest.raises(InputError, match="expected one of this library, found 'QLinearSub'"):
        Kernel("QLinearSub", {}, set(), TensorProto.INT8, "portable")
    with pytest.raises(InputError, match=r"expected one of portable.*, found 'sse2'"):
        Kernel(case.operator.name, inputs_of(case), set(), TensorProto.INT16, "sse2")


def refusal(case: Case, **changed: object) -> str:
    """What the library says to the case with some constants or `to` changed."""
    to = changed.pop("to", case.attributes.get("to", 0))
    constants = {**case.constants, **changed}
    with pytest.raises(InputError) as caught:
        make_kernel(case.operator, case.activations, constants, to)
    return str(caught.value)


def test_what_is_outside_the_contract_is_refused_with_its_name() -> None:
    case = CASES[LAYER]()
    w = case.constants["w"]
    assert "'w': expected int8, found int16" in refusal(case, w=w.astype(np.int16))
    assert "'w': expected shape (K, N), found" in refusal(case, w=w[0])
    assert "'bias': expected shape (96,), found (95,)" in refusal(
        case, bias=case.constants["bias"][:-1]
    )
    assert "found number 1 of ONNX" in refusal(case, to=TensorProto.FLOAT)


def test_activations_of_a_wrong_shape_are_refused() -> None:
    case = CASES[LAYER]()
    kernel = kernel_of(case)
    x, r = case.activations["x"], case.activations["r"]
    found = r"'x': expected shape \(\.\.\., 192\), found \(1, 50, 191\)"
    with pytest.raises(InputError, match=found):
        kernel.run({"x": x[..., 1:], "r": r})
    with pytest.raises(InputError, match="'r': expected shape"):
        kernel.run({"x": x, "r": r[..., 1:]})


def test_a_constant_has_to_be_one() -> None:
    case = CASES[LAYER]()
    with pytest.raises(InputError, match=r"'w': expected a constant .*, found an activation"):
        Kernel(case.operator.name, inputs_of(case), {"x", "r", "w"}, TensorProto.INT16, "portable")


def test_maps_that_are_no_windows_are_refused() -> None:
    """They would be read, or written through, behind the end of a tensor."""
    case = CASES["LutWindowAttention 6 bits 6 windows of 4"]()
    kind, order, inverse, bias = (case.constants[n] for n in ("kind", "order", "inverse", "bias"))
    assert "'bias': expected shape (K, H, N, N), found (3, 4, 4)" in refusal(case, bias=bias[0])
    assert "'kind': expected shape (6,), found (5,)" in refusal(case, kind=kind[1:])
    assert "'kind': expected numbers from 0 to 1, found 2" in refusal(case, kind=kind * 0 + 2)
    assert "'kind': expected numbers from 0 to 1, found -1" in refusal(case, kind=kind - 1)
    assert "'kind': expected int64, found int32" in refusal(case, kind=kind.astype(np.int32))
    assert "'order': expected shape (W, N), found (24,)" in refusal(case, order=order.reshape(-1))
    assert "'order': expected shape (W, N), found (0, 4)" in refusal(case, order=order[:0])
    assert "'order': expected numbers from 0 to 23, found 24" in refusal(case, order=order + 1)
    assert "'order': expected numbers from 0 to 23, found -1" in refusal(case, order=order - 1)
    assert "'inverse': expected shape (24,), found (23,)" in refusal(case, inverse=inverse[1:])
    twice = order.copy()
    twice[5, 3] = twice[0, 0]
    text = f"expected every token at one place, found {twice[0, 0]} at place 23, and in the inverse"
    assert f"'order' and 'inverse': {text} at 0" in refusal(case, order=twice)
    assert "expected every token at one place" in refusal(case, inverse=inverse[::-1].copy())
    inputs = inputs_of(case)
    with pytest.raises(InputError, match="'bias': expected a constant"):
        Kernel(case.operator.name, inputs, {"qkv", "bias"}, TensorProto.INT8, "portable")


def test_tensors_that_do_not_fit_the_windows_are_refused() -> None:
    case = CASES["LutWindowAttention 6 bits 6 windows of 4"]()
    qkv, bias = case.activations["qkv"], case.constants["bias"]
    kernel = kernel_of(case)
    for wrong in (qkv[:, 1:], qkv[:, :, :2], qkv[:0], qkv[0]):
        with pytest.raises(InputError, match=r"'qkv': expected shape \(B, 24, 3, H, d\), found"):
            kernel.run({"qkv": wrong})
    with pytest.raises(InputError, match="one per head, of which there are 2, found 3"):
        kernel.run({"qkv": qkv[:, :, :, 1:]})
    narrow = Case(case.operator, case.activations, {**case.constants, "bias": bias[:, :, 1:]})
    with pytest.raises(InputError, match=r"'bias': expected a shape that broadcasts to \(2, 3, 4"):
        kernel_of(narrow).run(case.activations)


def test_constants_for_different_numbers_of_heads_are_refused() -> None:
    """They would be read behind their end."""
    case = CASES["IVitAttention 8 bits 197 tokens"]()
    assert "expected the same number of heads in all, found 3 and 2" in refusal(
        case, e_w=case.constants["e_w"][:2]
    )
