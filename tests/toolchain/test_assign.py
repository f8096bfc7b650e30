"""Assign: each rule against its definition, and the map that comes of it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from importlib.resources import files
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from toolchain_harness import exact
from toolchain_measured import SITES, Wanted, measured, powers

from mnq.ops.registry import METHODS
from mnq.toolchain import map as maps
from mnq.toolchain.assign import (
    METHOD_SETS,
    RULES,
    choose,
    figures,
    methods_by_rule,
    to_map,
)
from mnq.toolchain.map import Choice
from mnq.toolchain.measurements import Measurements, Search, Trial
from mnq.toolchain.sqnr import Powers
from mnq.toolchain.variants import FORM, PAPER_METHODS

Refusal = Callable[..., str]
ALL = METHOD_SETS["all"]

# By hand, so that each rule chooses another method; gamma = 30 everywhere.
#                   beta - gamma:   -20               2                  -1              -3
TABLE = {"ivit": (10.0, 30.0), "ibert": (32.0, 30.0), "fqvit": (29.0, 30.0), "lut": (27.0, 30.0)}
WANTED: Wanted = {
    "norm1": {m: TABLE[m] for m in METHODS["layernorm"]},
    "attn.softmax": TABLE,
    "mlp.act": {m: TABLE[m] for m in METHODS["gelu"]},
}


def by_definition(rule: str, table: dict[str, tuple[float, float]]) -> str:
    """The rules of the specification, section 5.3, word by word; the first of equal ones."""
    difference = {m: beta - gamma for m, (beta, gamma) in table.items()}
    if rule == "sqnr-output":  # argmax beta
        best = max(beta for beta, _ in table.values())
        return next(m for m, (beta, _) in table.items() if beta == best)
    if rule == "sqnr-drop":  # argmin (gamma - beta)
        best = min(-d for d in difference.values())
        return next(m for m, d in difference.items() if -d == best)
    if rule == "sqnr-signed":  # argmin (beta - gamma)
        best = min(difference.values())
        return next(m for m, d in difference.items() if d == best)
    best = min(map(abs, difference.values()))  # argmin |beta - gamma|
    return next(m for m, d in difference.items() if abs(d) == best)


def shown(table: dict[str, tuple[float, float]]) -> dict[str, dict[str, float]]:
    return {
        m: {"output": beta, "input": gamma, "diff": beta - gamma}
        for m, (beta, gamma) in table.items()
    }


# --- the rules ---


def test_the_rules_are_those_of_the_specification() -> None:
    assert set(RULES) == {"sqnr-absdiff", "sqnr-signed", "sqnr-drop", "sqnr-output"}


def test_rules_choose_differently() -> None:
    chosen = {rule: choose(shown(TABLE), rule) for rule in RULES}
    assert chosen == {
        "sqnr-absdiff": "fqvit",
        "sqnr-signed": "ivit",
        "sqnr-drop": "ibert",
        "sqnr-output": "ibert",
    }


@exact
@given(st.data(), st.sampled_from(sorted(RULES)))
def test_each_rule_is_its_definition(data: st.DataObject, rule: str) -> None:
    """Quarters of a decibel: exact, and often equal."""
    number = st.integers(-40, 400).map(lambda n: n / 4)
    table = {m: (data.draw(number), data.draw(number)) for m in ALL}
    assert choose(shown(table), rule) == by_definition(rule, table)


@pytest.mark.parametrize("rule", RULES)
def test_the_first_of_equal_methods_is_chosen(rule: str) -> None:
    """A millionth of a decibel is no difference."""
    for order in (ALL, ALL[::-1]):
        same = {m: (20.0 + 3e-7 * (-1) ** i, 25.0) for i, m in enumerate(order)}
        assert choose(shown(same), rule) == order[0]
    better = 20.000002 if rule != "sqnr-signed" else 19.999998
    assert choose(shown({"ivit": (20.0, 25.0), "lut": (better, 25.0)}), rule) == "lut"


# --- figures ---


def test_figures_are_those_of_each_methods_own_run() -> None:
    found = figures(measured(WANTED), 8, "joint", ALL)
    assert list(found) == list(SITES)
    for site, table in WANTED.items():
        assert list(found[site]) == list(METHODS[SITES[site]])  # the order that breaks ties
        for method, (beta, gamma) in table.items():
            f = found[site][method]
            assert (f["output"], f["input"]) == pytest.approx((beta, gamma))
            assert f["diff"] == pytest.approx(beta - gamma)
            assert f["output_sqnr_db"] == pytest.approx(beta / 2)  # of one image
            assert f["input_sqnr_db"] == pytest.approx(gamma / 2)


def test_both_averages_are_among_the_figures() -> None:
    """Ratios of 64 and 1 of two images of one signal."""
    found = measured(WANTED)
    found.runs[0].sites["norm1"].output = Powers([1.0, 1.0], [1 / 64, 1.0])
    f = figures(found, 8, "joint", ALL)["norm1"]["ivit"]
    assert f["output"] == pytest.approx(20 * math.log10(32.5))
    assert f["output_sqnr_db"] == pytest.approx(10 * math.log10(128 / 65))


def test_only_what_was_asked_for_counts() -> None:
    found = measured(WANTED)
    assert list(figures(found, 8, "joint", PAPER_METHODS)["mlp.act"]) == ["ivit", "ibert"]
    nothing: dict[str, Any] = {site: {} for site in SITES}
    assert figures(found, 4, "joint", ALL) == nothing
    assert figures(found, 8, "isolated", ALL) == nothing
    found.runs[1].sites["norm1"].output = Powers()  # begun, and no image yet
    found.runs[0].sites["norm1"].method = "ibert"  # a stand-in
    assert list(figures(found, 8, "joint", ALL)["norm1"]) == ["fqvit"]


# --- methods ---


@pytest.mark.parametrize("rule", RULES)
def test_sites_that_are_not_searched_stay_at_ivit(rule: str) -> None:
    found = figures(measured(WANTED), 8, "joint", ALL)
    methods = methods_by_rule(found, rule, ["attn.softmax", "mlp.act"])
    assert list(methods) == list(SITES)
    assert methods["norm1"] == "ivit"
    for site in ("attn.softmax", "mlp.act"):
        assert methods[site] == by_definition(rule, WANTED[site])


def test_where_ivit_is_unusable_the_first_method_is_the_base() -> None:
    found = figures(measured(WANTED), 8, "joint", ("fqvit", "ibert"))
    assert methods_by_rule(found, "sqnr-output", ["attn.softmax"])["norm1"] == "ibert"


def test_site_without_figures_is_refused(refusal: Refusal) -> None:
    found = figures(measured(WANTED), 8, "joint", ("fqvit",))
    text = refusal(methods_by_rule, found, "sqnr-drop", list(SITES))
    assert "at site mlp.act" in text and "--methods all" in text


# --- the map ---


def mapped(
    found: Measurements, rule: str = "sqnr-drop", sites: list[str] | None = None, **more: Any
) -> maps.Map:
    table = figures(found, 8, "joint", ALL)
    chosen = list(SITES) if sites is None else sites
    methods = more.pop("methods", None) or methods_by_rule(table, rule, chosen)
    provenance = {"rule": rule, "images": {"seed": 1}}
    return to_map(found, 8, methods, table, provenance, chosen, **more)


def test_map_is_valid_and_resolves_to_what_was_chosen() -> None:
    result = mapped(measured(WANTED), "sqnr-absdiff")
    written = json.loads(json.dumps(result.to_json()))
    schema = json.loads(files("mnq.toolchain").joinpath("map.schema.json").read_text())
    Draft202012Validator(schema).validate(written)
    again = maps.from_json(written, "tiny", "here")
    assert again == result
    assert (again.activation_bits, again.weight_bits) == (8, 8)
    assert again.provenance == {"rule": "sqnr-absdiff", "images": {"seed": 1}}
    assert again.resolve(SITES) == {
        site: Choice(by_definition("sqnr-absdiff", table), FORM) for site, table in WANTED.items()
    }


def test_every_site_shows_rounded_figures_and_a_reason() -> None:
    wanted = {**WANTED, "norm1": {"ivit": (20 / 3, 10.0), "ibert": (5.0, 10.0)}}
    result = mapped(measured(wanted))
    entry = result.sites["norm1"]
    assert entry["method"] == "ivit"
    assert entry["measured"]["rule"] == "sqnr-drop"
    assert entry["measured"]["figures"]["ivit"] == {
        "output": 6.667,
        "input": 10.0,
        "diff": -3.333,
        "output_sqnr_db": 3.333,
        "input_sqnr_db": 5.0,
    }
    assert "against -5.00 of I-BERT" in entry["measured"]["reason"]
    assert all("unusable" not in e["measured"] for e in result.sites.values())


def test_unusable_methods_are_named_with_their_reason() -> None:
    """Of any run at this width, not of another."""
    found = measured({**WANTED, "mlp.act": {"lut": (20.0, 20.0)}})
    by_name = {run.name: run for run in found.runs}
    by_name["ivit"].unusable["mlp.act"] = "too fine; choose another"
    by_name["fqvit"].bits = 4
    by_name["fqvit"].unusable["mlp.act"] = "at 4 bits only"
    measured_there = mapped(found).sites["mlp.act"]["measured"]
    assert measured_there["unusable"] == {"ivit": "too fine; choose another"}
    assert measured_there["reason"] == "LUT is the only method usable here."


def test_defaults_are_the_methods_most_used() -> None:
    sites = {"a": "gelu", "b": "gelu", "c": "gelu", "n": "layernorm", "s": "softmax"}
    table = {"ivit": (1.0, 2.0), "ibert": (1.0, 2.0)}
    found = measured(dict.fromkeys(sites, table), sites)
    chosen = {"a": "ibert", "b": "ivit", "c": "ibert", "n": "ivit", "s": "ibert"}
    shown_figures = figures(found, 8, "joint", ALL)
    result = to_map(found, 8, chosen, shown_figures, {"rule": "sqnr-drop"}, list(sites))
    expected = {"softmax": "ibert", "gelu": "ibert", "layernorm": "ivit", "attention": FORM}
    assert result.defaults == expected
    assert {site: c.method for site, c in result.resolve(sites).items()} == chosen


def test_a_search_adds_its_figures_where_it_chose() -> None:
    search = Search(8, list(ALL), ["attn.softmax"], "ivit", 9.0, dict.fromkeys(SITES, "ivit"))
    search.sites["attn.softmax"] = Trial("lut", {"ivit": 9.0, "lut": 12.3456})
    methods = {**search.start_sites, "attn.softmax": "lut"}
    result = mapped(*(measured(WANTED), "logits", ["attn.softmax"]), search=search, methods=methods)
    measured_there = result.sites["attn.softmax"]["measured"]
    assert measured_there["figures"]["lut"]["logit_sqnr_db"] == 12.346
    assert measured_there["figures"]["lut"]["output"] == 27.0
    assert "logit_sqnr_db" not in measured_there["figures"]["ibert"]
    assert measured_there["reason"].startswith("LUT: the logits keep 12.35 dB")
    other = result.sites["mlp.act"]["measured"]
    assert "stays at the base method" in other["reason"]
    assert all("logit_sqnr_db" not in f for f in other["figures"].values())


def test_helper_makes_the_figures_that_it_is_asked_for() -> None:
    assert powers(31.5).asqnr() == pytest.approx(31.5)
