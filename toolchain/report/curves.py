"""What a search did to the logits, and the front of latency against them."""

from __future__ import annotations

from typing import Any

from matplotlib.lines import Line2D

from mnq.toolchain.explain import name as method_name
from mnq.toolchain.measurements import Front, Search
from mnq.toolchain.report.markup import Html
from mnq.toolchain.report.style import LOOKS, SELECTED
from mnq.toolchain.report.svg import INK, MUTED, drawing
from mnq.toolchain.report.view import ORDER, View


def search_figure(view: View, search: Search, name: str) -> Html:
    """Logit SQNR after each site; every method that was tried there, and the one kept."""
    places = {site.name: site.position for site in view.sites}
    trials = sorted((places[site], trial) for site, trial in search.sites.items())
    kept = [(p, t.sqnr_db[t.method]) for p, t in trials if t.method in t.sqnr_db]
    steps = [(0, search.start_db), *kept]
    heights = [db for _, db in steps]
    lower = min(heights) - max(3.0, max(heights) - min(heights))
    with drawing(3.6) as drawn:
        axes = drawn.axes[0]
        axes.axhline(search.start_db, color=MUTED, linewidth=1, linestyle="--")
        axes.plot(*zip(*steps, strict=True), color=INK, linewidth=1.3, drawstyle="steps-post")
        methods = [m for m in ORDER if any(m in trial.sqnr_db for _, trial in trials)]
        for method in methods:
            tried = [(p, max(lower, t.sqnr_db[method])) for p, t in trials if method in t.sqnr_db]
            look = LOOKS[method]
            axes.plot(*zip(*tried, strict=True), look.marker, color=look.colour, markersize=4.5)
        axes.set_xlabel("position of the site in execution order")
        axes.set_ylabel("logit SQNR, dB")
        axes.set_xlim(0, len(view.sites) + 1)
        axes.grid(axis="y")
        handles = [_dots(method) for method in methods]
        names = [f"{method_name(method)} tried" for method in methods]
        handles += [Line2D([], [], color=INK), Line2D([], [], color=MUTED, linestyle="--")]
        drawn.legend(handles, [*names, "kept so far", "start"])
    return drawn.html(name, "Logit SQNR after each site of the search")


def front_figure(view: View, front: Front, name: str) -> Html:
    """Latency against logit SQNR; the chosen map's point is marked."""
    points = sorted(front.points, key=lambda point: point.milliseconds)
    chosen = [point for point in points if point.sites == view.choices]
    with drawing(3.6) as drawn:
        axes = drawn.axes[0]
        times = [point.milliseconds for point in points]
        axes.plot(times, [p.sqnr_db for p in points], "o-", color=LOOKS[ORDER[0]].colour)
        handles = [Line2D([], [], color=LOOKS[ORDER[0]].colour, marker="o")]
        names = ["maps that no other beats in both"]
        if chosen:
            star: dict[str, Any] = {
                "color": SELECTED,
                "marker": "*",
                "markersize": 13,
                "linestyle": "",
            }
            axes.plot(chosen[0].milliseconds, chosen[0].sqnr_db, **star)
            handles.append(Line2D([], [], **star))
            names.append("chosen map")
        axes.set_xlabel("time of all non-linear sites, ms per image")
        axes.set_ylabel("logit SQNR, dB")
        axes.margins(0.08)
        axes.grid()
        drawn.legend(handles, names)
    return drawn.html(name, "Latency against logit SQNR")


def _dots(method: str) -> Line2D:
    look = LOOKS[method]
    return Line2D([], [], color=look.colour, marker=look.marker, linestyle="")
