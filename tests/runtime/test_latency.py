"""Latency, with a clock that only the timed calls move."""

from __future__ import annotations

import statistics
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mnq.runtime import latency
from mnq.runtime.latency import Latency, interleaved


class Clock:
    """Seconds; a call moves it by the next of its durations, in milliseconds."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.order: list[str] = []

    def call(self, name: str, *milliseconds: float) -> Callable[[], object]:
        durations = iter(milliseconds)

        def run() -> object:
            self.order.append(name)
            self.now += next(durations) / 1e3
            return name

        return run


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(latency.time, "perf_counter", lambda: made.now)
    return made


def test_median_and_quartiles_leave_out_the_first_round(clock: Clock) -> None:
    calls = {"a": clock.call("a", 900.0, 5.0, 1.0, 4.0, 2.0, 3.0)}
    (found,) = interleaved(calls, 5).values()
    assert (found.low, found.median, found.high) == pytest.approx((2.0, 3.0, 4.0), abs=1e-6)


def test_calls_take_turns(clock: Clock) -> None:
    """Each has its own time, whatever the others take."""
    calls = {"a": clock.call("a", *[1.0] * 4), "b": clock.call("b", *[70.0] * 4)}
    found = interleaved(calls, 3)
    assert clock.order == ["a", "b"] * 4
    assert list(found) == ["a", "b"]
    assert found["a"].median == pytest.approx(1.0, abs=1e-6)
    assert found["b"].median == pytest.approx(70.0, abs=1e-6)


def test_time_between_calls_does_not_count(clock: Clock) -> None:
    def done(count: int) -> None:
        assert count == 1
        rounds.append(len(clock.order))
        clock.now += 50.0

    rounds: list[int] = []
    calls = {"a": clock.call("a", *[2.0] * 4), "b": clock.call("b", *[3.0] * 4)}
    found = interleaved(calls, 3, done)
    assert rounds == [4, 6, 8]  # after every round that counts
    assert found["a"].high == pytest.approx(2.0, abs=1e-6)


@settings(
    deadline=None,
    derandomize=True,
    database=None,
    max_examples=50,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.lists(st.integers(0, 1000), min_size=2, max_size=30))
def test_figures_are_those_of_the_sorted_times(clock: Clock, times: list[int]) -> None:
    (found,) = interleaved({"a": clock.call("a", 0, *times)}, len(times)).values()
    assert found.median == pytest.approx(statistics.median(times), abs=1e-6)
    assert min(times) - 1e-6 <= found.low <= found.median <= found.high <= max(times) + 1e-6
    ordered = sorted(times)
    place = (len(times) - 1) / 4  # of the first quartile among the sorted times
    below, share = int(place), place % 1
    above = ordered[min(below + 1, len(times) - 1)]
    assert found.low == pytest.approx((1 - share) * ordered[below] + share * above, abs=1e-6)


def test_nothing_to_time_gives_nothing() -> None:
    assert interleaved({}, 2) == {}


def test_the_real_clock_gives_times_of_a_real_call() -> None:
    (found,) = interleaved({"sum": lambda: sum(range(1000))}, 3).values()
    assert isinstance(found, Latency)
    assert 0 < found.low <= found.median <= found.high < 1e3
