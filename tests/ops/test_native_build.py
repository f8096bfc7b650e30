"""What the build of the native library does where it lacks something; compiles nothing."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

SOURCES = Path(__file__).parents[2] / "ops/native"


@pytest.fixture(autouse=True)
def cmake() -> None:
    if shutil.which("cmake") is None:
        pytest.skip("missing program: cmake")


def configured(build: Path, *definitions: str, **environment: str) -> tuple[str, str]:
    """What CMake prints, and the reason that it leaves; "" where it can build a library."""
    command = ["cmake", "-S", str(SOURCES), "-B", str(build), *definitions]
    done = subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, text=True, check=True
    )
    note = build / "no_library.txt"
    return done.stdout + done.stderr, note.read_text() if note.is_file() else ""


def header(folder: Path, version: int) -> str:
    folder.mkdir()
    (folder / "onnxruntime_c_api.h").write_text(f"#define ORT_API_VERSION {version}\n")
    return str(folder)


def test_without_a_compiler_there_is_a_loud_reason_and_no_library(tmp_path: Path) -> None:
    output, reason = configured(tmp_path, CXX="/nowhere/c++")
    assert "NO NATIVE LIBRARY: expected a C++ compiler, found none" in " ".join(output.split())
    assert reason.startswith("expected a C++ compiler, found none; install one")
    place = tmp_path / "installed"
    subprocess.run(["cmake", "--install", str(tmp_path), "--prefix", str(place)], check=True)
    assert [path.name for path in place.iterdir()] == ["no_library.txt"]


@pytest.mark.native
def test_headers_come_from_the_variable_before_the_environment(tmp_path: Path) -> None:
    good, other = header(tmp_path / "good", 21), header(tmp_path / "other", 23)
    variable = f"-DONNXRUNTIME_INCLUDE_DIR={good}"
    output, reason = configured(tmp_path / "build", variable, ORT_INCLUDE_DIR=other)
    assert f"onnxruntime's headers: 1.21 in {good}" in output
    assert reason == ""
    output, reason = configured(tmp_path / "build2", ORT_INCLUDE_DIR=other)
    assert f"onnxruntime's headers: 1.23 in {other}" in output


@pytest.mark.native
def test_headers_that_are_wrong_are_named(tmp_path: Path) -> None:
    _, reason = configured(tmp_path / "build", ORT_INCLUDE_DIR=str(tmp_path))
    assert f"expected onnxruntime_c_api.h in {tmp_path}, found no such file; install" in reason
    old = header(tmp_path / "old", 20)
    _, reason = configured(tmp_path / "build2", ORT_INCLUDE_DIR=old)
    assert f"expected onnxruntime's headers of 1.21 or newer, found 1.20 in {old}; " in reason


@pytest.mark.native
def test_without_nvcc_the_library_has_no_kernels_for_gpus_and_says_so(tmp_path: Path) -> None:
    headers = header(tmp_path / "headers", 21)
    output, reason = configured(
        tmp_path / "build", f"-DONNXRUNTIME_INCLUDE_DIR={headers}", CUDACXX="/nowhere/nvcc"
    )
    assert "NO KERNELS FOR GPUS: expected nvcc 12 or newer that compiles" in output
    assert "found /nowhere/nvcc, which does not" in " ".join(output.split())
    assert reason == ""
    output, _ = configured(tmp_path / "build", "-DMNQ_CUDA=OFF")
    assert "NO KERNELS FOR GPUS: it was built without" in output
