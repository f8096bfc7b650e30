"""Latency: calls timed in turn, so that a machine that gets slower is slower for all of them."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Latency:
    """Milliseconds of one call: the median of all rounds, and the quartiles around it."""

    median: float
    low: float
    high: float


def interleaved(
    calls: Mapping[str, Callable[[], object]],
    rounds: int,
    done: Callable[[int], None] = lambda count: None,
) -> dict[str, Latency]:
    """Time every call once per round, after one round that does not count. rounds >= 2.

    `done` is called with 1 after each round.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    for number in range(rounds + 1):
        for name, call in calls.items():
            begin = time.perf_counter()
            call()
            if number:
                times[name].append((time.perf_counter() - begin) * 1e3)
        if number:
            done(1)
    result = {}
    for name, values in times.items():
        low, median, high = statistics.quantiles(values, n=4, method="inclusive")
        result[name] = Latency(median, low, high)
    return result
