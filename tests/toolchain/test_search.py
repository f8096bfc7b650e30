"""Search: every figure is that of a whole model, the result is no worse than its start."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import toolchain_models as models
import torch
from toolchain_harness import METHODS as NAMES
from toolchain_harness import Quantized, batches, mix_sqnr

from mnq.ops.registry import METHODS
from mnq.toolchain.measurements import Search
from mnq.toolchain.program import Step
from mnq.toolchain.search import Bench, greedy, start
from mnq.toolchain.variants import Methods, Variants

BATCHES = batches(models.pixels(6, seed=31), 4)  # of 4 and 2 images
CLOSE = 1e-6  # dB; what the search itself counts as equal is 1e-6


def quality(quantized: Quantized, methods: Methods) -> float:
    return mix_sqnr(quantized, methods, BATCHES)


def starts(variants: Variants) -> dict[str, Methods]:
    return {name: variants.uniform(name) for name in ("ivit", "fqvit")}


@pytest.fixture(scope="module")
def bench(quantized: Quantized) -> Bench:
    return Bench(quantized.graph, BATCHES)


@pytest.fixture(scope="module")
def variants(quantized: Quantized) -> Variants:
    return quantized.variants(8)


@pytest.fixture(scope="module")
def finished(variants: Variants, bench: Bench) -> tuple[Search, Methods]:
    """A search over all sites and methods; do not change it."""
    search = start(variants, bench, NAMES, list(variants.sites), starts(variants))
    return search, greedy(search, variants, bench)


# --- where it starts ---


def test_search_starts_from_the_best_map(
    quantized: Quantized, variants: Variants, bench: Bench
) -> None:
    sites = list(variants.sites)
    found = start(variants, bench, ("ivit", "lut"), sites, starts(variants))
    figures = {name: quality(quantized, methods) for name, methods in starts(variants).items()}
    assert figures["ivit"] != figures["fqvit"]
    assert found.start == max(figures, key=lambda name: figures[name])
    assert found.start_db == pytest.approx(figures[found.start], abs=CLOSE)
    assert found.start_sites == starts(variants)[found.start]
    assert (found.bits, found.methods, found.chosen_for) == (8, ["ivit", "lut"], sites)
    assert found.sites == {}


def test_the_first_of_equal_starts_is_taken(variants: Variants, bench: Bench) -> None:
    same = {name: variants.uniform("ibert") for name in ("second", "first")}
    assert start(variants, bench, NAMES, [], same).start == "second"


# --- what it finds ---


def test_result_is_not_worse_than_any_start(
    quantized: Quantized, variants: Variants, finished: tuple[Search, Methods]
) -> None:
    search, methods = finished
    best = quality(quantized, methods)
    assert all(best > quality(quantized, m) - CLOSE for m in starts(variants).values())
    assert best > search.start_db + 1  # and here much better: every start lacks the tables


def test_every_recorded_trial_is_a_run_of_that_mix(
    quantized: Quantized, variants: Variants, finished: tuple[Search, Methods]
) -> None:
    """With the choices made at earlier sites and the start's method at later ones."""
    search, methods = finished
    assert list(search.sites) == list(variants.sites)
    current = dict(search.start_sites)
    for site, trial in search.sites.items():
        assert list(trial.sqnr_db) == list(METHODS[variants.sites[site]])
        for method, figure in trial.sqnr_db.items():
            expected = quality(quantized, {**current, site: method})
            assert figure == pytest.approx(expected, abs=CLOSE), (site, method)
        assert trial.sqnr_db[trial.method] >= max(trial.sqnr_db.values()) - CLOSE
        current[site] = trial.method
    assert methods == current


def test_finished_search_runs_nothing(
    variants: Variants, finished: tuple[Search, Methods], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("advance", "sqnr_db", "outputs"):
        monkeypatch.setattr(Bench, name, lambda *_: pytest.fail("it ran"))
    empty = Bench.__new__(Bench)
    assert greedy(copy.deepcopy(finished[0]), variants, empty) == finished[1]


def test_search_that_goes_on_chooses_the_same(
    variants: Variants, bench: Bench, finished: tuple[Search, Methods]
) -> None:
    search, methods = finished
    for count in range(len(search.sites) + 1):
        kept = copy.deepcopy(search)
        kept.sites = dict(list(kept.sites.items())[:count])
        behind: list[str] = []
        assert greedy(kept, variants, bench, behind.append) == methods
        assert kept == search
        assert behind == list(search.sites)


def test_interrupted_search_has_only_finished_sites(
    variants: Variants, bench: Bench, finished: tuple[Search, Methods]
) -> None:
    class Stopped(Exception):
        pass

    def stop(site: str) -> None:
        if site == "blocks.0.mlp.act":
            raise Stopped

    search = start(variants, bench, NAMES, list(variants.sites), starts(variants))
    with pytest.raises(Stopped):
        greedy(search, variants, bench, stop)
    assert list(search.sites) == list(variants.sites)[:4]
    assert greedy(search, variants, bench) == finished[1]
    assert search == finished[0]


def test_sites_that_are_not_chosen_for_keep_the_start(
    quantized: Quantized, variants: Variants, bench: Bench
) -> None:
    chosen_for = ["blocks.0.mlp.act", "blocks.1.attn.softmax"]
    search = start(variants, bench, NAMES, chosen_for, {"fqvit": variants.uniform("fqvit")})
    behind: list[str] = []
    methods = greedy(search, variants, bench, behind.append)
    assert list(search.sites) == behind == chosen_for
    for site, method in methods.items():
        assert site in chosen_for or method == search.start_sites[site]
    assert quality(quantized, methods) > search.start_db + 0.1


def test_methods_that_are_not_allowed_stay_only_where_they_are(
    variants: Variants, bench: Bench
) -> None:
    """The start's own method is compared with the allowed ones."""
    sites = list(variants.sites)
    search = start(variants, bench, ("ivit",), sites, {"lut": variants.uniform("lut")})
    methods = greedy(search, variants, bench)
    for site, trial in search.sites.items():
        assert set(trial.sqnr_db) == {"ivit", variants.uniform("lut")[site]}
    assert methods["blocks.0.attn.softmax"] == "lut"  # it is that much better


# --- ties ---


def equal_methods(variants: Variants, real: str, *same: str) -> Variants:
    """Where a kind has them, `same` have the step of `real`, under their own name."""
    steps = {
        site: {m: found[real] if m in same and real in found else s for m, s in found.items()}
        for site, found in variants.steps.items()
    }
    return replace(variants, steps=steps)


@pytest.mark.parametrize("begin", ["ivit", "lut"])
def test_the_first_of_equal_methods_is_kept(variants: Variants, bench: Bench, begin: str) -> None:
    """In the order of the registry, whatever the start has."""
    equal = equal_methods(variants, "ibert", *NAMES)
    search = start(equal, bench, NAMES, list(equal.sites), {begin: equal.uniform(begin)})
    assert set(greedy(search, equal, bench).values()) == {"ivit"}
    for trial in search.sites.values():
        assert set(trial.sqnr_db.values()) == {search.start_db}


def test_equal_integers_are_not_measured_again(
    variants: Variants, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    equal = equal_methods(variants, "ibert", *NAMES)
    search = start(equal, bench, NAMES, list(equal.sites), {"ivit": equal.uniform("ivit")})
    monkeypatch.setattr(bench, "sqnr_db", lambda _: pytest.fail("it ran the rest"))
    greedy(search, equal, bench)


def test_equal_integers_on_some_batches_are_not_equal(
    variants: Variants, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A table that differs at one code, which the second batch alone has."""
    site = "blocks.1.mlp.act"
    step = variants.steps[site]["lut"]

    def outputs(found: Step) -> list[torch.Tensor]:
        return [torch.zeros(1), torch.ones(1) if found is step else torch.zeros(1)]

    monkeypatch.setattr(bench, "outputs", outputs)
    search = start(variants, bench, ("lut",), [site], {"ivit": variants.uniform("ivit")})
    greedy(search, variants, bench)
    assert search.sites[site].sqnr_db["lut"] != search.start_db


def test_a_difference_below_the_counted_digits_is_a_tie(
    variants: Variants, bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures = {"IVitGelu": 9.0, "IBertGelu": 9.0 + 4e-7, "LutGelu": 9.0 + 2e-7}
    site = "blocks.1.mlp.act"

    def fake(program: object) -> float:
        (s,) = (s for s in program.steps if s.site == site)  # type: ignore[attr-defined]
        return figures[s.operator]

    search = start(variants, bench, NAMES, [site], {"lut": variants.uniform("lut")})
    search.start_db = figures["LutGelu"]
    monkeypatch.setattr(bench, "sqnr_db", fake)
    assert greedy(search, variants, bench)[site] == "ivit"
    figures["IBertGelu"] += 1e-6
    search.sites.clear()
    assert greedy(search, variants, bench)[site] == "ibert"
