from pathlib import Path

import pytest

import mnq.ops
from mnq.ops import library
from mnq.ops.errors import EnvironmentLack
from mnq.ops.library import (
    NAME,
    OVERRIDE,
    cpu_path,
    cuda_lacking,
    library_path,
    why_no_library,
)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An install of its own, empty at first."""
    monkeypatch.delenv(OVERRIDE, raising=False)
    monkeypatch.setattr(mnq.ops, "__path__", ["/nowhere", str(tmp_path)])
    return tmp_path


def test_the_library_lies_beside_the_package(folder: Path) -> None:
    (folder / NAME).touch()
    assert library_path() == mnq.ops.library_path() == folder / NAME


def test_without_one_the_build_says_why(folder: Path) -> None:
    assert library_path() is None
    assert "unset MNQ_NO_OPS, and install mnq again" in why_no_library()
    (folder / "no_library.txt").write_text("expected a compiler, found none; install one\n")
    assert library_path() is None
    assert why_no_library() == "expected a compiler, found none; install one"


def test_another_build_can_be_named(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = folder / "other.so"
    monkeypatch.setenv(OVERRIDE, str(other))
    with pytest.raises(EnvironmentLack, match=r"^MNQ_OPS_LIBRARY: expected .*; correct it or"):
        library_path()
    other.touch()
    assert library_path() == other
    monkeypatch.setenv(OVERRIDE, "")
    assert library_path() is None


def test_a_file_that_is_no_library_of_ours_is_refused(folder: Path) -> None:
    (folder / NAME).write_text("text")
    with pytest.raises(EnvironmentLack, match=r"expected a library of this mnq, found .*; install"):
        cpu_path(folder / NAME)


@pytest.mark.native
def test_a_path_that_the_machine_lacks_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MNQ_CPU_PATH", "sse2")
    path = library.library_path()
    assert path is not None
    with pytest.raises(EnvironmentLack, match=r"expected one of portable.*, found 'sse2'; unset"):
        cpu_path(path)


@pytest.mark.native
def test_kernels_for_gpus_run_here_or_it_is_said_why() -> None:
    path = library_path()
    assert path is not None
    lacking = cuda_lacking(path)
    assert lacking == "" or lacking.startswith(("expected a GPU", "the library has no kernels"))


def test_what_is_no_library_is_refused(tmp_path: Path) -> None:
    (tmp_path / "lib.so").write_text("text")
    with pytest.raises(EnvironmentLack, match=r"expected a library of this mnq, found .*; install"):
        cuda_lacking(tmp_path / "lib.so")
