"""Engines side by side: a row for each, ratios to the first, and errors that are ours."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from runtime_tiny import Tiny

from mnq.ops.errors import InputError
from mnq.runtime import compare, footprint, machine
from mnq.runtime.engines import Engine

pytestmark = pytest.mark.onnxruntime


@pytest.fixture
def pair(tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Engine]:
    """The small model twice, under two names; footprints from one process each."""
    monkeypatch.setattr(footprint, "REPEATS", 1)
    path = tmp_path / "m.onnx"
    path.write_bytes(tiny.data)
    return [Engine("mnq", "mnq", path), Engine("twin", "onnxruntime", path)]


def test_a_row_per_engine_with_every_figure(pair: list[Engine]) -> None:
    ticks: list[int] = []
    found = compare.compare(pair, 2, 1, rounds=3, seconds=60.0, done=ticks.append)
    assert (found.batch, found.threads, found.rounds) == (2, 1, 3)
    assert len(ticks) == compare.steps(pair, 3) == 6
    data = json.loads(json.dumps(found.to_json()))
    own, twin = data["engines"]
    assert (own["name"], twin["name"]) == ("mnq", "twin")
    assert own["times"] == {"median": 1.0, "low": 1.0, "high": 1.0}
    assert twin["times"]["median"] > 0
    assert (own["precision"], twin["precision"]) == (None, "f32")
    ms = own["milliseconds"]
    assert 0 < ms["low"] <= ms["median"] <= ms["high"]
    assert own["images_per_second"] == pytest.approx(2e3 / ms["median"], rel=0.01)
    assert own["file_bytes"] == pair[0].path.stat().st_size
    assert own["peak_bytes"] == own["peak_bytes_above_empty"] + data["empty_peak_bytes"]
    assert own["samples"] >= own["kept"] >= own["clean"]


def test_more_threads_than_cores_are_doubtful(
    pair: list[Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "cores", lambda: 1)
    found = compare.compare(pair[:1], 1, 2, rounds=1, seconds=60.0)
    assert found.doubts[-1] == "2 threads shared 1 cores; ask for fewer"


def test_a_damaged_peer_is_an_error_that_names_the_file(pair: list[Engine], tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.onnx"
    damaged.write_bytes(b"nonsense")
    engines = [pair[0], Engine("peer", "onnxruntime", damaged)]
    with pytest.raises(InputError, match=r"expected peer to run 1 images, .*damaged\.onnx again"):
        compare.compare(engines, 1, 1, rounds=1, seconds=1.0)


def test_surroundings_name_versions_and_machine() -> None:
    found = compare.surroundings()
    assert {"mnq", "numpy", "onnx"} <= set(found["versions"])
    assert found["machine"]["processor"]
    assert found["machine"]["cores"] >= 1
    assert found["image_seed"] == 0
