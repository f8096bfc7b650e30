import json
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from mnq.ops.errors import EnvironmentLack
from mnq.runtime import selftest
from mnq.runtime.session import LEVELS


def test_expected_integers_are_those_of_onnx_itself() -> None:
    found = ReferenceEvaluator(selftest.model()).run(None, {"x": selftest.images()})
    for values, right in zip(found, selftest.expected().values(), strict=True):
        np.testing.assert_array_equal(values, right)
        assert values.dtype == right.dtype


def test_the_model_asks_what_runtimes_get_wrong() -> None:
    onnx.checker.check_model(selftest.model(), full_check=True)
    right = selftest.expected()
    wide = right["accumulator"].astype(np.int64)
    assert (wide.min(), wide.max()) == (-64 * 128 * 127, 64 * 128 * 128)
    assert (right["quotient"] != wide // 7).any()  # Div truncates
    assert (right["remainder"] != np.fmod(wide, 7)).any()  # Mod has the sign of the divisor
    codes = right["codes"]
    assert (codes.min(), codes.max()) == (-128, 127)
    inside = (codes > -128) & (codes < 127)
    assert (codes[inside] < 0).any()
    assert (codes[inside] > 0).any()


@pytest.mark.onnxruntime
def test_this_onnxruntime_is_right_at_every_level() -> None:
    assert selftest.check("cpu") == dict.fromkeys(LEVELS, "")


@pytest.mark.onnxruntime
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda values: values + (values == 127), r"codes\[0, 0\]: expected 127, found -128"),
        (lambda values: values.astype(np.int16), r"codes: expected int8 \(16, 8\), found int16"),
        (lambda values: values[1:], r"codes: .*, found int8 \(15, 8\)"),
    ],
)
def test_a_wrong_integer_is_named(
    monkeypatch: pytest.MonkeyPatch, change: object, reason: str
) -> None:
    def infer(*_: object) -> list[object]:
        *others, codes = selftest.expected().values()
        return [*others, change(codes)]  # type: ignore[operator]

    monkeypatch.setattr(selftest, "infer", infer)
    wrong = selftest.check("cpu")
    assert list(wrong) == list(LEVELS)
    with pytest.raises(AssertionError, match=reason):
        assert not wrong["all"], wrong["all"]


@pytest.mark.onnxruntime
def test_main_prints_the_answer_as_the_last_line(capsys: pytest.CaptureFixture[str]) -> None:
    selftest.main("cpu")
    answer = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert answer["levels"] == dict.fromkeys(LEVELS, "")
    assert answer["version"] == sys.modules["onnxruntime"].__version__
    assert "CPUExecutionProvider" in answer["providers"]


def test_main_prints_what_is_missing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def load() -> None:
        raise EnvironmentLack("onnxruntime: expected, found, do")

    monkeypatch.setattr(selftest, "load_onnxruntime", load)
    selftest.main("cpu")
    answer = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert answer == {"error": "onnxruntime: expected, found, do"}


@pytest.mark.onnxruntime
def test_a_library_that_does_not_load_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = tmp_path / "libmnq_ops.so"
    library.write_bytes(b"no library")
    monkeypatch.setattr(selftest, "library_path", lambda: library)
    assert f"expected onnxruntime to load {library}, found: " in selftest.refusal()
    monkeypatch.setattr(selftest, "library_path", lambda: None)
    assert selftest.refusal() == ""


@pytest.mark.onnxruntime
@pytest.mark.native
def test_the_library_of_this_install_loads() -> None:
    assert selftest.refusal() == ""
