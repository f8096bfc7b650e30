"""Measurements: what is kept, found again and forgotten."""

from __future__ import annotations

from pathlib import Path

from toolchain_measured import SITES, complete

from mnq.toolchain import measurements as measuring
from mnq.toolchain.measurements import Measurements, load


def test_round_trip_keeps_everything(tmp_path: Path) -> None:
    path = tmp_path / "m.json"
    path.write_text("an older file")
    complete().save(path)
    text = path.read_text()
    found = load(path)
    assert found == complete()
    assert list(found.sites) == list(SITES)
    found.save(path)
    assert path.read_text() == text
    assert list(tmp_path.iterdir()) == [path]  # no temporary is left


def test_empty_measurements_make_a_round_trip(tmp_path: Path) -> None:
    empty = Measurements("tiny", {}, {"norm": "layernorm"})
    empty.save(tmp_path / "m.json")
    assert load(tmp_path / "m.json") == empty


def test_runs_are_found_by_width_measure_and_name() -> None:
    found = complete()
    assert found.run(8, "isolated", "ibert") is found.runs[1]
    for key in ((4, "isolated", "ibert"), (8, "joint", "ibert"), (8, "isolated", "ivit")):
        assert found.run(*key) is None
    assert found.widths() == [8, 4]
    assert [run.images for run in found.runs] == [2, 2, 2]
    assert measuring.Run(8, "joint", "ivit").images == 0


def test_a_joint_run_with_other_methods_is_forgotten() -> None:
    found = complete()
    runs = list(found.runs)
    methods = dict.fromkeys(SITES, "ivit")
    found.forget(8, "ivit", methods)
    found.forget(8, "nothing of that name", methods)
    found.forget(8, "ibert", dict.fromkeys(SITES, "ibert"))  # is there, but isolated
    assert found.runs == runs
    found.forget(8, "ivit", {**methods, "mlp.act": "lut"})
    assert found.runs == runs[1:]
    found.forget(4, "lut", {"norm1": "ivit"})  # fewer sites
    assert found.runs == runs[1:2]


def test_searches_are_found_by_width_methods_and_sites() -> None:
    found = complete()
    (search,) = found.searches
    assert found.search(8, ("ivit", "lut"), ["attn.softmax"]) is search
    assert found.search(4, ("ivit", "lut"), ["attn.softmax"]) is None
    assert found.search(8, ("lut", "ivit"), ["attn.softmax"]) is None
    assert found.search(8, ("ivit", "lut"), ["attn.softmax", "norm1"]) is None
