"""The footprint of a process, and that ours does not count in it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from runtime_tiny import Tiny

from mnq.ops.errors import EnvironmentLack
from mnq.runtime import child, footprint
from mnq.runtime.engines import Engine
from mnq.runtime.machine import peak_bytes

pytestmark = pytest.mark.onnxruntime


@pytest.fixture
def once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(footprint, "REPEATS", 1)


def test_a_model_takes_memory_and_time(once: None, tiny: Tiny, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(tiny.data)
    ballast = np.ones(400 << 20, np.uint8)  # of this process, not of those measured
    assert peak_bytes() > ballast.nbytes
    ticks: list[int] = []
    empty = footprint.empty(ticks.append)
    found = footprint.measure(Engine("mnq", "mnq", path), 2, 1, ticks.append)
    assert empty.start_seconds == 0
    assert 1e7 < empty.peak_bytes < found.peak_bytes < ballast.nbytes
    assert 0 < found.start_seconds < 60
    assert ticks == [1, 1]


def test_a_process_that_fails_is_an_error(once: None, tmp_path: Path) -> None:
    engine = Engine("peer", "onnxruntime", tmp_path / "none.onnx")
    with pytest.raises(EnvironmentLack, match=r"expected peer to run in a process of its own"):
        footprint.measure(engine, 1, 1)


def test_figures_are_medians_of_three(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = iter([(5, 0.3), (900, 0.1), (7, 0.2)])

    def fake(module: str, *arguments: object) -> dict[str, object]:
        peak, seconds = next(answers)
        return {"peak_bytes": peak, "start_seconds": seconds}

    monkeypatch.setattr(child, "run", fake)
    assert footprint.empty() == footprint.Footprint(7, 0.2)
