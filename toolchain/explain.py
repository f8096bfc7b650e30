"""Explain: a plain sentence for every choice of a map."""

from __future__ import annotations

from mnq.toolchain.sqnr import DIGITS

Shown = dict[str, dict[str, float]]
"""Figures by method, as in assign.py."""

NAMES = {"ivit": "I-ViT", "ibert": "I-BERT", "fqvit": "FQ-ViT", "lut": "LUT"}

_TIE = 0.005  # dB; two figures that print alike

_SAYS = {
    "sqnr-absdiff": ("diff", "its output SQNR is closest to its input's", "difference"),
    "sqnr-signed": ("diff", "its output SQNR minus its input's is the lowest", "difference"),
    "sqnr-drop": ("diff", "it loses the least SQNR from input to output", "difference"),
    "sqnr-output": ("output", "its output SQNR is the highest", "output"),
}


def by_rule(method: str, shown: Shown, rule: str) -> str:
    """Why a rule of the paper picks `method`; figures are ASQNR in the paper's units."""
    key, clause, noun = _SAYS[rule]

    def distance(other: str) -> float:
        value, chosen = (shown[m][key] for m in (other, method))
        return abs(abs(value) - abs(chosen)) if rule == "sqnr-absdiff" else abs(value - chosen)

    others = sorted((m for m in shown if m != method), key=distance)
    next_best = others[0]
    values = f"{shown[method][key]:+.2f} against {shown[next_best][key]:+.2f} of {name(next_best)}"
    if round(distance(next_best), DIGITS) == 0:
        return f"{name(method)} and {name(next_best)} are equal ({noun} {values}): fixed order."
    if distance(next_best) < _TIE:
        return f"{name(method)} and {name(next_best)} are nearly equal ({noun} {values})."
    return f"{name(method)}: {clause} ({noun} {values}, the next best)."


def by_logits(method: str, shown: Shown) -> str:
    """Why a search keeps `method`: what the logits of the whole model say."""
    figures = {m: f["logit_sqnr_db"] for m, f in shown.items() if "logit_sqnr_db" in f}
    if method not in figures or len(figures) < 2:
        return f"{name(method)}: nothing else was tried here."
    others = sorted((m for m in figures if m != method), key=lambda m: -figures[m])
    gap = figures[method] - figures[others[0]]
    values = f"{figures[method]:.2f} dB against {figures[others[0]]:.2f} dB with {name(others[0])}"
    if abs(gap) < _TIE:
        return f"{name(method)} and {name(others[0])} are equal for the logits ({values})."
    if gap < 0:
        return f"{name(method)} is cheaper: logits {values}, within the latency budget."
    return f"{name(method)}: the logits keep {values}, the next best."


def only_one(method: str) -> str:
    """The only usable method."""
    return f"{name(method)} is the only method usable here."


def fixed(method: str) -> str:
    """A site that was not searched."""
    return f"{name(method)}: outside the paper's search, stays at the base method."


def name(method: str) -> str:
    """A method's name for people."""
    return NAMES.get(method, method)
