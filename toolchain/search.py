"""Search: choose by the effect on the logits, site by site, with the choices made so far.

No independence is assumed: a method is judged by the logits of the whole quantized model, in
which every earlier site has its chosen method and every later one that of the start.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from mnq.toolchain.evaluate import evaluate
from mnq.toolchain.graph import Graph
from mnq.toolchain.measurements import Search, Trial
from mnq.toolchain.program import Program, Step
from mnq.toolchain.sensitivity import Batches
from mnq.toolchain.sqnr import DIGITS, Powers
from mnq.toolchain.variants import Methods, Variants


class Bench:
    """Images on which programs that share their first steps are compared by their logits."""

    def __init__(self, graph: Graph, batches: Batches) -> None:
        self.batches: list[tuple[torch.Tensor, torch.Tensor]] = []
        with torch.no_grad():
            for pixels, normalized in batches:
                self.batches.append((pixels, evaluate(graph, normalized)))
        self.values: list[dict[str, torch.Tensor]] = []
        self.steps = 0

    def advance(self, program: Program, steps: int) -> None:
        """Run `program` up to this number of steps; what comes before is shared from now on."""
        if not self.values:
            self.values = [program.start(pixels) for pixels, _ in self.batches]
        for values, (pixels, _) in zip(self.values, self.batches, strict=True):
            for _ in program.walk(values, len(pixels), self.steps, steps):
                pass
        self.steps = steps

    def rewind(self) -> None:
        """Share no step again."""
        self.values, self.steps = [], 0

    def sqnr_db(self, program: Program) -> float:
        """Logit SQNR of a program that begins with the shared steps."""
        self.advance(program, self.steps)
        powers = Powers()
        for shared, (pixels, exact) in zip(self.values, self.batches, strict=True):
            values = dict(shared)
            for _ in program.walk(values, len(pixels), self.steps):
                pass
            powers.update(exact, values[program.output].double() * program.output_scale)
        return powers.sqnr_db()

    def outputs(self, step: Step) -> list[torch.Tensor]:
        """What a step, the first behind the shared ones, makes of each batch."""
        return [
            step.run([values[name] for name in step.inputs], len(pixels))
            for values, (pixels, _) in zip(self.values, self.batches, strict=True)
        ]


def start(
    variants: Variants,
    bench: Bench,
    allowed: tuple[str, ...],
    sites: list[str],
    starts: dict[str, Methods],
) -> Search:
    """An empty search among `allowed` methods for `sites`, from the best of the maps `starts`."""
    bench.rewind()
    figures = {n: bench.sqnr_db(variants.program(methods)) for n, methods in starts.items()}
    best = max(starts, key=lambda name: round(figures[name], DIGITS))  # the first of equal ones
    return Search(variants.bits, list(allowed), sites, best, figures[best], starts[best])


def greedy(
    search: Search,
    variants: Variants,
    bench: Bench,
    done: Callable[[str], None] = lambda site: None,
) -> Methods:
    """Walk the sites in execution order; at each, keep the method with the best logits.

    search: grows by a site at a time and is continued where it stands; sites that it does not
    choose for keep the start's method. `done` is called with every site behind us.
    Returns the method of every site.
    """
    bench.rewind()
    methods = dict(search.start_sites)
    best = search.start_db
    for index, step in enumerate(variants.base.steps):
        site = step.site
        if site not in search.chosen_for:
            continue
        if site not in search.sites:
            bench.advance(variants.program(methods), index)
            figures = _try(variants, bench, methods, site, tuple(search.methods), best)
            kept = max(figures, key=lambda method: round(figures[method], DIGITS))
            search.sites[site] = Trial(kept, figures)
        methods[site] = search.sites[site].method
        best = search.sites[site].sqnr_db[methods[site]]
        done(site)
    return methods


def _try(
    variants: Variants,
    bench: Bench,
    methods: Methods,
    site: str,
    allowed: tuple[str, ...],
    now: float,
) -> dict[str, float]:
    """Logit SQNR with each method at `site`, in the order that breaks ties.

    `now` is that of `methods`, and of any method that gives the same integers at the site.
    """
    steps = variants.steps[site]
    current = bench.outputs(steps[methods[site]])
    figures = {}
    for method in variants.candidates(site, (*allowed, methods[site])):
        if all(map(torch.equal, bench.outputs(steps[method]), current)):
            figures[method] = now
        else:
            figures[method] = bench.sqnr_db(variants.program({**methods, site: method}))
    return figures
