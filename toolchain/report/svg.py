"""Figures as SVG inside HTML: the same bytes for the same figure, without links or documents."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.legend_handler import HandlerTuple

from mnq.toolchain.report.markup import Html, element

WIDTH = 10.0
"""Inches: 720 units of the SVG, shown at 700 to 1000 pixels."""

INK = "#222222"
MUTED = "#6b6b6b"
GRID = "#dddddd"

_RC: Any = {
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "mnq",
    "font.family": "DejaVu Sans",  # matplotlib carries it; the page's style names the fonts shown
    "font.size": 9.5,
    "text.color": INK,
    "text.parse_math": False,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": 10.5,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "legend.handlelength": 3.2,
    "lines.linewidth": 1.4,
    "lines.markersize": 5.5,
    "hatch.linewidth": 0.7,
}


@contextmanager
def drawing(height: float, rows: int = 1, columns: int = 1, **options: Any) -> Iterator[Drawing]:
    """A figure of WIDTH x `height` inches to draw on; its `html` is there afterwards."""
    with matplotlib.rc_context(_RC):
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False, **options)
        result = Drawing(figure, [axes for row in grid for axes in row])
        yield result
        result.render()


class Drawing:
    """A figure, its axes row by row, and its SVG document once it is drawn."""

    def __init__(self, figure: Figure, axes: list[Axes]) -> None:
        self.figure = figure
        self.axes = axes
        self.document = ""

    def legend(self, handles: list[Any], labels: list[str]) -> None:
        """A legend above all axes, where it hides nothing."""
        self.figure.legend(
            handles,
            labels,
            loc="outside upper left",
            ncols=len(labels),
            borderaxespad=0.2,
            handler_map={tuple: HandlerTuple(ndivide=None)},  # side by side
        )

    def render(self) -> None:
        """Draw."""
        buffer = io.StringIO()
        self.figure.savefig(buffer, format="svg", metadata={"Date": None})
        self.document = buffer.getvalue()

    def html(self, name: str, description: str) -> Html:
        """The SVG, for a place in an HTML page. name: a prefix that no other figure there has."""
        return inline(self.document, name, description)


def inline(svg: str, name: str, description: str) -> Html:
    """A whole SVG document as an element of an HTML page, its identifiers made the page's."""
    start = re.search(r'<svg [^>]*viewBox="([^"]*)"[^>]*>', svg)
    assert start is not None, "matplotlib wrote no <svg>"
    body = svg[start.end() : svg.rindex("</svg>")]
    body = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", body, flags=re.S)
    body = body.replace("xlink:href=", "href=")
    used = set(re.findall(r'(?:href="|url\()#([^")]+)', body))
    body = re.sub(r' id="([^"]*)"', lambda m: f' id="{name}-{m[1]}"' if m[1] in used else "", body)
    body = re.sub(r'(href="|url\()#', rf"\1#{name}-", body)
    body = re.sub(r' (d|x|y|transform)="[^"]*"', _shorten, body)
    body = re.sub(r"\s*\n\s*", "\n", body)
    return element("svg", Html(body.strip()), viewBox=start[1], role="img", aria_label=description)


def _shorten(attribute: re.Match[str]) -> str:
    return re.sub(r"\d+\.\d{3,}", lambda m: f"{float(m[0]):.2f}", attribute[0])
