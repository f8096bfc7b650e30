"""The paper's Figure 3: output SQNR by depth, of the uniform maps and of the chosen one."""

from __future__ import annotations

import math
from typing import Any

from matplotlib.lines import Line2D

from mnq.toolchain.explain import name as method_name
from mnq.toolchain.report.markup import Html
from mnq.toolchain.report.sites import KIND_NAMES
from mnq.toolchain.report.style import LOOKS, SELECTED, line_handle
from mnq.toolchain.report.svg import drawing
from mnq.toolchain.report.view import ORDER, View


def figure(view: View) -> Html:
    """A panel per kind, all over the position in execution order."""
    kinds = view.kinds
    with drawing(0.7 + 1.95 * len(kinds), rows=len(kinds), sharex=True) as drawn:
        for axes, kind in zip(drawn.axes, kinds, strict=True):
            sites = view.of_kind(kind)
            places = [site.position for site in sites]
            for method in view.candidates(kind):
                look = LOOKS[method]
                figures = [view.figures(method, site.name) for site in sites]
                values = [f.get("output_sqnr_db", math.nan) for f in figures]
                axes.plot(places, values, color=look.colour, marker=look.marker, markersize=4.5)
            if view.chosen is not None:
                entries = [view.chosen.sites.get(site.name) for site in sites]
                values = [e.output.sqnr_db() if e else math.nan for e in entries]
                axes.plot(places, values, **_CHOSEN)
            axes.set_title(KIND_NAMES[kind])
            axes.set_ylabel("output SQNR, dB")
            axes.grid()
        axes.set_xlabel("position in execution order")
        axes.set_xlim(0, len(view.sites) + 1)
        methods = [m for m in ORDER if any(m in view.candidates(kind) for kind in kinds)]
        handles = [line_handle(method) for method in methods]
        names = [f"uniform {method_name(method)}" for method in methods]
        if view.chosen is not None:
            handles.append(Line2D([], [], **_CHOSEN))
            names.append("chosen map")
        drawn.legend(handles, names)
    return drawn.html("f3", "Output SQNR by depth, of uniform maps and the chosen map")


_CHOSEN: dict[str, Any] = {
    "color": SELECTED,
    "marker": "*",
    "markersize": 8,
    "linewidth": 1.8,
    "linestyle": (0, (4, 1.5)),
}
