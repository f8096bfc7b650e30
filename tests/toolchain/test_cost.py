"""Cost: operators timed one by one, and the maps between the best and the cheapest."""

from __future__ import annotations

import random
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import toolchain_models as models
from hypothesis import given, settings
from hypothesis import strategies as st
from toolchain_harness import METHODS as NAMES
from toolchain_harness import Quantized, batches, exact

from mnq.ops.registry import METHODS
from mnq.toolchain import cost
from mnq.toolchain.cost import POINTS, ROUNDS, Costs, cheaper_maps, check_budget
from mnq.toolchain.measurements import Search, Trial
from mnq.toolchain.program import Step
from mnq.toolchain.search import Bench, greedy, start
from mnq.toolchain.variants import PAPER_METHODS, Methods, Variants

Refusal = Callable[..., str]
BATCHES = batches(models.pixels(4, seed=41), 4)


@pytest.fixture(scope="module")
def variants(quantized: Quantized) -> Variants:
    return quantized.variants(8)


@pytest.fixture(scope="module")
def costs(variants: Variants) -> Costs:
    """Milliseconds that nobody measured; never two alike."""
    draw = random.Random(1)
    sites = {
        site: {method: draw.uniform(0.1, 2.0) for method in steps}
        for site, steps in variants.steps.items()
    }
    return Costs("tiny", 8, 1, {"processor": "none"}, sites)


@pytest.fixture(scope="module")
def searched(quantized: Quantized, variants: Variants) -> tuple[Search, Methods]:
    bench = Bench(quantized.graph, BATCHES)
    search = start(variants, bench, NAMES, list(variants.sites), {"ivit": variants.uniform("ivit")})
    return search, greedy(search, variants, bench)


# --- milliseconds ---


@pytest.mark.onnxruntime
def test_every_method_at_every_site_has_a_time(
    variants: Variants, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of one image; operators of one shape are timed once."""
    rounds: list[int] = []
    timed: list[str] = []
    real = cost.lower_step

    def lower_step(step: Step, inputs: list[Any]) -> Any:
        assert {len(x) for x in inputs} == {1}
        timed.append(step.operator)
        return real(step, inputs)

    monkeypatch.setattr(cost, "lower_step", lower_step)
    found = cost.measure(variants, "tiny", models.pixels(2), 1, rounds.append)
    assert (found.model, found.bits, found.threads) == ("tiny", 8, 1)
    assert set(found.machine) == {"processor", "onnxruntime"}
    assert rounds == [1] * ROUNDS
    for site, kind in variants.sites.items():
        assert list(found.sites[site]) == [m for m in found.sites[site] if m in METHODS[kind]]
        assert set(found.sites[site]) == set(METHODS[kind])
        assert all(0 < value < 1e4 for value in found.sites[site].values())
    assert sorted(timed) == sorted(
        {s.operator for t in variants.steps.values() for s in t.values()}
    )
    assert found.sites["blocks.0.mlp.act"] == found.sites["blocks.1.mlp.act"]
    assert found.sites["blocks.0.mlp.act"] != found.sites["blocks.0.norm1"]


def test_cost_of_a_map_is_the_sum_of_its_sites(variants: Variants, costs: Costs) -> None:
    methods = {**variants.uniform("fqvit"), "blocks.0.mlp.act": "lut"}
    total = 0.0
    for site, method in methods.items():
        total += costs.sites[site][method]
    assert costs.of(methods) == pytest.approx(total)


# --- the budget ---


def cheapest(variants: Variants, costs: Costs, allowed: tuple[str, ...]) -> float:
    return sum(
        min(ms for method, ms in table.items() if method in allowed)
        for table in costs.sites.values()
    )


@pytest.mark.parametrize("allowed", [NAMES, PAPER_METHODS])
def test_budget_below_the_cheapest_map_is_refused(
    variants: Variants, costs: Costs, allowed: tuple[str, ...], refusal: Refusal
) -> None:
    least = cheapest(variants, costs, allowed)
    check_budget(costs, variants, allowed, least)
    text = refusal(check_budget, costs, variants, allowed, least * 0.999)
    assert f"at least {least:.3f} ms" in text and "raise --budget" in text


# --- maps between the best and the cheapest ---


def noise(search: Search, site: str, method: str) -> float:
    return 10 ** (-search.sites[site].sqnr_db[method] / 10)


def whole_way(search: Search, costs: Costs, best: Methods) -> list[Methods]:
    """Every map on the way, by looking for the best exchange among all of them each time."""
    way = [best]
    while True:
        now, exchanges = way[-1], []
        for site, trial in search.sites.items():
            for method in trial.sqnr_db:
                saved = costs.sites[site][now[site]] - costs.sites[site][method]
                lost = noise(search, site, method) - noise(search, site, now[site])
                if saved > 0:
                    exchanges.append((lost / saved if lost > 0 else -saved, site, method))
        if not exchanges:
            return way
        _, site, method = min(exchanges)
        way.append({**now, site: method})


def test_maps_lead_from_the_best_to_the_cheapest(
    variants: Variants, costs: Costs, searched: tuple[Search, Methods]
) -> None:
    search, best = searched
    maps = cheaper_maps(search, costs, best)
    assert maps[0] == best and 3 < len(maps) <= POINTS
    assert costs.of(maps[-1]) == pytest.approx(cheapest(variants, costs, NAMES))
    way = whole_way(search, costs, best)
    assert [m for m in way if m in maps] == maps and maps[-1] == way[-1]
    latencies = [costs.of(methods) for methods in maps]
    assert latencies == sorted(latencies, reverse=True)


def test_few_maps_are_kept_evenly(costs: Costs, searched: tuple[Search, Methods]) -> None:
    """Steps on the way that save less than a fifteenth of all are passed over."""
    search, best = searched
    maps = cheaper_maps(search, costs, best)
    latencies = [costs.of(methods) for methods in maps]
    stretch = (latencies[0] - latencies[-1]) / (POINTS - 1)
    steps = [a - b for a, b in pairwise(latencies[:-1])]
    assert all(step >= stretch * (1 - 1e-9) for step in steps)


@settings(exact, max_examples=60)
@given(st.integers(0, 10_000), st.integers(1, 40))
def test_any_costs_give_a_way_down(seed: int, count: int) -> None:
    draw = random.Random(seed)
    search = Search(8, list(NAMES), [], "ivit", 10.0, {})
    table: dict[str, dict[str, float]] = {}
    for index in range(count):
        figures = {method: draw.choice([5.0, draw.uniform(0, 20)]) for method in NAMES}
        best_here = max(figures, key=lambda m: figures[m])
        search.sites[f"s{index}"] = Trial(best_here, figures)
        table[f"s{index}"] = {m: draw.choice([1.0, draw.uniform(0.1, 3)]) for m in NAMES}
    found = Costs("tiny", 8, 1, {}, table)
    best = {site: trial.method for site, trial in search.sites.items()}
    maps = cheaper_maps(search, found, best)
    latencies = [found.of(methods) for methods in maps]
    assert maps[0] == best and len(maps) <= POINTS
    assert all(a > b for a, b in pairwise(latencies))
    assert latencies[-1] == pytest.approx(sum(min(t.values()) for t in table.values()))


def test_sites_that_were_not_searched_keep_their_method(costs: Costs, variants: Variants) -> None:
    best = variants.uniform("ibert")
    search = Search(8, list(NAMES), ["norm"], "ibert", 1.0, best)
    search.sites["norm"] = Trial("ibert", {"ivit": 1.0, "ibert": 2.0, "fqvit": 0.5})
    maps = cheaper_maps(search, costs, best)
    assert all(m[site] == best[site] for m in maps for site in best if site != "norm")
    table = costs.sites["norm"]
    assert maps[-1]["norm"] == min(table, key=lambda method: table[method])
