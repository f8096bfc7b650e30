"""The sections of a report: figures and tables with the sentences that explain them."""

from __future__ import annotations

from typing import TypeVar

from mnq.ops.errors import one_line
from mnq.toolchain.assign import METHOD_SETS
from mnq.toolchain.explain import name as method_name
from mnq.toolchain.measurements import Front, Search
from mnq.toolchain.report import curves, depth, histograms, paper, sensitivity, widths
from mnq.toolchain.report.headline import listed
from mnq.toolchain.report.markup import Html, element, lines
from mnq.toolchain.report.reading import definitions, source
from mnq.toolchain.report.rules import RULES
from mnq.toolchain.report.sites import KIND_NAMES, MEASURED
from mnq.toolchain.report.tables import counts_table, sites_table
from mnq.toolchain.report.view import View

Section = tuple[str, str, list[Html]]
"""Identifier, title, content; without content it is left out."""


def sections(view: View) -> list[Section]:
    """All sections of a report, in the order of reading."""
    return [
        ("counts", "How often each method was chosen", _counts(view)),
        ("sensitivity", "SQNR at every site", _sensitivity(view)),
        ("depth", "Through the depth of the model", _depth(view)),
        ("histograms", "Outputs, float against quantized", _histograms(view)),
        ("widths", "Bit-widths", _widths(view)),
        ("search", "Search on the logits", _searches(view)),
        ("front", "Latency against logits", _fronts(view)),
        ("sites", "Every site", _sites(view)),
        ("reading", "How to read this page", [definitions()]),
        ("source", "Where the figures come from", [source(view)]),
    ]


def _note(*parts: object) -> Html:
    return element("p", *parts, class_="note")


def _shown(svg: Html, *caption: object) -> Html:
    return element(
        "figure",
        element("div", svg, class_="scroll", tabindex="0"),
        element("figcaption", *caption),
    )


def _counts(view: View) -> list[Html]:
    if not view.choices:
        return []
    parts = [counts_table(view)]
    published = paper.COUNTS.get(view.measurements.model)
    if published is None:
        return parts
    text = (
        "The paper publishes neither its images and seeds nor the sign of its rule, and the rows "
        "were not made from the same quantized model: a difference shows no mistake in either. "
    )
    more = len(view.of_kind("layernorm")) - sum(published["layernorm"].values())
    if more:
        text += f"The paper leaves {more} of the LayerNorms out of its count."
    return [*parts, _note(text)]


def _sensitivity(view: View) -> list[Html]:
    panels = _panels(view)
    if not panels:
        return []
    parts = [
        element(
            "p",
            "The paper's Figure 1. Above: SQNR of what a site writes, β; higher is better. Below: "
            "β−γ, what the site adds to the noise it was given; at zero it keeps what it got. "
            "Both in the paper's units, ",
            element("a", "twice the usual dB", href="#reading"),
            ".",
        ),
        *panels,
    ]
    if view.basis != view.measure:
        other = View(view.measurements, view.mapping, measure=view.basis)
        parts.append(
            element(
                "details",
                element("summary", f"The same from the {view.basis} figures, which chose this map"),
                lines(_panels(other)),
            )
        )
    return parts


def _panels(view: View) -> list[Html]:
    """A figure for each kind of site."""
    parts = []
    for kind in view.kinds:
        sites = view.of_kind(kind)
        if view.candidates(kind):
            gaps = any(view.unusable(site.name) for site in sites)
            parts.append(element("h3", KIND_NAMES[kind]))
            parts.append(
                _shown(
                    sensitivity.figure(view, kind),
                    f"{len(sites)} sites, {view.measure}, {view.bits} bits, {view.images} images.",
                    " A gap: the method cannot be used there." if gaps else "",
                )
            )
    return parts


def _depth(view: View) -> list[Html]:
    if view.measure != "joint":
        return []
    return [
        element(
            "p",
            "The paper's Figure 3: output SQNR in usual dB of every site, in whole quantized "
            "models. Noise adds up from left to right; the map with the highest line at the end "
            "disturbs the model least.",
        ),
        _shown(
            depth.figure(view),
            f"{view.bits} bits, {view.images} images. A uniform map is left out where another "
            "method stands in for its own.",
        ),
    ]


def _histograms(view: View) -> list[Html]:
    folded = [part for kind in view.kinds if (part := histograms.of_kind(view, kind))]
    if not folded:
        return []
    return [
        element(
            "p",
            "The paper's Figure 2, for any site. Grey: the float output. Line: the integer "
            "output, before it is requantized. Counts are on a logarithmic axis; values beyond "
            "the range are counted in the outer bins. The site where the methods differ most is "
            "open.",
        ),
        element("div", lines(folded), class_="folded"),
    ]


def _widths(view: View) -> list[Html]:
    if len(view.widths) < 2:
        return []
    parts = [
        _shown(
            widths.figure(view),
            f"Mean over the sites of a kind of the output SQNR in usual dB, {view.measure}.",
        )
    ]
    if names := [method_name(m) for m in widths.comparable(view)]:
        rule = RULES[widths.rule_across(view)]
        text = (
            f"How often {listed(names)} would be chosen at each width, by {rule.text}; and at how "
            f"many of the sites the choice is that of {view.bits} bits."
        )
        parts += [element("p", text), widths.choices_table(view)]
    return parts


T = TypeVar("T", Search, Front)


def _of_map(view: View, found: list[T]) -> list[T]:
    """Those at the shown width; if some chose from the map's set of methods, only these."""
    here = [one for one in found if one.bits == view.bits]
    methods = METHOD_SETS.get(str(view.provenance.get("methods")))
    return [one for one in here if tuple(one.methods) == methods] or here


def _searches(view: View) -> list[Html]:
    parts = []
    for index, search in enumerate(_of_map(view, view.measurements.searches)):
        if search.sites:
            names = listed([method_name(m) for m in search.methods])
            parts.append(
                _shown(
                    curves.search_figure(view, search, f"fs{index}"),
                    f"From the map {one_line(search.start)}, one site after the other tries "
                    f"{names} in the whole quantized model and keeps what gives the logits the "
                    f"highest SQNR. {len(search.sites)} of {len(search.chosen_for)} sites, "
                    f"{search.bits} bits. Much worse trials are drawn at the lower edge.",
                )
            )
    return parts


def _fronts(view: View) -> list[Html]:
    parts = []
    for index, front in enumerate(_of_map(view, view.measurements.fronts)):
        if front.points:
            names = listed([method_name(m) for m in front.methods])
            parts.append(
                _shown(
                    curves.front_figure(view, front, f"fp{index}"),
                    f"{len(front.points)} measured maps of {names}, {front.bits} bits; the time is "
                    "that of all sites' operators for one image. Up and to the left is better.",
                )
            )
    return parts


def _sites(view: View) -> list[Html]:
    text = (
        f"Measured {MEASURED[view.basis]}. β, γ and diff are in the paper's units, twice the "
        "usual dB. The name of a site leads to its histograms."
    )
    return [element("p", text), sites_table(view)]
