"""The paper's Figure 2 for any site: float output against quantized output, per method.

Drawn by hand rather than with matplotlib: a large model has hundreds of these panels, and one
of them is a kilobyte this way.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from mnq.toolchain.explain import name as method_name
from mnq.toolchain.measurements import Histogram
from mnq.toolchain.report.markup import Html, element, join, lines, number
from mnq.toolchain.report.sites import KIND_NAMES, Site
from mnq.toolchain.report.view import View

LEFT, TOP, BIN, HEIGHT = 34, 8, 3, 96
"""Pixels of a panel: its plot's corner, the width of a bin, the height of the plot."""


def of_kind(view: View, kind: str) -> Html:
    """A fold-out with one for each site of a kind; empty if no site has histograms."""
    sites = {site.name: site for site in view.of_kind(kind)}
    opened = max(view.sites, key=lambda site: _spread(view, site)).name
    folded = [part for site in sites.values() if (part := _site(view, site, site.name == opened))]
    if not folded:
        return Html("")
    return element(
        "details",
        element("summary", f"{KIND_NAMES[kind]}: {len(folded)} sites"),
        element("div", lines(folded), class_="folded"),
        open_=opened in sites,
    )


def _spread(view: View, site: Site) -> float:
    """How far the methods are apart at a site, in dB; -1 without histograms."""
    methods = counted(view, site)
    values = [view.figures(method, site.name)["output_sqnr_db"] for method in methods]
    return max(values) - min(values) if values else -1


def counted(view: View, site: Site) -> dict[str, list[int]]:
    """Histogram of the quantized output by method; empty if the float one is not known."""
    if site.name not in view.measurements.histograms:
        return {}
    entries = {method: view.entry(method, site.name) for method in view.candidates(site.kind)}
    return {m: entry.histogram for m, entry in entries.items() if entry and sum(entry.histogram)}


def _site(view: View, site: Site, opened: bool) -> Html:
    """A fold-out with a panel per method; empty without histograms."""
    panels = [_panel(view, site, *found) for found in counted(view, site).items()]
    if not panels:
        return Html("")
    chosen = view.choices.get(site.name)
    return element(
        "details",
        element(
            "summary",
            element("b", site.label),
            " ",
            element("span", site.name, class_="quiet"),
            f" chosen: {method_name(chosen)}" if chosen else "",
        ),
        element("div", lines(panels), class_="panels", id=f"histogram-{site.position}"),
        open_=opened,
    )


def _panel(view: View, site: Site, method: str, counts: Sequence[int]) -> Html:
    known = view.measurements.histograms[site.name]
    chosen = view.choices.get(site.name) == method
    figures = view.figures(method, site.name)
    caption = element(
        "figcaption",
        element("b", method_name(method), class_=f"name m-{method}"),
        " chosen" if chosen else "",
        element("br"),
        f"diff {number(figures['diff'])}, output {number(figures['output_sqnr_db'])} dB",
    )
    label = f"{site.label}, {method_name(method)}: float output against quantized output"
    svg = _svg(known, counts, method, label)
    return element("figure", caption, svg, class_="panel chosen" if chosen else "panel")


def _svg(known: Histogram, counts: Sequence[int], method: str, label: str) -> Html:
    decades = max(1, math.ceil(math.log10(max(*known.counts, *counts, 2))))
    width = BIN * len(counts)
    ticks = []
    for power in range(0, decades + 1, 1 + decades // 4):
        y = _height(10**power, decades)
        ticks.append(element("path", d=f"M{LEFT} {y}h{width}", class_="grid"))
        ticks.append(_text(LEFT - 4, y + 4, "end", f"10{_raised(power)}"))
    bottom = TOP + HEIGHT
    return element(
        "svg",
        *ticks,
        element("path", d=_steps(known.counts, decades) + "z", class_="float"),
        element("path", d=_steps(counts, decades), class_=f"line m-{method}"),
        element("path", d=f"M{LEFT} {bottom}h{width}", class_="axis"),
        _text(LEFT, bottom + 14, "start", _short(known.low, known)),
        _text(LEFT + width / 2, bottom + 14, "middle", "output value"),
        _text(LEFT + width, bottom + 14, "end", _short(known.high, known)),
        viewBox=f"0 0 {LEFT + width + 6} {bottom + 20}",
        role="img",
        aria_label=label,
    )


def _text(x: float, y: float, anchor: str, value: str) -> Html:
    return element("text", value, x=f"{x:g}", y=f"{y:g}", text_anchor=anchor)


def _height(count: float, decades: int) -> int:
    """Vertical place of a count: logarithmic, half a count being the base line."""
    part = math.log10(max(count, 0.5) / 0.5) / (decades + math.log10(2))
    return round(TOP + HEIGHT * (1 - part))


def _steps(counts: Sequence[int], decades: int) -> str:
    """A path along the tops of all bins, from the base line and back to it."""
    tops = "".join(f"V{_height(count, decades)}h{BIN}" for count in counts)
    return f"M{LEFT} {TOP + HEIGHT}{tops}V{TOP + HEIGHT}"


def _short(value: float, known: Histogram) -> str:
    if abs(value) < 1e-6 * (known.high - known.low):
        return "0"
    return f"{value:.3g}".replace("-", "\N{MINUS SIGN}")


def _raised(power: int) -> Html:
    digits = str(power).translate(str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return join(digits)
