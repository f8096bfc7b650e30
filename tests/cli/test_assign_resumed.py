"""mnq-assign --measurements: whatever interrupts it, it goes on and ends in the same files."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cli_runs import Digits, mnq, payload, refused, start

from mnq.toolchain import sensitivity
from mnq.toolchain.measurements import load
from mnq.toolchain.search import Bench

FILES = ("map.json", "m.json")


@pytest.fixture(scope="module")
def base(digits: Digits) -> tuple[object, ...]:
    """Two batches: 8 images and 1."""
    return ("assign", "--model", "digits", "--calib", digits.train, "--images", 8, "--sample", 9)


def paths(folder: Path) -> tuple[object, ...]:
    return ("--output", folder / "map.json", "--measurements", folder / "m.json")


def content(folder: Path) -> list[bytes]:
    assert sorted(path.name for path in folder.iterdir()) == sorted(FILES)
    return [(folder / name).read_bytes() for name in FILES]


@pytest.fixture(scope="module")
def uninterrupted(
    base: tuple[object, ...], tmp_path_factory: pytest.TempPathFactory
) -> list[bytes]:
    """Map and measurements of a search in one go."""
    folder = tmp_path_factory.mktemp("whole")
    payload(mnq(*base, "--objective", "logits", *paths(folder), "--json"))
    return content(folder)


def interrupting(calls: int, real: Callable[..., Any]) -> Callable[..., Any]:
    """`real`, which Ctrl-C stops at this call."""
    counted: list[object] = []

    def function(*arguments: Any, **options: Any) -> Any:
        counted.append(arguments)
        if len(counted) == calls:
            raise KeyboardInterrupt
        return real(*arguments, **options)

    return function


@pytest.mark.parametrize(
    ("place", "calls"),
    [("sites", 1), ("sites", 2), ("starts", 2), ("search", 20), ("chosen", 4)],
)
def test_an_interrupted_run_goes_on_to_the_same_files(
    base: tuple[object, ...],
    uninterrupted: list[bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    place: str,
    calls: int,
) -> None:
    """While sites are measured, starts compared, methods tried, the chosen map measured."""
    words = (*base, "--objective", "logits", *paths(tmp_path))
    with monkeypatch.context() as patch:
        if place in ("starts", "search"):
            patch.setattr(Bench, "sqnr_db", interrupting(calls, Bench.sqnr_db))
        else:
            real = sensitivity.observe_sites
            patch.setattr(sensitivity, "observe_sites", interrupting(calls, real))
        result = mnq(*words)
    assert result.exit_code == 130
    assert result.stderr.endswith("mnq-assign: interrupted; no file was left half-written\n")
    left = [path.name for path in tmp_path.iterdir()]
    assert left == ([] if (place, calls) == ("sites", 1) else ["m.json"])
    if left:
        load(tmp_path / "m.json")
    payload(mnq(*words, "--json"))
    assert content(tmp_path) == uninterrupted


def test_ctrl_c_in_a_process_of_its_own(
    base: tuple[object, ...], uninterrupted: list[bytes], tmp_path: Path
) -> None:
    before = """
import time
import mnq.toolchain.sensitivity as sensitivity
real, batches = sensitivity.observe_sites, []
def stuck(*arguments):
    batches.append(1)
    if len(batches) == 2:
        print("first batch done", flush=True)
        time.sleep(600)
    return real(*arguments)
sensitivity.observe_sites = stuck
"""
    words = (*base[1:], "--objective", "logits", *paths(tmp_path))
    process = start("assign", *words, before=before)
    assert process.stdout is not None
    assert process.stdout.readline() == "first batch done\n"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.endswith("mnq-assign: interrupted; no file was left half-written\n")
    assert "Traceback" not in err
    assert {run.images for run in load(tmp_path / "m.json").runs} == {8}
    payload(mnq("assign", *words, "--json"))
    assert content(tmp_path) == uninterrupted


def test_ctrl_c_while_writing_leaves_the_old_files(
    base: tuple[object, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "map.json").write_text("a good map")

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupted)
    assert mnq(*base, *paths(tmp_path)).exit_code == 130
    assert [path.name for path in tmp_path.iterdir()] == ["map.json"]
    assert (tmp_path / "map.json").read_text() == "a good map"


def test_what_is_known_is_not_measured_again(
    base: tuple[object, ...],
    uninterrupted: list[bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Another run of the same, and a rule for which the sites have been measured."""
    for name, data in zip(FILES, uninterrupted, strict=True):
        (tmp_path / name).write_bytes(data)
    with monkeypatch.context() as patch:
        patch.setattr(sensitivity, "observe_sites", lambda *_: pytest.fail("measured again"))
        patch.setattr(Bench, "sqnr_db", lambda *_: pytest.fail("searched again"))
        payload(mnq(*base, "--objective", "logits", *paths(tmp_path), "--json"))
    assert content(tmp_path) == uninterrupted
    seen: list[object] = []
    real = sensitivity.observe_sites
    monkeypatch.setattr(
        sensitivity,
        "observe_sites",
        lambda *a: seen.append(a) or real(*a),  # type: ignore[func-returns-value]
    )
    found = payload(mnq(*base, "--rule", "sqnr-signed", *paths(tmp_path), "--json"))
    assert found["rule"] == "sqnr-signed"
    assert len(seen) == 2  # the chosen map, once; that of the search is forgotten


# --- measurements of something else ---


@pytest.fixture(scope="module")
def kept(base: tuple[object, ...], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kept")
    assert mnq(*base, *paths(folder)).exit_code == 0
    return folder / "m.json"


@pytest.mark.parametrize(
    ("options", "different"),
    [
        (("--seed", 1), "images"),
        (("--sample", 8), "images"),
        (("--images", 9), "calibration"),
        (("--no-equalize",), "calibration"),
        (("--calib-method", "minmax"), "settings"),
        (("--range-form", "paper"), "settings"),
        (("--random-weights", 3), "weights, calibration"),
        (("--seed", 1, "--range-form", "paper"), "settings, images"),
    ],
)
def test_measurements_of_something_else_are_refused_and_kept(
    base: tuple[object, ...],
    kept: Path,
    tmp_path: Path,
    options: tuple[object, ...],
    different: str,
) -> None:
    before = kept.read_bytes()
    output = tmp_path / "map.json"
    line = refused(*base, *options, "--measurements", kept, "--output", output)
    assert f"found others in {kept} (different: {different}); " in line
    assert not output.exists() and kept.read_bytes() == before


@pytest.mark.parametrize("key", ["model", "sites"])
def test_measurements_of_another_model_are_refused(
    base: tuple[object, ...], kept: Path, tmp_path: Path, key: str
) -> None:
    changed = json.loads(kept.read_text())
    if key == "model":
        changed["model"] = "deit_t"
    else:
        changed["sites"]["blocks.4.mlp.act"] = "gelu"
        changed["searches"], changed["fronts"] = [], []
    path = tmp_path / "other.json"
    path.write_text(json.dumps(changed))
    line = refused(*base, "--measurements", path, "--output", tmp_path / "map.json")
    assert f"(different: {key})" in line


def test_file_that_holds_no_measurements_is_refused(
    base: tuple[object, ...], tmp_path: Path
) -> None:
    path = tmp_path / "m.json"
    path.write_text('{"format": "mnq-map/1"}')
    line = refused(*base, "--measurements", path, "--output", tmp_path / "map.json")
    assert "measurements: expected mnq-measurements/1, found a fault" in line
    assert [entry.name for entry in tmp_path.iterdir()] == ["m.json"]
