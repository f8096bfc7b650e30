"""Assignment: from what was asked for to a map, on the digits model."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from importlib import metadata
from typing import Any

import pytest

from mnq.cli import assignment
from mnq.cli.assignment import Request, assign, measure
from mnq.cli.workbench import Workbench
from mnq.ops.errors import InputError
from mnq.ops.registry import UNIFORM
from mnq.toolchain import assign as assigning
from mnq.toolchain import cost
from mnq.toolchain.cost import Costs
from mnq.toolchain.map import Map
from mnq.toolchain.measurements import CHOSEN, Measurements

Make = Callable[..., Workbench]
ALL = tuple(UNIFORM)
ASKED = Request(8, "sqnr-drop", "isolated", "all", "all")
SOME = ["blocks.0.norm2", "blocks.1.attn.softmax", "blocks.3.mlp.act"]


def methods(mapping: Map) -> dict[str, str]:
    return {site: str(entry["method"]) for site, entry in mapping.sites.items()}


def runs(found: Measurements) -> list[tuple[int, str, str]]:
    return [(run.bits, run.measure, run.name) for run in found.runs]


@pytest.fixture
def some_sites(monkeypatch: pytest.MonkeyPatch) -> None:
    """A model where the paper searches three sites only."""
    real = assigning.searched
    monkeypatch.setattr(
        assigning, "searched", lambda graph, which: SOME if which == "paper" else real(graph, which)
    )


# --- measuring ---


@pytest.mark.parametrize("how", ["isolated", "joint"])
def test_all_allowed_methods_are_measured(make_bench: Make, how: str) -> None:
    bench = make_bench()
    measure(bench, 8, how, ("ivit", "fqvit"))
    assert runs(bench.measurements) == [(8, how, "ivit"), (8, how, "fqvit")]
    fqvit = bench.measurements.runs[1].sites["blocks.0.norm1"]
    assert fqvit.method == "fqvit" and len(fqvit.output.signal) == 10
    alone = "blocks.0.mlp.act" in bench.measurements.runs[1].sites
    assert alone == (how == "joint")  # its stand-in


def test_widths_are_measured_once_each_and_the_map_has_its_own(make_bench: Make) -> None:
    bench = make_bench()
    mapping = assign(bench, replace(ASKED, methods="paper", sweep=(6, 8, 6)))
    wanted = [(bits, "isolated", name) for bits in (8, 6) for name in ("ivit", "ibert", "fqvit")]
    assert runs(bench.measurements) == [*wanted, (8, "joint", CHOSEN)]
    assert mapping.activation_bits == mapping.weight_bits == 8


# --- rules ---


@pytest.mark.parametrize("rule", assigning.RULES)
@pytest.mark.parametrize("how", ["isolated", "joint"])
def test_rules_read_the_measure_that_was_asked_for(make_bench: Make, rule: str, how: str) -> None:
    bench = make_bench()
    mapping = assign(bench, replace(ASKED, rule=rule, measure=how))
    found = assigning.figures(bench.measurements, 8, how, ALL)
    expected = {site: assigning.choose(entries, rule) for site, entries in found.items()}
    assert methods(mapping) == expected
    chosen = bench.measurements.run(8, "joint", CHOSEN)
    assert chosen is not None and chosen.images == 10
    assert {site: entry.method for site, entry in chosen.sites.items()} == expected


def test_provenance_says_how_the_map_was_made(make_bench: Make) -> None:
    bench = make_bench()
    mapping = assign(bench, replace(ASKED, rule="sqnr-output", methods="paper"))
    assert mapping.provenance == {
        "rule": "sqnr-output",
        "measure": "isolated",
        "methods": "paper",
        "sites": "all",
        "images": bench.sample.provenance,
        "calibration": bench.statistics.provenance,
        "versions": {name: metadata.version(name) for name in ("mnq", "torch", "timm")},
    }
    assert "lut" not in methods(mapping).values()


@pytest.mark.parametrize("rule", ["sqnr-drop", "logits"])
def test_sites_outside_the_papers_search_stay_at_its_base(
    make_bench: Make, some_sites: None, rule: str
) -> None:
    """For a search its start, too."""
    bench = make_bench()
    mapping = assign(bench, replace(ASKED, rule=rule, sites="paper"))
    for site, method in methods(mapping).items():
        reason = mapping.sites[site]["measured"]["reason"]
        if site not in SOME:
            assert method == "ivit"
        assert ("stays at the base method" in reason) == (site not in SOME)
    assert set(methods(mapping).values()) != {"ivit"}
    assert [list(s.sites) for s in bench.measurements.searches] == (
        [SOME] if rule == "logits" else []
    )


# --- searches ---


def test_a_search_may_start_from_every_uniform_map_and_the_output_rule(make_bench: Make) -> None:
    bench = make_bench()
    measure(bench, 8, "joint", ALL)
    found = assigning.figures(bench.measurements, 8, "joint", ALL)
    sites = list(bench.measurements.sites)
    starts = assignment._starts(bench, 8, "joint", ALL, found, sites)
    assert list(starts) == [*ALL, "joint, sqnr-output"]
    for name in ALL:
        assert starts[name] == bench.variants(8).uniform(name)
    for site, entries in found.items():
        best = max(entries, key=lambda m: entries[m]["output"])
        assert starts["joint, sqnr-output"][site] == best
    # Where only some sites are chosen for, the others are the same in all of them.
    starts = assignment._starts(bench, 8, "joint", ("ivit", "lut"), found, SOME)
    assert list(starts) == ["ivit", "lut", "joint, sqnr-output"]
    for site, kind in bench.measurements.sites.items():
        expected = UNIFORM["lut"][kind] if site in SOME else "ivit"
        assert starts["lut"][site] == expected


def test_a_search_chooses_by_the_logits(make_bench: Make) -> None:
    bench = make_bench()
    mapping = assign(bench, replace(ASKED, rule="logits"))
    (search,) = bench.measurements.searches
    assert methods(mapping) == {site: trial.method for site, trial in search.sites.items()}
    assert mapping.provenance["start"] == search.start
    chosen = bench.measurements.run(8, "joint", CHOSEN)
    last = list(search.sites.values())[-1]
    assert chosen is not None
    assert chosen.logits.sqnr_db() == pytest.approx(last.sqnr_db[last.method], abs=1e-6)
    assert chosen.logits.sqnr_db() >= search.start_db - 1e-6


# --- budgets ---


# Tables are dear, I-BERT is cheap: 17 ms for all sites.
KNOWN = {"ivit": 2.0, "ibert": 1.0, "fqvit": 3.0, "lut": 10.0}


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Nothing is timed; the calls that would have been made."""
    calls: list[Any] = []

    def fake(variants: Any, model: str, images: Any, threads: int, done: Any) -> Costs:
        calls.append((model, len(images), threads))
        sites = {s: {m: KNOWN[m] for m in found} for s, found in variants.steps.items()}
        return Costs(model, variants.bits, threads, {}, sites)

    monkeypatch.setattr(cost, "measure", fake)
    return calls


def test_a_budget_is_kept(make_bench: Make, timed: list[Any]) -> None:
    bench = make_bench()
    asked = replace(ASKED, rule="cost", budget=40.0, threads=3)
    mapping = assign(bench, asked)
    assert timed == [("digits", 8, 3)]
    spent = sum(KNOWN[method] for method in methods(mapping).values())
    (front,) = bench.measurements.fronts
    best = max((p for p in front.points if p.milliseconds <= 40.0), key=lambda p: p.sqnr_db)
    assert methods(mapping) == best.sites and spent == pytest.approx(best.milliseconds)
    assert 17.0 <= spent <= 40.0 < max(p.milliseconds for p in front.points)
    assert mapping.provenance["budget_ms"] == 40.0
    assert (front.bits, front.methods) == (8, list(ALL))
    again = assign(bench, replace(asked, budget=17.0))
    assert set(methods(again).values()) == {"ibert"}
    assert len(bench.measurements.fronts) == len(bench.measurements.searches) == 1


def test_too_small_a_budget_is_refused_before_the_search(
    make_bench: Make, timed: list[Any]
) -> None:
    bench = make_bench()
    with pytest.raises(InputError, match=r"at least 17.000 ms, the cheapest map, found 16.9 ms"):
        assign(bench, replace(ASKED, rule="cost", budget=16.9))
    assert bench.measurements.runs == bench.measurements.searches == []


def test_costs_are_kept_and_read(make_bench: Make, timed: list[Any], tmp_path: Any) -> None:
    bench = make_bench()
    asked = replace(ASKED, rule="cost", budget=1e3, costs=tmp_path / "costs.json")
    mappings = [assign(bench, asked) for _ in range(2)]
    assert len(timed) == 1
    assert mappings[0] == mappings[1]
    assert [path.name for path in tmp_path.iterdir()] == ["costs.json"]
