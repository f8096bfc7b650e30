"""Assign: from measurements to a map, by one of the paper's rules or by a search's choices."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mnq.ops.errors import InputError
from mnq.ops.registry import METHODS
from mnq.toolchain.explain import by_logits, by_rule, fixed, only_one
from mnq.toolchain.graph import Graph, Node
from mnq.toolchain.map import Map
from mnq.toolchain.measurements import Measurements, Search
from mnq.toolchain.sqnr import DIGITS
from mnq.toolchain.variants import FORM, PAPER_METHODS, Methods
from mnq.toolchain.views import VIEWS

Figures = dict[str, float]
"""What was measured for one method at one site: see `figures`."""

# What each rule makes smallest, from a method's figures (spec 5.3).
RULES: dict[str, Callable[[Figures], float]] = {
    "sqnr-absdiff": lambda f: abs(f["diff"]),
    "sqnr-signed": lambda f: f["diff"],
    "sqnr-drop": lambda f: -f["diff"],
    "sqnr-output": lambda f: -f["output"],
}
SITE_SETS = ("all", "paper")
METHOD_SETS: dict[str, tuple[str, ...]] = {
    "all": tuple(dict.fromkeys(m for methods in METHODS.values() for m in methods)),
    "paper": PAPER_METHODS,
}
BASE_METHOD = "ivit"
"""Of the sites that the paper did not search: its base model is I-ViT (spec 5)."""


def figures(
    measurements: Measurements, bits: int, measure: str, allowed: tuple[str, ...]
) -> dict[str, dict[str, Figures]]:
    """By site and method, in the order that breaks ties, from the runs of `allowed`:

    output, input: ASQNR beta and gamma (Eq. 10); diff: beta - gamma (Eq. 11);
    output_sqnr_db, input_sqnr_db: the usual SQNR.
    """
    result: dict[str, dict[str, Figures]] = {site: {} for site in measurements.sites}
    for site, kind in measurements.sites.items():
        for method in METHODS[kind]:
            run = measurements.run(bits, measure, method) if method in allowed else None
            entry = run.sites.get(site) if run else None
            if entry is None or entry.method != method or not entry.output.signal:
                continue
            beta, gamma = entry.output.asqnr(), entry.input.asqnr()
            result[site][method] = {
                "output": beta,
                "input": gamma,
                "diff": beta - gamma,
                "output_sqnr_db": entry.output.sqnr_db(),
                "input_sqnr_db": entry.input.sqnr_db(),
            }
    return result


def choose(found: dict[str, Figures], rule: str) -> str:
    """The method that a rule picks from a site's figures; the first of equal ones."""
    return min(found, key=lambda method: round(RULES[rule](found[method]), DIGITS))


def searched(graph: Graph, which: str) -> list[str]:
    """The sites to choose for, in execution order.

    "all", or "paper": without the LayerNorms outside the blocks, except the last one. Those
    lead neither to attention nor to GELU before the next LayerNorm or addition: those of a
    stem and of patch merging (spec 5.4).
    """
    norms = [node for node in graph if node.op == "layernorm"]
    return [
        node.site
        for node in graph
        if node.site
        and (
            which == "all" or node.op != "layernorm" or node is norms[-1] or _in_block(graph, node)
        )
    ]


def _in_block(graph: Graph, node: Node) -> bool:
    below = graph.consumers(node.name)
    passed = (*VIEWS, "scale", "linear", "matmul", "normalize", "requantize")
    return any(
        n.op in ("attention", "softmax", "gelu")
        or (n.op in passed and node.name not in n.inputs[1:] and _in_block(graph, n))
        for n in below
    )


def methods_by_rule(found: dict[str, dict[str, Figures]], rule: str, sites: list[str]) -> Methods:
    """The method of every site: by the rule, or BASE_METHOD where the site is not searched."""
    methods = {}
    for site, entries in found.items():
        if not entries:
            raise InputError(
                f"assign: expected a usable method at site {site}, found none measured; measure "
                "with --methods all"
            )
        base = BASE_METHOD if BASE_METHOD in entries else next(iter(entries))
        methods[site] = choose(entries, rule) if site in sites else base
    return methods


def to_map(
    measurements: Measurements,
    bits: int,
    methods: Methods,
    found: dict[str, dict[str, Figures]],
    provenance: dict[str, Any],
    sites: list[str],
    search: Search | None = None,
) -> Map:
    """The map of `methods` with its figures and a sentence for each choice.

    provenance: as it goes into the map; its "rule" says how the methods were chosen.
    search: where the logits decided, their figures.
    """
    rule = str(provenance["rule"])
    entries: dict[str, dict[str, Any]] = {}
    for site, method in methods.items():
        shown: dict[str, Figures] = {m: dict(f) for m, f in found[site].items()}
        if search and site in search.sites:
            for name, value in search.sites[site].sqnr_db.items():
                shown.setdefault(name, {})["logit_sqnr_db"] = value
        reasons = {
            run.name: run.unusable[site]
            for run in measurements.runs
            if run.bits == bits and site in run.unusable
        }
        measured: dict[str, Any] = {"rule": rule, "figures": _rounded(shown)}
        if reasons:
            measured["unusable"] = reasons
        measured["reason"] = _reason(site, method, shown, rule, sites)
        entries[site] = {"method": method, "measured": measured}
    defaults = {
        kind: _most_used([methods[s] for s, k in measurements.sites.items() if k == kind], kind)
        for kind in METHODS
    }
    return Map(measurements.model, bits, bits, {**defaults, "attention": FORM}, entries, provenance)


def _reason(site: str, method: str, shown: dict[str, Figures], rule: str, sites: list[str]) -> str:
    if site not in sites:
        return fixed(method)
    if len(shown) == 1:
        return only_one(method)
    if rule in RULES:
        return by_rule(method, shown, rule)
    return by_logits(method, shown)


def _most_used(chosen: list[str], kind: str) -> str:
    return max(METHODS[kind], key=chosen.count)


def _rounded(shown: dict[str, Figures]) -> dict[str, Figures]:
    return {m: {key: round(value, 3) for key, value in f.items()} for m, f in shown.items()}
