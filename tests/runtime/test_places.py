import pytest

from mnq.ops import library
from mnq.runtime import places, session
from mnq.runtime.place import Place
from mnq.runtime.places import PATHS, kernel_paths, rows

pytestmark = pytest.mark.onnxruntime


def test_every_place_has_a_row_whether_it_is_here_or_not() -> None:
    found = [place for place, _ in rows(4)]
    wanted = [Place("kernels", "disabled", "cpu", n, path) for path in PATHS for n in (1, 4)]
    wanted += [Place("functions", "disabled", "cpu", n) for n in (1, 4)]
    wanted += [Place(engine, "disabled", "cuda") for engine in ("kernels", "functions")]
    wanted += [Place("reference")]
    assert found == wanted


def test_one_thread_is_one_row() -> None:
    assert len(rows(1)) == len(PATHS) + 4


@pytest.mark.native
def test_paths_that_the_processor_lacks_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mnq.ops.kernels.paths", lambda: ["portable", "avx2"])
    assert kernel_paths() == {
        "portable": "",
        "avx2": "",
        "avx512": "this processor has no avx512",
        "amx": "this processor has no amx",
    }


def test_without_a_library_every_path_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "library_path", lambda: None)
    monkeypatch.setattr(places, "why_no_library", lambda: "expected g++, found none; install it")
    reason = "there is no native library: expected g++, found none; install it"
    assert kernel_paths() == dict.fromkeys(PATHS, reason)


def test_a_library_that_is_not_there_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(library.OVERRIDE, "/nowhere/lib.so")
    for reason in kernel_paths().values():
        assert reason.startswith("the native library does not load: MNQ_OPS_LIBRARY: expected")


def test_a_provider_that_onnxruntime_lacks_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"])
    reasons = {place.provider: reason for place, reason in rows(1)}
    assert reasons["cuda"] == "this onnxruntime has CPUExecutionProvider only"
    both = ["CUDAExecutionProvider", "CPUExecutionProvider"]
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: both)
    monkeypatch.setattr(places, "why_no_kernels", lambda _: "expected a GPU, found none")
    assert dict(rows(1))[Place("functions", "disabled", "cuda")] == ""
    assert dict(rows(1))[Place("kernels", "disabled", "cuda")] == "expected a GPU, found none"
    monkeypatch.setenv(library.OVERRIDE, "/nowhere/lib.so")
    monkeypatch.setattr(places, "why_no_kernels", session.why_no_kernels)
    reason = dict(rows(1))[Place("kernels", "disabled", "cuda")]
    assert reason.startswith("the native library does not load: MNQ_OPS_LIBRARY: expected")
