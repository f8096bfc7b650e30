"""The kernels where no ordinary test can go: on an emulated older CPU, and with sanitizers."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from ops_builds import build, run

from mnq.ops.kernels import paths
from mnq.ops.library import OVERRIDE

pytestmark = [pytest.mark.native, pytest.mark.slow]


def test_an_emulated_older_cpu_gives_the_same_integers(recorded: tuple[Path, int]) -> None:
    """Haswell has AVX2 and nothing newer: an instruction of a later CPU would end the process."""
    emulator = shutil.which("qemu-x86_64")
    if emulator is None:
        pytest.skip("missing emulator: qemu-x86_64 (Debian: apt install qemu-user)")
    folder, count = recorded
    launcher = (emulator, "-cpu", "Haswell")
    result = run("ops_replay.py", folder, "portable", "avx2", launcher=launcher)
    assert result == {"comparisons": 4 * count, "different": []}


def test_sanitizers_find_nothing(recorded: tuple[Path, int], tmp_path: Path) -> None:
    """Reads and writes outside of tensors, and undefined behaviour, end the process."""
    runtime = shutil.which("g++") and subprocess.check_output(
        ["g++", "-print-file-name=libasan.so"], text=True
    )
    if not runtime or not Path(runtime.strip()).is_absolute():
        pytest.skip("missing sanitizers: g++ with libasan")
    library = build(tmp_path, "-DMNQ_SANITIZE=address,undefined")
    folder, count = recorded
    environment = {
        OVERRIDE: str(library),
        "LD_PRELOAD": str(Path(runtime.strip()).resolve()),
        "ASAN_OPTIONS": "detect_leaks=0",  # Python's own
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "PYTHONMALLOC": "malloc",
    }
    available = paths()
    result = run("ops_replay.py", folder, *available, **environment)
    assert result == {"comparisons": 2 * len(available) * count, "different": []}
