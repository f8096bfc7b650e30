"""Cost: the Pareto front of maps, and the best one for a budget."""

from __future__ import annotations

import random
from collections.abc import Callable

import toolchain_models as models
from hypothesis import given
from hypothesis import strategies as st
from toolchain_harness import METHODS as NAMES
from toolchain_harness import Quantized, batches, exact, mix_sqnr

from mnq.toolchain.cost import Costs, front, within
from mnq.toolchain.measurements import Front, Point
from mnq.toolchain.program import Program
from mnq.toolchain.search import Bench
from mnq.toolchain.variants import Variants

Refusal = Callable[..., str]
BATCHES = batches(models.pixels(4, seed=41), 4)


def test_points_of_the_front_are_measured_on_the_whole_model(quantized: Quantized) -> None:
    variants, advanced = quantized.variants(8), []
    maps = [variants.uniform(name) for name in NAMES]
    quality = [mix_sqnr(quantized, methods, BATCHES) for methods in maps]
    order = sorted(range(len(maps)), key=lambda i: quality[i])
    milliseconds = {NAMES[i]: float(rank + 1) for rank, i in enumerate(order)}
    sites = {
        site: {m: milliseconds[m] + random.Random(site).random() for m in steps}
        for site, steps in variants.steps.items()
    }
    costs = Costs("tiny", 8, 1, {}, sites)
    found = front(
        variants, Bench(quantized.graph, BATCHES), costs, list(NAMES), maps, advanced.append
    )
    assert (found.bits, found.methods, advanced) == (8, list(NAMES), [1] * 4)
    for point in found.points:
        index = maps.index(point.sites)
        assert abs(point.sqnr_db - quality[index]) < 1e-6
        assert point.milliseconds == sum(sites[s][m] for s, m in point.sites.items())
    assert maps[order[-1]] in [point.sites for point in found.points]  # nothing beats the best


class Told(Bench):
    """A bench whose figures are known."""

    def __init__(self, figures: list[float]) -> None:
        self.figures = iter(figures)

    def sqnr_db(self, program: Program) -> float:
        return next(self.figures)


@exact
@given(st.lists(st.tuples(st.integers(1, 4), st.integers(1, 4)), min_size=1, max_size=8))
def test_a_map_is_beaten_by_one_that_is_better_in_one_figure_and_no_worse_in_the_other(
    quantized: Quantized, drawn: list[tuple[int, int]]
) -> None:
    image = quantized.program("lut").image
    nothing = Variants(8, {}, {}, {}, Program(image, [], {}, "logits", 1.0))
    table = {"norm": {str(index): float(ms) for index, (ms, _) in enumerate(drawn)}}
    maps = [{"norm": str(index)} for index in range(len(drawn))]
    bench = Told([float(db) for _, db in drawn])
    found = front(nothing, bench, Costs("tiny", 8, 1, {}, table), [], maps)
    kept = [
        (ms, db)
        for ms, db in drawn
        if not any(a <= ms and b >= db and (a, b) != (ms, db) for a, b in drawn)
    ]
    assert [(p.milliseconds, p.sqnr_db) for p in found.points] == kept


def test_the_best_affordable_point_is_taken(refusal: Refusal) -> None:
    points = [
        Point(ms, db, {"norm": name}) for ms, db, name in ((9, 12, "a"), (5, 11, "b"), (2, 3, "c"))
    ]
    found = Front(8, [], points)
    for budget, name in ((100, "a"), (9, "a"), (8.99, "b"), (5, "b"), (2, "c")):
        assert within(found, budget).sites == {"norm": name}
    text = refusal(within, found, 1.99)
    assert "at least 2.000 ms" in text and "found 1.99 ms" in text
