"""Bit-widths side by side: mean output SQNR of every method, and which choices stay the same."""

from __future__ import annotations

import math

from mnq.toolchain.assign import RULES
from mnq.toolchain.explain import name as method_name
from mnq.toolchain.report.markup import Html, number
from mnq.toolchain.report.rules import OUTPUT
from mnq.toolchain.report.sites import KIND_NAMES
from mnq.toolchain.report.style import LOOKS, line_handle
from mnq.toolchain.report.svg import drawing
from mnq.toolchain.report.tables import CountsRow, by_kind
from mnq.toolchain.report.view import ORDER, View


def figure(view: View) -> Html:
    """A panel per kind: mean output SQNR by bit-width."""
    kinds, widths = view.kinds, sorted(view.widths)
    with drawing(3.0, columns=len(kinds), sharey=True) as drawn:
        for axes, kind in zip(drawn.axes, kinds, strict=True):
            for method in ORDER:
                means = [view.mean_db(method, kind, bits) for bits in widths]
                if any(mean is not None for mean in means):
                    values = [math.nan if mean is None else mean for mean in means]
                    look = LOOKS[method]
                    axes.plot(widths, values, color=look.colour, marker=look.marker)
            axes.set_title(KIND_NAMES[kind])
            axes.set_xlabel("bits")
            axes.set_xticks(widths)
            axes.margins(x=0.12)
            axes.grid(axis="y")
        drawn.axes[0].set_ylabel("mean output SQNR, dB")
        methods = [m for m in ORDER if any(view.run(m, bits) for bits in widths)]
        drawn.legend([line_handle(m) for m in methods], [method_name(m) for m in methods])
    return drawn.html("fw", "Mean output SQNR of every method by bit-width, per kind of site")


def rule_across(view: View) -> str:
    """The map's rule if it can be applied at every width; one on the logits cannot."""
    rule = str(view.provenance.get("rule"))
    return rule if rule in RULES else OUTPUT


def comparable(view: View) -> list[str]:
    """Methods to choose from that were measured at every width."""
    return [m for m in view.allowed() if all(view.run(m, bits) for bits in view.widths)]


def choices_table(view: View) -> Html:
    """What the rule would choose at each width, and how much of it is as at the shown width."""
    rule, allowed = rule_across(view), comparable(view)
    here = view.best(rule, view.bits, allowed)
    found = {k: [m for m in view.candidates(k) if m in allowed] for k in view.kinds}
    methods = {kind: names for kind, names in found.items() if names}
    rows: list[CountsRow] = []
    for bits in view.widths:
        there = view.best(rule, bits, allowed)
        shared = [site for site in there if site in here]
        same = sum(there[site] == here[site] for site in shared)
        share = number(100 * same / len(shared), 0) if shared else number(None)
        rows.append((f"{bits} bits", view.counts(there), [f"{share} %"]))
    return by_kind(methods, rows, [f"as at {view.bits} bits"])
