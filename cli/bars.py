"""Measurements and maps as tables for a terminal, with a bar for each figure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.table import Table
from rich.text import Text

from mnq.ops.errors import one_line

if TYPE_CHECKING:
    from mnq.toolchain.map import Map
    from mnq.toolchain.measurements import Measurements
    from mnq.toolchain.report.rules import Rule
    from mnq.toolchain.report.sites import Site
    from mnq.toolchain.report.view import View

MOST = 10
"""Columns of the longest bar."""

_NUMBER = 8  # columns: a blank, the number with two decimals, the mark of the chosen one
_EIGHTHS = " ▏▎▍▌▋▊▉"
_CHOSEN = "bold green"
_WORDS = str.maketrans({"β": "out", "γ": "in", "−": "-"})


def site_table(measurements: Measurements, mapping: Map) -> RenderableType:
    """A row for every site with the figure that the map's rule reads, and a table of counts."""
    from mnq.toolchain.report.view import View

    view = View(measurements, mapping)
    return Group(SiteBars(view), "", counts_table(view))


class SiteBars:
    """A row for every site: what was chosen, and a bar and a figure for each method.

    The figure is the one by which the map's rule decides. A bar's length is its place between
    the smallest and the largest figure of its kind of site; differences count from zero.
    """

    def __init__(self, view: View) -> None:
        from mnq.toolchain.report.rules import OUTPUT, RULES

        self.view = view
        self.rule: Rule = view.rule or RULES[OUTPUT]
        self.methods = view.methods

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The table, as wide as there is room, in ASCII where the encoding is no Unicode."""
        names = [_name(site, options) for site in self.view.sites]
        taken = 6 + max(map(len, names)) + 2 + 8 + len(self.methods) * (_NUMBER + 3)
        width = min(MOST, max(0, (options.max_width - taken) // (len(self.methods) or 1)))
        more = "more" if self.rule.more else "less"
        yield Text(f"{self.rule.figure.translate(_WORDS)}: {more} is better; * chosen")
        table = Table(box=None, pad_edge=False)
        table.add_column("", justify="right")
        table.add_column("site", no_wrap=True)
        table.add_column("chosen")
        for method in self.methods:
            table.add_column(method, no_wrap=True)
        scales = {kind: self._scale(kind) for kind in self.view.kinds}
        for site, name in zip(self.view.sites, names, strict=True):
            cells = [self._cell(site, m, scales[site.kind], width, options) for m in self.methods]
            chosen = Text(self.view.choices[site.name], _CHOSEN)
            table.add_row(str(site.position), Text(name), chosen, *cells)
        yield table

    def _value(self, site: Site, method: str) -> float | None:
        return self.rule.value(self.view.stated(method, site.name))

    def _scale(self, kind: str) -> tuple[float, float]:
        sites = self.view.of_kind(kind)
        values = [self._value(site, method) for site in sites for method in self.methods]
        known = [value for value in values if value is not None]
        zero = [] if self.rule.more else [0.0]
        return min([*known, *zero], default=0.0), max([*known, *zero], default=0.0)

    def _cell(
        self,
        site: Site,
        method: str,
        scale: tuple[float, float],
        width: int,
        options: ConsoleOptions,
    ) -> Text:
        chosen = self.view.choices[site.name] == method
        value = self._value(site, method)
        if value is None:
            unusable = method in self.view.unusable(site.name)
            shown = "unusable" if unusable else ""
            return Text(f"{shown:>{width + _NUMBER}}", "dim")
        low, high = scale
        part = (value - low) / (high - low) if high > low else 0.0
        mark = "*" if chosen else " "
        text = f"{_bar(part, width, options.ascii_only)}{value:>{_NUMBER - 1}.2f}{mark}"
        return Text(text, _CHOSEN if chosen else "")


def counts_table(view: View) -> Table:
    """How many sites use each method, by kind."""
    from mnq.toolchain.report.sites import KIND_NAMES

    counts = view.counts()
    methods = dict.fromkeys(method for table in counts.values() for method in table)
    table = Table(box=None, pad_edge=False)
    table.add_column("sites")
    for method in methods:
        table.add_column(method, justify="right")
    for kind in view.kinds:
        table.add_row(KIND_NAMES[kind], *(str(counts[kind].get(m, "-")) for m in methods))
    return table


class SiteFigures:
    """Without a map: output SQNR in dB and SQNR diff of every method at every site."""

    def __init__(self, view: View) -> None:
        self.view = view

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """The table, in ASCII where the encoding is no Unicode."""
        view = self.view
        title = f"{view.bits} bits, {view.measure}, {view.images} images: output dB, and diff"
        yield Text(title)
        table = Table(box=None, pad_edge=False)
        table.add_column("", justify="right")
        table.add_column("site", no_wrap=True)
        for method in view.methods:
            table.add_column(method, justify="right", no_wrap=True)
            table.add_column("diff", justify="right", no_wrap=True, style="dim")
        for site in view.sites:
            cells = []
            for method in view.methods:
                found = view.figures(method, site.name)
                cells += [f"{found[k]:.2f}" if found else "" for k in ("output_sqnr_db", "diff")]
            table.add_row(str(site.position), Text(_name(site, options)), *cells)
        yield table


def _bar(part: float, width: int, ascii_only: bool) -> str:
    """A bar of this part of the width, padded to it."""
    if ascii_only:
        return f"{'#' * round(part * width):<{width}}"
    eighths = round(part * width * 8)
    bar = "█" * (eighths // 8) + (_EIGHTHS[eighths % 8] if eighths % 8 else "")
    return f"{bar:<{width}}"


def _name(site: Site, options: ConsoleOptions) -> str:
    name = one_line(site.name)
    return name.encode("ascii", "replace").decode() if options.ascii_only else name
