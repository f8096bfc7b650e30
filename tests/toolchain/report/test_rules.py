import pytest
from report_samples import ALL, Sample

from mnq.toolchain import assign
from mnq.toolchain.report.rules import RULES, measured_figures


@pytest.mark.parametrize("rule", assign.RULES)
def test_the_shown_figure_is_the_one_that_decides(rule: str) -> None:
    measurements = Sample(6).uniform(*ALL).measurements
    shown = RULES[rule]
    for entries in assign.figures(measurements, 8, "joint", ALL).values():
        values = {method: shown.value(figures) for method, figures in entries.items()}
        best = values[assign.choose(entries, rule)]
        assert best == (max if shown.more else min)(v for v in values.values() if v is not None)


def test_every_rule_of_a_map_has_a_text() -> None:
    assert set(RULES) == {*assign.RULES, "logits", "cost"}


@pytest.mark.parametrize("rule", RULES)
def test_a_figure_that_was_not_measured_is_none(rule: str) -> None:
    assert RULES[rule].value({}) is None


def test_figures_of_a_map_are_read() -> None:
    stated = {"output": 3, "input": 2.5, "diff": 0.5, "logit_sqnr_db": -1.25}
    assert measured_figures({"figures": {"ivit": stated}}) == {"ivit": stated}


@pytest.mark.parametrize(
    "measured",
    [
        {},
        {"figures": [1]},
        {"figures": {"ivit": 3}},
        {"figures": {"ivit": {"output": "3"}}},
        {"figures": {"ivit": {"output": True}}},
        {"figures": {"ivit": {"output": float("nan")}}},
        {"figures": {"ivit": {"output": 10**400, "input": None, "other": 1.0}}},
    ],
)
def test_anything_else_in_a_map_counts_as_absent(measured: dict[str, object]) -> None:
    assert measured_figures(measured) == {}
