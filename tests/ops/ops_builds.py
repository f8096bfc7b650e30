"""Other builds of the native library, and recorded cases run on them in a process of its own."""

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

HERE = Path(__file__).parent
SOURCE = HERE.parents[1] / "ops" / "native"
TIMEOUT = 600


def build(folder: Path, *options: str) -> Path:
    """The library built with these options of CMake; skips the test without a compiler."""
    if shutil.which("g++") is None or shutil.which("cmake") is None:
        pytest.skip("missing compiler: g++ and cmake")
    headers = SOURCE.parents[1] / "build" / "native" / "headers" / "usr/include/onnxruntime"
    configure = ["cmake", "-S", str(SOURCE), "-B", str(folder), "-DCMAKE_CXX_COMPILER=g++"]
    configure += ["-DCMAKE_BUILD_TYPE=RelWithDebInfo", "-DMNQ_CUDA=OFF", *options]
    if headers.is_dir():
        configure.append(f"-DONNXRUNTIME_INCLUDE_DIR={headers}")
    subprocess.run(configure, check=True, capture_output=True, timeout=TIMEOUT)
    command = ["cmake", "--build", str(folder), "--parallel", "2"]
    subprocess.run(command, check=True, capture_output=True, timeout=TIMEOUT)
    return folder / "libmnq_ops.so"


def run(script: str, *arguments: object, launcher: tuple[str, ...] = (), **env: str) -> Any:
    """What a script of this folder prints as JSON."""
    command = [*launcher, sys.executable, str(HERE / script), *map(str, arguments)]
    variables: Mapping[str, str] = {**os.environ, "OPENBLAS_NUM_THREADS": "1", **env}
    done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=TIMEOUT)
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout)
