"""The programs in examples/ run an exported model with onnxruntime and the library alone."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from cli_runs import Digits

from mnq.ops.library import library_path

pytestmark = [pytest.mark.onnxruntime, pytest.mark.native]

ROOT = Path(__file__).resolve().parents[2]
PYTHON, CPP = ROOT / "examples/run.py", ROOT / "examples/run.cc"
HEADERS = (
    Path(os.environ.get("ORT_INCLUDE_DIR", "/nowhere")),
    Path("/usr/include/onnxruntime"),
    ROOT / "build/native/headers/usr/include/onnxruntime",
)

Program = Callable[..., str]


def output(command: list[str | Path], *arguments: object) -> str:
    done = subprocess.run(
        [*command, *map(str, arguments)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Program:
    """The C++ program, linked to the library inside onnxruntime's wheel."""
    compiler = shutil.which("c++")
    header = next((path for path in HEADERS if (path / "onnxruntime_cxx_api.h").is_file()), None)
    if compiler is None or header is None:
        pytest.skip("missing compiler: c++ and onnxruntime_cxx_api.h")
    spec = find_spec("onnxruntime")
    assert spec is not None
    assert spec.origin is not None
    libraries = [*(Path(spec.origin).parent / "capi").glob("libonnxruntime.so.*")]
    if not libraries:
        pytest.skip("missing libonnxruntime: this onnxruntime has none to link to")
    folder = tmp_path_factory.mktemp("program")
    for name in ("libonnxruntime.so", "libonnxruntime.so.1"):
        (folder / name).symlink_to(libraries[0])
    program = folder / "run"
    flags = ["-std=c++17", "-Wall", "-Wextra", "-Werror", "-isystem", header]
    link = [f"-L{folder}", "-lonnxruntime", f"-Wl,-rpath,{folder}"]
    subprocess.run([compiler, *flags, CPP, *link, "-o", program], check=True)
    return lambda *arguments: output([program], *arguments)


def test_both_programs_print_the_same_logits(exported: Digits, compiled: Program) -> None:
    printed = {
        run(exported.onnx, library)
        for run in (compiled, lambda *arguments: output([sys.executable, PYTHON], *arguments))
        for library in (library_path(), "-")
    }
    (text,) = printed
    assert len(text.splitlines()) == 5
    assert text.startswith("class ")


def test_both_programs_read_pixels(exported: Digits, compiled: Program, tmp_path: Path) -> None:
    pixels = tmp_path / "pixels"
    pixels.write_bytes(np.arange(64, dtype=np.uint8).tobytes())
    given = (exported.onnx, library_path(), pixels)
    assert compiled(*given) == output([sys.executable, PYTHON], *given)
    assert compiled(*given) != compiled(*given[:2])


def test_the_cpp_program_says_what_is_wrong(exported: Digits, compiled: Program) -> None:
    with pytest.raises(AssertionError, match="pixels: expected a file of 64 bytes"):
        compiled(exported.onnx, library_path(), PYTHON)
    with pytest.raises(AssertionError, match=r"usage: run MODEL\.ONNX"):
        compiled(exported.onnx)
