"""Shares of the operators, from onnxruntime's events and from a real session."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from runtime_tiny import Tiny

from mnq.runtime.profile import RUNS, profile, shares

pytestmark = pytest.mark.onnxruntime


def event(
    name: str, ts: float, dur: float, operator: str = "", cat: str = "Node"
) -> dict[str, Any]:
    return {"name": name, "ts": ts, "dur": dur, "cat": cat, "args": {"op_name": operator}}


def test_shares_are_means_without_the_first_run() -> None:
    events = [{"name": "session_initialization", "ts": 0, "dur": 5, "cat": "Session", "args": {}}]
    for run in range(RUNS + 1):
        start = 1000 * run
        slow = 100 if run == 0 else 1
        events += [
            event("model_run", start, 900, cat="Session"),
            event("a_kernel_time", start + 1, 300 * slow, "MatMul"),
            event("b_kernel_time", start + 2, 100 * slow, "MatMul"),
            event("b_fence_before", start + 2, 7, "MatMul"),
            event("c_kernel_time", start + 3, 600 * slow, "Softmax"),
        ]
    softmax, matmul = shares(events)
    assert (softmax.operator, softmax.nodes) == ("Softmax", 1)
    assert (softmax.milliseconds, softmax.share) == pytest.approx((0.6, 0.6))
    assert (matmul.operator, matmul.nodes) == ("MatMul", 2)
    assert (matmul.milliseconds, matmul.share) == pytest.approx((0.4, 0.4))


def test_a_real_model_is_profiled_and_leaves_no_file(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(tiny.data)
    monkeypatch.chdir(tmp_path)
    found = profile(path, 2, 1)
    assert sum(share.share for share in found) == pytest.approx(1)
    assert found == sorted(found, key=lambda share: -share.share)
    assert all(share.nodes >= 1 for share in found)
    assert [file.name for file in tmp_path.iterdir()] == ["m.onnx"]
