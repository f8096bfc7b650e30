"""Cost: what each method takes at each site, and the best map for a latency budget."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from jsonschema import Draft202012Validator

from mnq.ops.errors import InputError
from mnq.ops.files import write_atomically
from mnq.runtime.latency import interleaved
from mnq.runtime.machine import processor
from mnq.runtime.session import load_onnxruntime, open_session
from mnq.toolchain.lower import lower_step
from mnq.toolchain.measurements import Front, Point, Search, no_constant
from mnq.toolchain.search import Bench
from mnq.toolchain.variants import Methods, Variants

FORMAT = "mnq-costs/1"
MAX_BYTES = 32 << 20
ROUNDS = 20
POINTS = 16
"""At most so many maps are measured on the way to the cheapest."""


@dataclass(frozen=True)
class Costs:
    """Milliseconds of one image by site and method: the operator alone in onnxruntime, with
    this many threads (0: its choice).
    """

    model: str
    bits: int
    threads: int
    machine: dict[str, str]
    sites: dict[str, dict[str, float]]

    def of(self, methods: Methods) -> float:
        """Milliseconds of all sites together."""
        return sum(self.sites[site][method] for site, method in methods.items())

    def save(self, path: Path) -> None:
        """Write the file, whole or not at all."""
        text = json.dumps({"format": FORMAT, **asdict(self)}, indent=1)
        write_atomically(path, text.encode())


def load(path: Path, variants: Variants, model: str) -> Costs:
    """Read a costs file. Raises InputError if it is none, or not of this model and width."""
    try:
        text = path.read_text(encoding="utf-8") if path.stat().st_size <= MAX_BYTES else "null"
        data: Any = json.loads(text, parse_constant=no_constant)
    except (OSError, RecursionError, ValueError) as error:
        reason = getattr(error, "strerror", None) or getattr(error, "msg", None) or error
        raise InputError(
            f"costs: expected a JSON file, found: {reason}, in {path}; remove it to measure again"
        ) from error
    schema = json.loads(files("mnq.toolchain").joinpath("costs.schema.json").read_text())
    if not Draft202012Validator(schema).is_valid(data):
        raise InputError(
            f"costs: expected {FORMAT}, found something else in {path}; remove it to measure again"
        )
    costs = Costs(**{key: value for key, value in data.items() if key != "format"})
    wanted = {site: set(steps) for site, steps in variants.steps.items()}
    found = {site: set(table) for site, table in costs.sites.items()}
    if (costs.model, costs.bits) != (model, variants.bits) or found != wanted:
        raise InputError(
            f"costs: expected those of {model} at {variants.bits} bits, all usable methods at all "
            f"sites, found others ({costs.model} at {costs.bits}) in {path}; give another --costs "
            "file"
        )
    return costs


def measure(
    variants: Variants,
    model: str,
    images: torch.Tensor,
    threads: int,
    done: Callable[[int], None] = lambda count: None,
) -> Costs:
    """Time every operator once, on the codes that the first of `images` (B, C, H, W) gives.

    Sites whose operators have the same inputs share a figure. `done` counts ROUNDS rounds.
    """
    tensors = {k: torch.from_numpy(v) for k, v in variants.base.constants.items()}
    with torch.no_grad():
        tensors |= variants.base.run(images[:1])
    calls: dict[str, Callable[[], object]] = {}
    names: dict[str, dict[str, str]] = {}
    for site, steps in variants.steps.items():
        names[site] = {}
        for method, step in steps.items():
            inputs = [tensors[name].contiguous().numpy() for name in step.inputs]
            shapes = [(x.dtype.str, *x.shape) for x in inputs]
            names[site][method] = name = f"{step.operator} {shapes}"
            if name not in calls:
                session = open_session(lower_step(step, inputs), threads=threads)
                feed = {i.name: x for i, x in zip(session.get_inputs(), inputs, strict=True)}
                calls[name] = partial(session.run, None, feed)
    times = interleaved(calls, ROUNDS, done)
    table = {s: {m: times[n].median for m, n in found.items()} for s, found in names.items()}
    machine = {"processor": processor(), "onnxruntime": load_onnxruntime().__version__}
    return Costs(model, variants.bits, threads, machine, table)


def check_budget(costs: Costs, variants: Variants, allowed: tuple[str, ...], budget: float) -> None:
    """Raise InputError if even the cheapest methods take more than `budget` milliseconds."""
    least = sum(
        min(costs.sites[site][method] for method in variants.candidates(site, allowed))
        for site in variants.sites
    )
    if budget < least:
        raise InputError(
            f"budget: expected at least {least:.3f} ms, the cheapest map, found {budget:g} ms; "
            "raise --budget"
        )


def cheaper_maps(search: Search, costs: Costs, best: Methods) -> list[Methods]:
    """Maps from `best`, what the search chose, to the cheapest; POINTS at most.

    Methods are exchanged one at a time for cheaper ones, first where the search measured the
    least loss per millisecond saved. Of the maps on the way some are kept, evenly by latency.
    """
    noise = {
        site: {method: 10.0 ** (-value / 10.0) for method, value in trial.sqnr_db.items()}
        for site, trial in search.sites.items()
    }
    way = [best]
    while (cheaper := _cheaper(way[-1], noise, costs)) is not None:
        way.append(cheaper)
    stretch = (costs.of(best) - costs.of(way[-1])) / (POINTS - 1)
    kept = [best]
    for methods in way[1:-1]:
        if costs.of(methods) <= costs.of(kept[-1]) - stretch:
            kept.append(methods)
    return [*kept, *way[1:][-1:]]


def front(
    variants: Variants,
    bench: Bench,
    costs: Costs,
    methods: list[str],
    maps: list[Methods],
    done: Callable[[int], None] = lambda count: None,
) -> Front:
    """The maps whose logits and latency no other one beats, both measured on the whole model.

    methods: what the maps were chosen among. `done` is called with 1 per map.
    """
    bench.rewind()
    points: list[Point] = []
    for chosen in maps:
        points.append(Point(costs.of(chosen), bench.sqnr_db(variants.program(chosen)), chosen))
        done(1)
    kept = [p for p in points if not any(_dominates(other, p) for other in points)]
    return Front(variants.bits, methods, kept)


def within(front: Front, budget: float) -> Point:
    """The point with the best logits of at most `budget` ms. Raises InputError if there is none."""
    affordable = [point for point in front.points if point.milliseconds <= budget]
    if not affordable:
        least = min(point.milliseconds for point in front.points)
        raise InputError(
            f"budget: expected at least {least:.3f} ms, the cheapest map found, found "
            f"{budget:g} ms; raise --budget"
        )
    return max(affordable, key=lambda point: point.sqnr_db)


def _cheaper(methods: Methods, noise: dict[str, dict[str, float]], costs: Costs) -> Methods | None:
    """One exchange for a cheaper method, with the least noise per millisecond; None at the end."""
    best: tuple[float, str, str] | None = None
    for site, trials in noise.items():
        now = methods[site]
        for method, value in trials.items():
            saved = costs.sites[site][now] - costs.sites[site][method]
            if saved > 0:
                price = (value - trials[now]) / saved if value > trials[now] else -saved
                best = min(best or (math.inf, "", ""), (price, site, method))
    return None if best is None else {**methods, best[1]: best[2]}


def _dominates(one: Point, other: Point) -> bool:
    better = one.milliseconds < other.milliseconds or one.sqnr_db > other.sqnr_db
    return better and one.milliseconds <= other.milliseconds and one.sqnr_db >= other.sqnr_db
