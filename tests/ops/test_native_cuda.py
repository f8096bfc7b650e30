"""The kernels for GPUs without one: their source runs on the host, and compiles for devices."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from ops_builds import SOURCE, TIMEOUT, build, run
from ops_emulated import SHAPES

from mnq.ops.library import OVERRIDE

pytestmark = [pytest.mark.native, pytest.mark.slow]

TARGETS = ("arch=compute_80,code=sm_80", "arch=compute_90a,code=sm_90a",
           "arch=compute_90,code=compute_90")  # fmt: skip
"""Ampere and later, Hopper's own instructions, and PTX for what comes."""


@pytest.fixture(scope="module")
def emulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library whose kernels for GPUs run on the host."""
    return build(tmp_path_factory.mktemp("emulated"), "-DMNQ_EMULATE_CUDA=ON")


def test_every_operator_gives_the_integers_of_torch(
    emulated: Path, recorded: tuple[Path, int]
) -> None:
    folder, count = recorded
    result = run("ops_replay.py", folder, "cuda", **{OVERRIDE: str(emulated)})
    assert result == {"comparisons": 2 * count, "different": []}


def test_shapes_that_tiles_do_not_divide_give_the_integers_of_the_cpu(emulated: Path) -> None:
    result = run("ops_emulated.py", **{OVERRIDE: str(emulated)})
    assert result == {"shapes": len(SHAPES), "different": []}


def test_everything_compiles_for_devices(tmp_path: Path) -> None:
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        pytest.skip("missing compiler: nvcc, which compiles the kernels for GPUs")
    options = ["-std=c++17", "-O3", "-Xcompiler", "-fPIC", f"-I{SOURCE.parents[1]}"]
    options += [word for target in TARGETS for word in ("-gencode", target)]
    sources = sorted(SOURCE.glob("cuda/*.cu"))
    assert len(sources) > 5
    for source in sources:
        command = [nvcc, *options, "-c", str(source), "-o", str(tmp_path / f"{source.stem}.o")]
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT)
        assert done.returncode == 0, done.stderr[-4000:]
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 30 << 20
