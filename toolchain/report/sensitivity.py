"""The paper's Figure 1: SQNR diff as bars and output SQNR as lines, per kind of site."""

from __future__ import annotations

import math
from typing import Any

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.markers import CARETDOWN, CARETUP

from mnq.toolchain.explain import name as method_name
from mnq.toolchain.report.markup import Html
from mnq.toolchain.report.sites import Site
from mnq.toolchain.report.style import LOOKS, SELECTED, bar_handle, line_handle, positions
from mnq.toolchain.report.svg import INK, drawing
from mnq.toolchain.report.view import View


def figure(view: View, kind: str) -> Html:
    """Lines of beta over bars of beta - gamma at every site of a kind."""
    sites, methods = view.of_kind(kind), view.candidates(kind)
    with drawing(4.7, rows=2, sharex=True) as drawn:
        lines, bars = drawn.axes
        for method in methods:
            _line(lines, view, sites, method)
        for index, method in enumerate(methods):
            _bars(bars, view, sites, method, (index - (len(methods) - 1) / 2) * 0.84 / len(methods))
        lines.set_ylabel("output SQNR β\n(20 log₁₀)")
        bars.set_ylabel("SQNR diff β−γ\n(20 log₁₀)")
        bars.axhline(0, color=INK, linewidth=0.8)
        indices, labels = positions(sites)
        bars.set_xticks(indices, labels)
        bars.set_xlim(-0.6, len(sites) - 0.4)
        bars.set_xlabel(f"position in execution order, as in {sites[-1].label}; block below")
        for axes in drawn.axes:
            axes.grid(axis="y")
            axes.use_sticky_edges = False  # room beyond the zero line
            axes.margins(y=0.1)
            axes.tick_params(axis="x", length=0)
        handles: list[Any] = [(bar_handle(method), line_handle(method)) for method in methods]
        names = [method_name(method) for method in methods]
        if view.choices:
            handles.append(Line2D([], [], **_RING))
            names.append("chosen")
        drawn.legend(handles, names)
    return drawn.html(
        f"f1{view.measure[0]}{kind[0]}", f"SQNR diff and output SQNR of every method, {kind} sites"
    )


def _line(axes: Axes, view: View, sites: list[Site], method: str) -> None:
    look = LOOKS[method]
    values = [view.figures(method, site.name).get("output", math.nan) for site in sites]
    axes.plot(values, color=look.colour, marker=look.marker)
    chosen = [i for i, site in enumerate(sites) if view.choices.get(site.name) == method]
    marked = (chosen, [values[i] for i in chosen])
    axes.plot(*marked, look.marker, color=look.colour, zorder=4)  # above equal ones of others
    axes.plot(*marked, zorder=4, **_RING)


def _bars(axes: Axes, view: View, sites: list[Site], method: str, offset: float) -> None:
    """Bars of one method, `offset` from the middle of the site; the chosen ones have a frame."""
    look = LOOKS[method]
    width = 0.84 / len(view.candidates(sites[0].kind))
    for index, site in enumerate(sites):
        figures = view.figures(method, site.name)
        if not figures:
            continue
        chosen = view.choices.get(site.name) == method
        place = (index + offset, figures["diff"])
        axes.bar(*place, width, color=look.colour, hatch=look.hatch, edgecolor="white", linewidth=0)
        if chosen:
            axes.bar(*place, width, color="none", edgecolor=SELECTED, linewidth=1.3, zorder=3)
            # Beyond the zero line, where it hides no bar; one as short as nothing is seen too.
            tip = CARETUP if place[1] > 0 else CARETDOWN
            axes.plot(place[0], 0, marker=tip, color=SELECTED, markersize=5)


_RING: dict[str, Any] = {
    "linestyle": "",
    "marker": "o",
    "markersize": 9.5,
    "markerfacecolor": "none",
    "markeredgecolor": SELECTED,
    "markeredgewidth": 1.1,
}
