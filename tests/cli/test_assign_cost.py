"""mnq-assign --objective cost: the best map that a number of milliseconds buys."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from cli_runs import Digits, mnq, payload, refused

from mnq.toolchain import cost, search
from mnq.toolchain import map as maps
from mnq.toolchain.measurements import Front, load

pytestmark = pytest.mark.onnxruntime

Run = Callable[..., tuple[dict[str, Any], maps.Map]]


@pytest.fixture(scope="module")
def base(digits: Digits) -> tuple[object, ...]:
    return ("assign", "--model", "digits", "--calib", digits.train, "--images", 8, "--sample", 8)


@pytest.fixture(scope="module")
def folder(base: tuple[object, ...], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Costs and measurements of a first run, whose costs are then made to be known ones."""
    made = tmp_path_factory.mktemp("cost")
    files = ("--costs", made / "costs.json", "--measurements", made / "m.json")
    words = (*base, "--objective", "cost", "--budget", 1e6, "--threads", 1, *files)
    result = payload(mnq(*words, "--output", made / "first.json", "--json"))
    assert result["rule"] == "cost"
    costs = json.loads((made / "costs.json").read_text())
    assert (costs["model"], costs["bits"], costs["threads"]) == ("digits", 8, 1)
    known = {"ivit": 1.0, "ibert": 2.0, "fqvit": 0.5, "lut": 4.0}
    costs["sites"] = {s: {m: known[m] for m in table} for s, table in costs["sites"].items()}
    (made / "costs.json").write_text(json.dumps(costs))
    return made


@pytest.fixture(scope="module")
def within(base: tuple[object, ...], folder: Path) -> Run:
    """A function that assigns for a budget, with known costs; once for each."""

    @cache
    def run(budget: float) -> tuple[dict[str, Any], maps.Map]:
        output = folder / f"{budget}.json"
        files = ("--costs", folder / "costs.json", "--measurements", folder / "m.json")
        words = (*base, "--objective", "cost", "--budget", budget, *files)
        result = payload(mnq(*words, "--output", output, "--json"))
        return result, maps.read(output, "digits")

    return run


def milliseconds(folder: Path, mapping: maps.Map) -> float:
    costs = json.loads((folder / "costs.json").read_text())["sites"]
    return float(sum(costs[site][entry["method"]] for site, entry in mapping.sites.items()))


def front(folder: Path) -> Front:
    (found,) = load(folder / "m.json").fronts  # one: a new one takes the old one's place
    return found


# 13 LayerNorm and softmax sites from 0.5 ms, 4 GELU sites from 1 ms.
CHEAPEST = 13 * 0.5 + 4 * 1.0


def test_a_large_budget_buys_what_the_search_chose(within: Run, folder: Path) -> None:
    result, mapping = within(1e6)
    (kept,) = load(folder / "m.json").searches
    best = {site: trial.method for site, trial in kept.sites.items()}
    assert {site: entry["method"] for site, entry in mapping.sites.items()} == best
    assert mapping.provenance["rule"] == "cost"
    assert mapping.provenance["budget_ms"] == 1e6
    assert mapping.provenance["start"] == kept.start
    assert result["logit_sqnr_db"]["chosen"] > 35


def test_the_smallest_budget_buys_the_cheapest_map(within: Run, folder: Path) -> None:
    _, mapping = within(CHEAPEST)
    assert milliseconds(folder, mapping) == pytest.approx(CHEAPEST)


def test_a_budget_is_kept_and_used(within: Run, folder: Path) -> None:
    """The best point of the front that is not too dear, as its own measurements say."""
    best, least = (milliseconds(folder, within(b)[1]) for b in (1e6, CHEAPEST))
    budget = round((best + least) / 2, 3)
    result, mapping = within(budget)
    points = front(folder).points
    affordable = [p for p in points if p.milliseconds <= budget]
    chosen = max(affordable, key=lambda p: p.sqnr_db)
    assert milliseconds(folder, mapping) == pytest.approx(chosen.milliseconds)
    assert {site: entry["method"] for site, entry in mapping.sites.items()} == chosen.sites
    assert result["logit_sqnr_db"]["chosen"] == pytest.approx(chosen.sqnr_db, abs=1e-6)
    assert len(affordable) < len(points)
    reasons = [entry["measured"]["reason"] for entry in mapping.sites.values()]
    assert any("is cheaper" in reason for reason in reasons)


def test_front_goes_down_in_both_figures(within: Run, folder: Path) -> None:
    within(1e6)
    points = front(folder).points
    assert len(points) > 2
    for better, cheaper in pairwise(points):
        assert better.milliseconds > cheaper.milliseconds
        assert better.sqnr_db > cheaper.sqnr_db


def test_too_small_a_budget_is_refused_before_anything_is_measured(
    base: tuple[object, ...], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "greedy", lambda *_: pytest.fail("it searched"))
    words = (*base, "--objective", "cost", "--costs", folder / "costs.json")
    line = refused(*words, "--budget", CHEAPEST - 0.01, "--output", tmp_path / "map.json")
    assert f"expected at least {CHEAPEST:.3f} ms, the cheapest map, found 10.49 ms" in line
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"format": "mnq-map/1"}', "costs: expected mnq-costs/1, found something else"),
        ("{", "costs: expected a JSON file, found: "),
        (None, "costs: expected those of digits at 6 bits"),
    ],
)
def test_costs_of_something_else_are_refused(
    text: str | None, message: str, base: tuple[object, ...], folder: Path, tmp_path: Path
) -> None:
    costs = tmp_path / "costs.json"
    costs.write_text((folder / "costs.json").read_text() if text is None else text)
    bits = 6 if text is None else 8
    words = (*base, "--objective", "cost", "--budget", 50, "--costs", costs, "--bits", bits)
    assert message in refused(*words, "--output", tmp_path / "map.json")
    assert [path.name for path in tmp_path.iterdir()] == ["costs.json"]


def test_costs_are_not_timed_again(
    within: Run, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = (folder / "costs.json").read_bytes()
    monkeypatch.setattr(cost, "measure", lambda *_: pytest.fail("it timed the operators"))
    within(77.0)
    assert (folder / "costs.json").read_bytes() == before
