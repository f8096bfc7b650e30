"""mnq-qat in two processes of torchrun, beside one process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from cli_runs import Digits, mnq
from cli_training import OPTIONS, few

from mnq.toolchain.checkpoint import read


@pytest.mark.slow
def test_two_processes_of_torchrun_are_one_run(digits: Digits, tmp_path: Path) -> None:
    """One step of all images; the other process writes and says nothing."""
    small, output = few(digits, tmp_path, 3), tmp_path / "both"
    words = (*OPTIONS, "--batch", 30, "--train", small.train, "--val", small.test)
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2)
    command = (*launcher, "-m", "mnq.cli.qat", *words, "--output", output, "--json")
    found = subprocess.run(
        [sys.executable, *map(str, command)],
        capture_output=True,
        text=True,
        timeout=240,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert found.returncode == 0, found.stderr
    assert "Warning" not in found.stderr, found.stderr
    history = json.loads(found.stdout)["history"]
    files = ["best.safetensors", "curve.svg", "last.safetensors", "log.csv"]
    assert sorted(path.name for path in output.iterdir()) == files
    assert mnq("qat", *words, "--output", tmp_path / "one", "--quiet").exit_code == 0
    one, both = (read(tmp_path / name / "last.safetensors") for name in ("one", "both"))
    assert both.header["history"] == history
    figures = ("epoch", "step", "learning_rate", "loss", "top1", "agreement")
    want = one.header["history"]
    assert [history[0][key] for key in figures] == [want[0][key] for key in figures]
    assert history[1]["step"] == 1
    # Means of 15 losses each, in float32.
    assert history[1]["loss"] == pytest.approx(want[1]["loss"], rel=1e-6)
    assert one.header["scales"] == both.header["scales"]
