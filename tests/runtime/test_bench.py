"""Taking turns, and what is made of the samples, with a clock that only the calls move."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from mnq.runtime import bench
from mnq.runtime.bench import Figures, Sample, Spread, Taken, doubts, figures, take_turns


class Machine:
    """A clock, a count of preemptions, and the processor time of this process."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        self.preempted = 0
        self.cpu = 0.0
        self.spinning = 0.0  # seconds for which workers go on after a call
        self.order: list[str] = []
        self.busy: float | None = None
        monkeypatch.setattr(bench.time, "perf_counter", lambda: self.now)
        monkeypatch.setattr(bench.time, "process_time", lambda: self.cpu)
        monkeypatch.setattr(bench.time, "sleep", self.sleep)
        monkeypatch.setattr(bench, "preemptions", lambda: self.preempted)
        monkeypatch.setattr(bench, "busy_seconds", lambda: self.busy)

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        spun = min(seconds, self.spinning)
        self.spinning -= spun
        self.cpu += spun

    def call(
        self, name: str, milliseconds: float, spin: float = 0.0, preempted: int = 0
    ) -> Callable[[], object]:
        def run() -> object:
            self.order.append(name)
            self.now += milliseconds / 1e3
            self.cpu += milliseconds / 1e3
            self.spinning = spin
            self.preempted += preempted
            return name

        return run


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(monkeypatch)


def milliseconds(taken: Taken, name: str) -> list[list[float]]:
    return [[round(s.milliseconds, 6) for s in block] for block in taken.rounds[name]]


def test_a_block_is_a_waking_call_and_as_many_timed_ones_as_fit(machine: Machine) -> None:
    calls = {"short": machine.call("short", 1.0), "long": machine.call("long", 40.0)}
    taken = take_turns(calls, 1, 60.0)
    assert milliseconds(taken, "short") == [[1.0] * 5]
    assert milliseconds(taken, "long") == [[40.0] * 2]
    blocks = machine.order[4:]  # after two calls of each that do not count
    assert blocks == ["short"] * 6 + ["long"] * 3


def test_a_call_that_fills_its_block_is_made_once(machine: Machine) -> None:
    taken = take_turns({"slow": machine.call("slow", 700.0)}, 3, 60.0)
    assert milliseconds(taken, "slow") == [[700.0]] * 3
    assert len(machine.order) == 2 + 3


def test_another_engine_begins_each_round(machine: Machine) -> None:
    calls = {name: machine.call(name, 200.0) for name in "abc"}
    take_turns(calls, 4, 60.0)
    assert "".join(machine.order[6:]) == "abcbcacababc"


def test_an_engine_starts_when_the_workers_of_the_last_one_are_idle(machine: Machine) -> None:
    quiet: list[float] = []

    def watcher() -> object:
        quiet.append(machine.spinning)
        machine.now += 0.2
        return None

    take_turns({"spins": machine.call("spins", 200.0, spin=0.045), "b": watcher}, 6, 60.0)
    assert quiet[2:] == [0.0] * 6


def test_workers_that_never_rest_do_not_hang_it(machine: Machine) -> None:
    before = machine.now
    machine.spinning = 1e9
    bench.settle()
    assert machine.now - before == pytest.approx(0.5)


def test_time_ends_the_rounds_but_never_before_five(machine: Machine) -> None:
    ticks: list[int] = []
    taken = take_turns({"a": machine.call("a", 1000.0)}, 100, 7.5, ticks.append)
    assert len(taken.rounds["a"]) == 8
    assert ticks == [1] * 8
    assert len(take_turns({"a": machine.call("a", 9000.0)}, 100, 1.0).rounds["a"]) == 5
    assert len(take_turns({"a": machine.call("a", 9000.0)}, 3, 1.0).rounds["a"]) == 3


def test_preempted_samples_are_not_clean(machine: Machine) -> None:
    calls = {"a": machine.call("a", 200.0), "b": machine.call("b", 200.0, preempted=2)}
    taken = take_turns(calls, 2, 60.0)
    assert [s.clean for block in taken.rounds["a"] for s in block] == [True, True]
    assert [s.clean for block in taken.rounds["b"] for s in block] == [False, False]


def test_cores_of_other_programs_are_counted(machine: Machine) -> None:
    machine.busy = 50.0

    def call() -> object:
        machine.now += 0.2
        machine.cpu += 0.2
        assert machine.busy is not None
        machine.busy += 0.2 + 0.1  # we, and half a core of others
        return None

    taken = take_turns({"a": call}, 10, 60.0)
    assert taken.others == pytest.approx(0.5, abs=0.02)


def test_unknown_cores_of_others_are_none(machine: Machine) -> None:
    assert take_turns({"a": machine.call("a", 200.0)}, 2, 60.0).others is None


def rounds(*blocks: list[float], clean: bool = True) -> list[list[Sample]]:
    return [[Sample(ms, clean) for ms in block] for block in blocks]


def test_ratios_are_taken_within_rounds() -> None:
    """A clock that halves its speed from one round to the next leaves them as they are."""
    own = [10.0 * (1 + number % 2) for number in range(20)]
    taken = Taken(
        {"mnq": rounds(*([ms] for ms in own)), "peer": rounds(*([3 * ms] for ms in own))}, None
    )
    found = figures(taken, "mnq")
    assert found["peer"].times == Spread(3.0, 3.0, 3.0)
    assert found["mnq"].times == Spread(1.0, 1.0, 1.0)
    assert found["peer"].milliseconds == Spread(45.0, 30.0, 60.0)


def test_disturbed_samples_are_left_out_where_enough_are_clean() -> None:
    blocks = [[Sample(10.0, True), Sample(90.0, False)] for _ in range(12)]
    found = figures(Taken({"mnq": blocks}, None), "mnq")["mnq"]
    assert found.milliseconds == Spread(10.0, 10.0, 10.0)
    assert (found.samples, found.clean, found.kept) == (24, 12, 12)


def test_one_engine_with_few_clean_samples_keeps_all_of_all() -> None:
    """Else it would be compared at its worst with others at their best."""
    mixed = [[Sample(10.0, True), Sample(20.0, False)] for _ in range(12)]
    few = [[Sample(30.0, number < 11), Sample(30.0, False)] for number in range(12)]
    found = figures(Taken({"mnq": mixed, "peer": few}, None), "mnq")
    assert found["mnq"].kept == 24
    assert found["mnq"].milliseconds.median == 15.0
    assert found["peer"].kept == 24


def test_rounds_without_clean_samples_of_both_give_no_ratio() -> None:
    own = [[Sample(10.0, number != 0)] for number in range(14)]
    peer = [[Sample(20.0 if number else 500.0, number != 1)] for number in range(14)]
    found = figures(Taken({"mnq": own, "peer": peer}, None), "mnq")
    assert found["peer"].times == Spread(2.0, 2.0, 2.0)
    assert found["peer"].kept == 13


def quiet(**changes: object) -> Figures:
    parts = {"milliseconds": Spread(10.0, 9.8, 10.2), "times": None, "samples": 40}
    parts |= {"clean": 30, "kept": 30}
    return Figures(**{**parts, **changes})  # type: ignore[arg-type]


def test_a_quiet_machine_raises_no_doubts() -> None:
    assert doubts({"mnq": quiet()}, 0.02) == []
    assert doubts({"mnq": quiet(samples=5, clean=5, kept=5)}, None) == []


@pytest.mark.parametrize(
    ("changes", "others", "text"),
    [
        ({"clean": 3}, 0.0, "mnq 3 of 40"),
        ({"samples": 5, "clean": 4}, 0.0, "mnq 4 of 5"),
        ({"milliseconds": Spread(10.0, 9.0, 11.0)}, 0.0, "mnq 20% of the median"),
        ({}, 0.75, "other programs used 0.8 cores"),
    ],
)
def test_each_doubt_is_a_sentence(changes: dict[str, object], others: float, text: str) -> None:
    (sentence,) = doubts({"mnq": quiet(**changes), "peer": quiet()}, others)
    assert text in sentence
    assert "peer" not in sentence


def test_the_real_clock_and_counters_work() -> None:
    taken = take_turns({"sum": lambda: sum(range(1000))}, 2, 60.0)
    assert all(0 < s.milliseconds < 1e3 for block in taken.rounds["sum"] for s in block)
    begin = time.perf_counter()
    bench.settle()
    assert time.perf_counter() - begin < 2
