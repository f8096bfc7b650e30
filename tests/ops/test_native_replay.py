"""The kernels where no ordinary test can go: on an emulated older CPU, and with sanitizers."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from ops_cases import CASES
from ops_replay import record

from mnq.ops.kernels import paths
from mnq.ops.library import OVERRIDE

pytestmark = [pytest.mark.native, pytest.mark.slow]

HERE = Path(__file__).parent
SOURCE = HERE.parents[1] / "ops" / "native"
TIMEOUT = 600


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """A folder with every case of the conformance test, and how many there are."""
    folder = tmp_path_factory.mktemp("cases")
    return folder, record(((name, build()) for name, build in CASES.items()), folder)


def replay(
    folder: Path, paths: list[str], launcher: list[str], environment: Mapping[str, str]
) -> dict[str, Any]:
    command = [*launcher, sys.executable, str(HERE / "ops_replay.py"), str(folder), *paths]
    done = subprocess.run(
        command,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1", **environment},
        capture_output=True,
        text=True,
        timeout=TIMEOUT,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    result: dict[str, Any] = json.loads(done.stdout)
    return result


def test_an_emulated_older_cpu_gives_the_same_integers(recorded: tuple[Path, int]) -> None:
    """Haswell has AVX2 and nothing newer: an instruction of a later CPU would end the process."""
    emulator = shutil.which("qemu-x86_64")
    if emulator is None:
        pytest.skip("missing emulator: qemu-x86_64 (Debian: apt install qemu-user)")
    folder, count = recorded
    launcher = [emulator, "-cpu", "Haswell"]
    result = replay(folder, ["portable", "avx2"], launcher, {})
    assert result == {"comparisons": 4 * count, "different": []}


def test_sanitizers_find_nothing(recorded: tuple[Path, int], tmp_path: Path) -> None:
    """Reads and writes outside of tensors, and undefined behaviour, end the process."""
    runtime = shutil.which("g++") and subprocess.check_output(
        ["g++", "-print-file-name=libasan.so"], text=True
    )
    if not runtime or not Path(runtime.strip()).is_absolute() or shutil.which("cmake") is None:
        pytest.skip("missing sanitizers: g++ with libasan, and cmake")
    headers = SOURCE.parents[1] / "build" / "native" / "headers" / "usr/include/onnxruntime"
    configure = ["cmake", "-S", str(SOURCE), "-B", str(tmp_path), "-DCMAKE_CXX_COMPILER=g++"]
    configure += ["-DMNQ_SANITIZE=address,undefined", "-DCMAKE_BUILD_TYPE=RelWithDebInfo"]
    if headers.is_dir():
        configure.append(f"-DONNXRUNTIME_INCLUDE_DIR={headers}")
    subprocess.run(configure, check=True, capture_output=True, timeout=TIMEOUT)
    build = ["cmake", "--build", str(tmp_path), "--parallel", "2"]
    subprocess.run(build, check=True, capture_output=True, timeout=TIMEOUT)
    folder, count = recorded
    environment = {
        OVERRIDE: str(tmp_path / "libmnq_ops.so"),
        "LD_PRELOAD": str(Path(runtime.strip()).resolve()),
        "ASAN_OPTIONS": "detect_leaks=0",  # Python's own
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "PYTHONMALLOC": "malloc",
    }
    available = paths()
    result = replay(folder, available, [], environment)
    assert result == {"comparisons": 2 * len(available) * count, "different": []}
