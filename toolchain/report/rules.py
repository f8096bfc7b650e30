"""The rules of mnq-assign for people: what each one chooses, and by which figure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mnq.toolchain.assign import Figures


@dataclass(frozen=True)
class Rule:
    """How a method is chosen at a site.

    text: what it chooses, for people. figure: the name of the figure that decides, with its
    unit if that is dB. value: that figure; None where it was not measured. more: whether more
    of it is better.
    """

    text: str
    figure: str
    value: Callable[[Figures], float | None]
    more: bool


def _of_diff(change: Callable[[float], float]) -> Callable[[Figures], float | None]:
    return lambda f: change(f["diff"]) if "diff" in f else None


OUTPUT = "sqnr-output"
"""The rule that stands in for one that a site's own figures do not decide."""

RULES: dict[str, Rule] = {
    "sqnr-absdiff": Rule("the smallest |β−γ|", "|β−γ|", _of_diff(abs), False),
    "sqnr-signed": Rule(
        "the smallest β−γ, the paper's Eq. 11 to the letter",
        "β−γ",
        _of_diff(lambda diff: diff),
        False,
    ),
    "sqnr-drop": Rule(
        "the smallest loss of SQNR, γ−β",
        "γ−β",
        _of_diff(lambda diff: -diff),
        False,
    ),
    OUTPUT: Rule("the highest SQNR of the output, β", "β", lambda f: f.get("output"), True),
    "logits": Rule(
        "site by site, in the order of execution, the method with which the model's logits keep "
        "the highest SQNR",
        "logit SQNR, dB",
        lambda f: f.get("logit_sqnr_db"),
        True,
    ),
    "cost": Rule(
        "the cheaper methods where the model's logits lose least",
        "logit SQNR, dB",
        lambda f: f.get("logit_sqnr_db"),
        True,
    ),
}

_KEYS = ("output", "input", "diff", "output_sqnr_db", "input_sqnr_db", "logit_sqnr_db")


def measured_figures(measured: dict[str, Any]) -> dict[str, Figures]:
    """The figures in a map's "measured", by method.

    A map may hold anything there: what is not as mnq-assign writes it counts as absent.
    """
    table = measured.get("figures")
    if not isinstance(table, dict):
        return {}
    found = {
        method: {key: float(values[key]) for key in _KEYS if _is_number(values.get(key))}
        for method, values in table.items()
        if isinstance(values, dict)
    }
    return {method: figures for method, figures in found.items() if figures}


def _is_number(value: object) -> bool:
    return type(value) in (int, float) and abs(value) < 1e9  # type: ignore[arg-type]  # nor NaN
