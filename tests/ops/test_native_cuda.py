"""The kernels for GPUs, on one and without: their source also runs on the host."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from ops_builds import SOURCE, TIMEOUT, build, run
from ops_emulated import SHAPES

from mnq.ops.library import OVERRIDE, cuda_lacking, library_path

pytestmark = [pytest.mark.native, pytest.mark.slow]

PTX, MACHINE_CODE = 1, 2
"""Kinds of an entry of a fat binary."""


@pytest.fixture(scope="module")
def emulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library whose kernels for GPUs run on the host."""
    return build(tmp_path_factory.mktemp("emulated"), "-DMNQ_EMULATE_CUDA=ON")


@pytest.fixture(params=["emulated", pytest.param("device", marks=pytest.mark.gpu)])
def library(request: pytest.FixtureRequest) -> Path:
    """A library whose kernels for GPUs run: on the host, and where there is a GPU there."""
    if request.param == "emulated":
        path: Path = request.getfixturevalue("emulated")
        return path
    installed = library_path()
    if installed is None:
        pytest.skip("missing library: the kernels")
    if lacking := cuda_lacking(installed):
        pytest.skip(f"missing GPU: {lacking}")
    return installed


def test_every_operator_gives_the_integers_of_torch(
    library: Path, recorded: tuple[Path, int]
) -> None:
    folder, count = recorded
    result = run("ops_replay.py", folder, "cuda", **{OVERRIDE: str(library)})
    assert result == {"comparisons": 2 * count, "different": []}


@pytest.fixture(params=["mma", "wgmma"])
def cuda_path(request: pytest.FixtureRequest, library: Path) -> str:
    """How layers are multiplied; GPUs have `wgmma` that are of compute capability 9.0."""
    path: str = request.param
    if path == "wgmma" and library == library_path():
        query = ["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"]
        found = subprocess.run(query, capture_output=True, text=True, timeout=TIMEOUT).stdout
        if found.split()[0] != "9.0":
            pytest.skip(f"missing GPU: one of compute capability 9.0, found {found.split()[0]}")
    return path


def test_shapes_that_tiles_do_not_divide_give_the_integers_of_the_cpu(
    library: Path, cuda_path: str
) -> None:
    result = run("ops_emulated.py", **{OVERRIDE: str(library), "MNQ_CUDA_PATH": cuda_path})
    assert result == {"shapes": len(SHAPES), "different": []}


def test_an_unknown_path_is_refused(emulated: Path) -> None:
    script = [sys.executable, str(Path(__file__).with_name("ops_emulated.py"))]
    variables = {**os.environ, OVERRIDE: str(emulated), "MNQ_CUDA_PATH": "dp4a"}
    done = subprocess.run(script, env=variables, capture_output=True, text=True, timeout=TIMEOUT)
    assert "MNQ_CUDA_PATH: expected mma or wgmma, found 'dp4a'; unset it" in done.stderr


def test_sessions_of_onnxruntime_run_whole_models(emulated: Path) -> None:
    check = [sys.executable, str(SOURCE.parents[1] / "conformance" / "check.py"), "kernels"]
    variables = {**os.environ, OVERRIDE: str(emulated)}
    done = subprocess.run(check, env=variables, capture_output=True, text=True, timeout=TIMEOUT)
    assert done.returncode == 0, done.stdout[-4000:]
    assert "model swin                      2        2 ok" in done.stdout


def test_models_run_on_the_provider_of_gpus(library: Path) -> None:
    folders = sorted((SOURCE.parents[1] / "conformance" / "models").iterdir())
    result = run("ops_provider.py", *folders, **{OVERRIDE: str(library)})
    assert result == {"models": 2, "differ": 0}


def entries(binary: bytes) -> Counter[tuple[int, int]]:
    """How many parts of the fat binaries inside are of each kind and compute capability."""
    found: Counter[tuple[int, int]] = Counter()
    at = 0
    while (at := binary.find(struct.pack("<I", 0xBA55ED50), at)) >= 0:
        version, header, size = struct.unpack_from("<HHQ", binary, at + 4)
        at += header
        if (version, header) != (1, 16):
            continue
        end = at + size
        while at < end:
            kind, _, header, size = struct.unpack_from("<HHIQ", binary, at)
            found[kind, *struct.unpack_from("<I", binary, at + 28)] += 1
            at += header + size
    return found


def test_the_library_has_every_kernel_for_devices() -> None:
    if shutil.which("nvcc") is None:
        pytest.skip("missing compiler: nvcc, which compiles the kernels for GPUs")
    library = library_path()
    assert library is not None
    sources = len(list(SOURCE.glob("cuda/*.cu")))
    assert sources > 5
    for wanted in ((MACHINE_CODE, 80), (MACHINE_CODE, 90), (PTX, 80)):
        assert entries(library.read_bytes())[wanted] == sources
    assert library.stat().st_size < 30 << 20
