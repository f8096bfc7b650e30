"""Assignment: from a workbench and what was asked for to a map."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnq.cli.workbench import Workbench

if TYPE_CHECKING:
    from mnq.toolchain.cost import Costs
    from mnq.toolchain.map import Map
    from mnq.toolchain.measurements import Search
    from mnq.toolchain.variants import Methods

_VERSIONS = ("mnq", "torch", "timm")


@dataclass(frozen=True)
class Request:
    """How to choose.

    rule: of the paper (assign.RULES), or "logits" or "cost" for a search; measure: what rules
    read and searches start from; methods, sites: names of the sets; sweep: further bit-widths
    to measure; budget: ms for "cost"; costs: file to read or write them; threads: to time with.
    """

    bits: int
    rule: str
    measure: str
    methods: str
    sites: str
    sweep: tuple[int, ...] = ()
    budget: float | None = None
    costs: Path | None = None
    threads: int = 0


def assign(bench: Workbench, request: Request) -> Map:
    """Measure, choose, and measure the model with the chosen map."""
    from mnq.toolchain import assign as assigning
    from mnq.toolchain.cost import check_budget
    from mnq.toolchain.measurements import CHOSEN

    allowed = assigning.METHOD_SETS[request.methods]
    sites = assigning.searched(bench.graph, request.sites)
    costs = None
    if request.budget is not None:
        costs = _costs(bench, request)
        check_budget(costs, bench.variants(request.bits), allowed, request.budget)
    for bits in dict.fromkeys((request.bits, *request.sweep)):
        measure(bench, bits, request.measure, allowed)
    found = assigning.figures(bench.measurements, request.bits, request.measure, allowed)
    provenance: dict[str, Any] = {
        "rule": request.rule,
        "measure": request.measure,
        "methods": request.methods,
        "sites": request.sites,
        "images": bench.sample.provenance,
        "calibration": bench.statistics.provenance,
        "versions": {name: metadata.version(name) for name in _VERSIONS},
    }
    search = None
    if request.rule in assigning.RULES:
        methods = assigning.methods_by_rule(found, request.rule, sites)
    else:
        starts = _starts(bench, request.bits, request.measure, allowed, found, sites)
        search, methods = bench.search(request.bits, allowed, sites, starts)
        provenance["start"] = search.start
        if costs is not None and request.budget is not None:
            methods = _within_budget(bench, request.budget, costs, search, methods)
            provenance["budget_ms"] = request.budget
    bench.joint(request.bits, {CHOSEN: methods})
    return assigning.to_map(
        bench.measurements, request.bits, methods, found, provenance, sites, search
    )


def measure(bench: Workbench, bits: int, how: str, allowed: tuple[str, ...]) -> None:
    """Measure all sites with the allowed methods, "joint" or "isolated"."""
    if how == "isolated":
        bench.isolated(bits, allowed)
    else:
        bench.joint(bits, {name: bench.variants(bits).uniform(name) for name in allowed})


def _starts(
    bench: Workbench,
    bits: int,
    how: str,
    allowed: tuple[str, ...],
    found: dict[str, Any],
    sites: list[str],
) -> dict[str, Methods]:
    """Where a search may start: every uniform map, and what the output rule chooses."""
    from mnq.toolchain.assign import methods_by_rule

    by_rule = methods_by_rule(found, "sqnr-output", sites)
    starts = {
        name: {s: m if s in sites else by_rule[s] for s, m in methods.items()}
        for name, methods in ((n, bench.variants(bits).uniform(n)) for n in allowed)
    }
    return {**starts, f"{how}, sqnr-output": by_rule}


def _within_budget(
    bench: Workbench, budget: float, costs: Costs, search: Search, methods: Methods
) -> Methods:
    """The best map for the budget, among those between the search's and the cheapest."""
    from mnq.toolchain import cost

    maps = cost.cheaper_maps(search, costs, methods)
    with bench.screen.progress("measuring cheaper maps", len(maps)) as advance:
        variants = bench.variants(search.bits)
        front = cost.front(variants, bench.bench(), costs, search.methods, maps, advance)
    known = bench.measurements.fronts
    known[:] = [f for f in known if (f.bits, f.methods) != (front.bits, front.methods)]
    known.append(front)
    return cost.within(front, budget).sites


def _costs(bench: Workbench, request: Request) -> Costs:
    from mnq.toolchain import cost

    variants = bench.variants(request.bits)
    if request.costs is not None and request.costs.exists():
        return cost.load(request.costs, variants, bench.loaded.name)
    with bench.screen.progress("timing operators", cost.ROUNDS) as advance:
        image = bench.sample.batches[0]
        costs = cost.measure(variants, bench.loaded.name, image, request.threads, advance)
    if request.costs is not None:
        costs.save(request.costs)
    return costs
