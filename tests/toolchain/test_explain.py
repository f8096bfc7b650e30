"""Explain: the sentence for every kind of choice."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from toolchain_harness import METHODS, exact

from mnq.toolchain.assign import METHOD_SETS, RULES, choose
from mnq.toolchain.explain import NAMES, by_logits, by_rule, fixed, name, only_one


def figures(**table: tuple[float, float]) -> dict[str, dict[str, float]]:
    """By method, from its (output, input)."""
    return {
        method: {"output": beta, "input": gamma, "diff": beta - gamma}
        for method, (beta, gamma) in table.items()
    }


SHOWN = figures(ivit=(20.0, 30.0), ibert=(31.0, 30.0), fqvit=(19.0, 25.0), lut=(30.5, 32.5))


@pytest.mark.parametrize(
    ("rule", "method", "sentence"),
    [
        (
            "sqnr-absdiff",
            "ibert",
            "I-BERT: its output SQNR is closest to its input's "
            "(difference +1.00 against -2.00 of LUT, the next best).",
        ),
        (
            "sqnr-signed",
            "ivit",
            "I-ViT: its output SQNR minus its input's is the lowest "
            "(difference -10.00 against -6.00 of FQ-ViT, the next best).",
        ),
        (
            "sqnr-drop",
            "ibert",
            "I-BERT: it loses the least SQNR from input to output "
            "(difference +1.00 against -2.00 of LUT, the next best).",
        ),
        (
            "sqnr-output",
            "ibert",
            "I-BERT: its output SQNR is the highest (output +31.00 against +30.50 of LUT, the "
            "next best).",
        ),
    ],
)
def test_every_rule_says_what_it_chose_by(rule: str, method: str, sentence: str) -> None:
    assert choose(SHOWN, rule) == method
    assert by_rule(method, SHOWN, rule) == sentence


def test_magnitudes_decide_which_is_next_best_for_the_default_of_the_paper() -> None:
    shown = figures(ivit=(1.0, 0.0), ibert=(-1.5, 0.0), fqvit=(1.75, 0.0))
    assert "+1.00 against -1.50 of I-BERT" in by_rule("ivit", shown, "sqnr-absdiff")


@exact
@given(st.data(), st.sampled_from(sorted(RULES)))
def test_the_method_named_next_is_what_the_rule_would_choose_without_the_first(
    data: st.DataObject, rule: str
) -> None:
    number = st.integers(-4000, 4000).map(lambda n: n / 50)
    shown = figures(**{method: (data.draw(number), data.draw(number)) for method in METHODS})
    chosen = choose(shown, rule)
    following = choose({m: f for m, f in shown.items() if m != chosen}, rule)
    text = by_rule(chosen, shown, rule)
    assert text.startswith(f"{name(chosen)}: " if "next best" in text else f"{name(chosen)} and ")
    assert f" of {name(following)}" in text


@pytest.mark.parametrize("rule", RULES)
def test_equal_figures_fall_to_the_fixed_order(rule: str) -> None:
    shown = figures(ivit=(20.0, 22.5), ibert=(20.0 + 3e-7, 22.5))
    text = by_rule(choose(shown, rule), shown, rule)
    assert choose(shown, rule) == "ivit"
    assert text.startswith("I-ViT and I-BERT are equal (") and text.endswith("): fixed order.")


@pytest.mark.parametrize("rule", RULES)
def test_figures_that_print_alike_are_nearly_equal_and_not_in_fixed_order(rule: str) -> None:
    """Here the rule does decide, by less than is printed."""
    better = 20.002 if rule != "sqnr-signed" else 19.998
    shown = figures(ivit=(20.0, 22.5), ibert=(better, 22.5))
    assert choose(shown, rule) == "ibert"
    text = by_rule("ibert", shown, rule)
    assert text.startswith("I-BERT and I-ViT are nearly equal (") and "fixed" not in text


def test_a_search_says_what_the_logits_keep() -> None:
    shown = {
        "ivit": {"output": 1.0, "logit_sqnr_db": 12.5},
        "lut": {"logit_sqnr_db": 14.0},
        "ibert": {"logit_sqnr_db": 13.25},
        "fqvit": {"output": 99.0},  # was not tried
    }
    text = "the logits keep 14.00 dB against 13.25 dB with I-BERT, the next best."
    assert by_logits("lut", shown) == f"LUT: {text}"


def test_a_cheaper_method_is_said_to_be_cheaper() -> None:
    shown = {"ivit": {"logit_sqnr_db": 12.5}, "lut": {"logit_sqnr_db": 14.0}}
    assert by_logits("ivit", shown) == (
        "I-ViT is cheaper: logits 12.50 dB against 14.00 dB with LUT, within the latency budget."
    )


@pytest.mark.parametrize("gap", [0.0, 0.004, -0.004])
def test_equal_logits_are_said_to_be_equal(gap: float) -> None:
    shown = {"ivit": {"logit_sqnr_db": 12.5 + gap}, "lut": {"logit_sqnr_db": 12.5}}
    text = by_logits("ivit", shown)
    assert text.startswith("I-ViT and LUT are equal for the logits (12.50 dB against 12.50 dB")


def test_a_site_where_nothing_else_was_tried() -> None:
    assert by_logits("ivit", {"ivit": {"logit_sqnr_db": 1.0}, "lut": {"output": 2.0}}) == (
        "I-ViT: nothing else was tried here."
    )
    assert only_one("lut") == "LUT is the only method usable here."
    assert fixed("ivit") == "I-ViT: outside the paper's search, stays at the base method."


def test_every_method_of_the_registry_has_a_name_for_people() -> None:
    assert set(NAMES) == set(METHOD_SETS["all"])
    assert name("mine") == "mine"
