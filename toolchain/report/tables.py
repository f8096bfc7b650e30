"""Tables of a report: counts beside the paper's, and a row for every site."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from mnq.ops.errors import one_line
from mnq.toolchain.assign import Figures
from mnq.toolchain.explain import name as method_name
from mnq.toolchain.report import paper
from mnq.toolchain.report.histograms import counted
from mnq.toolchain.report.markup import Html, element, join, number, table, text
from mnq.toolchain.report.sites import KIND_NAMES, Site
from mnq.toolchain.report.view import ORDER, View


def method_tag(method: str) -> Html:
    """A method's name with its colour."""
    return element("span", method_name(method), class_=f"name m-{method}")


def counts_table(view: View) -> Html:
    """The paper's Table 3 for this map, beside the paper's row of the same model."""
    published = paper.COUNTS.get(view.measurements.model, {})
    here = view.counts()
    methods = {
        kind: [
            method
            for method in ORDER
            if method in view.candidates(kind)
            or method in published.get(kind, {})
            or here[kind].get(method)
        ]
        for kind in view.kinds
    }
    rows: list[CountsRow] = [("this map" if view.mapping else "the map that ran", here, [])]
    if published:
        rows.append(("the paper, Table 3", published, []))
    return by_kind(methods, rows)


CountsRow = tuple[object, Mapping[str, Mapping[str, int]], list[object]]
"""Head of the row, counts by kind and method, further cells."""


def by_kind(
    methods: dict[str, list[str]], rows: Iterable[CountsRow], more: Sequence[str] = ()
) -> Html:
    """A table with a column for each method of each kind, and `more` columns after them."""
    columns = [(kind, method) for kind in methods for method in methods[kind]]

    def cell(kind: str, method: str, name: str, value: object) -> Html:
        return element(name, value, class_="first" if method == methods[kind][0] else None)

    above = element(
        "tr",
        element("td"),
        *(
            element("th", KIND_NAMES[kind], colspan=len(names), scope="colgroup")
            for kind, names in methods.items()
        ),
        element("td", colspan=len(more)) if more else Html(""),
    )
    heads = ["", *(cell(k, m, "th", method_tag(m)) for k, m in columns), *more]
    body = [
        [
            head,
            *(cell(k, m, "td", counts[k].get(m, "\N{EN DASH}")) for k, m in columns),
            *further,
        ]
        for head, counts, further in rows
    ]
    return table(heads, body, "numbers", above)


def sites_table(view: View) -> Html:
    """A row per site: what was chosen, the figures of each method, and why."""
    methods = view.methods
    heads = ["site", "chosen", *(method_tag(m) for m in methods), "why"]
    rows = [
        [
            _site(view, site),
            method_tag(view.choices[site.name]) if site.name in view.choices else "",
            *(_cell(view, site, method) for method in methods),
            element("td", _why(view, site), class_="why"),
        ]
        for site in view.sites
    ]
    return table(heads, rows, "sites")


def site_name(site: Site) -> Html:
    """The name of a site, with places to break the line after its dots."""
    first, *rest = one_line(site.name).split(".")
    return element(
        "span", first, *(join(".", element("wbr"), part) for part in rest), class_="quiet"
    )


def _site(view: View, site: Site) -> Html:
    label = text(site.label)
    if counted(view, site):
        label = element("a", label, href=f"#histogram-{site.position}", title="histograms")
    return join(label, element("br"), site_name(site))


def _cell(view: View, site: Site, method: str) -> Html:
    chosen = "chosen" if view.choices.get(site.name) == method else None
    if why := view.unusable(site.name).get(method):
        return element("td", element("span", "unusable: ", why, class_="quiet"), class_=chosen)
    figures = view.stated(method, site.name)
    if not figures:
        return element("td", "\N{EN DASH}", class_=chosen)
    return element("td", *_figures(figures), class_=chosen)


def _figures(figures: Figures) -> list[Html]:
    """The lines of a cell: first the logits if they were asked."""
    found = []
    if "logit_sqnr_db" in figures:
        found.append(element("b", number(figures["logit_sqnr_db"], 2), " dB logits"))
    if "diff" in figures:
        diff = join(number(figures["diff"], 2), " diff")
        found.append(diff if found else element("b", diff))
    if "output" in figures and "input" in figures:
        found.append(join("β ", number(figures["output"]), "  γ ", number(figures["input"])))
    if "output_sqnr_db" in figures:
        found.append(join(number(figures["output_sqnr_db"]), " dB output"))
    return [element("div", part) for part in found]


def _why(view: View, site: Site) -> str:
    if view.mapping is None:
        return ""
    if reason := view.reason(site.name):
        return reason
    return "The map states no figures." if not view.stated_by_map(site.name) else ""
