"""Bench: latency of several engines, in turn, on a machine that is never quite quiet.

In every round each engine has a block: it waits until the others' threads are idle, runs once to
wake its own, and is then timed. Where the clock changes from second to second only the ratios
of a round mean something, so ratios are taken within rounds.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from mnq.runtime.machine import busy_seconds, preemptions

LEAST_ROUNDS = 5
"""Made even if the time is up."""

LEAST_CLEAN = 12
"""With fewer undisturbed samples of any engine, all samples of all engines are used."""

WIDE = 0.15
"""Quartiles further apart than this share of the median are worth a warning."""

BUSY_CORES = 0.1
"""Cores that other programs may keep busy before that is worth a warning."""

_BLOCK = 0.1  # seconds of timed calls in a block, as far as CALLS allow
_CALLS = 5
_QUIET = 0.005  # seconds without work that make a process idle
_BUSY = 0.1  # share of that time which does not count as work
_PATIENCE = 100  # waits; onnxruntime's workers were seen to spin for 45 ms


@dataclass(frozen=True)
class Sample:
    """One timed call. clean: no thread of the process was preempted meanwhile."""

    milliseconds: float
    clean: bool


@dataclass(frozen=True)
class Taken:
    """rounds: by engine the samples of each round. others: cores that other programs, and other
    machines on the same processor, kept busy meanwhile; None where the system does not tell.
    """

    rounds: dict[str, list[list[Sample]]]
    others: float | None


@dataclass(frozen=True)
class Spread:
    """A median and the quartiles around it."""

    median: float
    low: float
    high: float

    @property
    def width(self) -> float:
        """Distance of the quartiles as a share of the median."""
        return (self.high - self.low) / self.median


@dataclass(frozen=True)
class Figures:
    """What an engine's samples say.

    milliseconds: of one call. times: time of a call in times of the reference's, None where no
    round has kept samples of both. samples, clean, kept: how many were taken, were undisturbed,
    and were used.
    """

    milliseconds: Spread
    times: Spread | None
    samples: int
    clean: int
    kept: int


Clock = Callable[[Callable[[], object]], float]
"""Milliseconds that a call takes."""


def milliseconds(call: Callable[[], object]) -> float:
    """What the host's clock says: right for calls that return when their work is done."""
    begin = time.perf_counter()
    call()
    return (time.perf_counter() - begin) * 1e3


def take_turns(
    calls: Mapping[str, Callable[[], object]],
    rounds: int,
    seconds: float,
    done: Callable[[int], None] = lambda count: None,
    clock: Clock = milliseconds,
) -> Taken:
    """Time every engine in every round; stops after `seconds`, but not before LEAST_ROUNDS.

    `done` is called with 1 after each of at most `rounds` rounds.
    """
    expected = {}
    for name, call in calls.items():
        call()  # the first one allocates
        expected[name] = clock(call) / 1e3
    names = list(calls)
    taken: dict[str, list[list[Sample]]] = {name: [] for name in names}
    begin, own, busy = time.perf_counter(), time.process_time(), busy_seconds()
    for number in range(rounds):
        if number >= LEAST_ROUNDS and time.perf_counter() > begin + seconds:
            break
        # Another one begins each time: whatever a neighbour leaves behind, all get it.
        first = number % len(names)
        for name in names[first:] + names[:first]:
            settle()
            taken[name].append(_block(calls[name], expected[name], clock))
        done(1)
    others = None
    if busy is not None and (now := busy_seconds()) is not None:
        theirs = (now - busy) - (time.process_time() - own)
        others = max(0.0, theirs / (time.perf_counter() - begin))
    return Taken(taken, others)


def settle() -> None:
    """Wait until this process is idle, half a second at most.

    An engine's workers go on spinning after a call, and would slow down the next engine.
    """
    for _ in range(_PATIENCE):
        begin, begin_cpu = time.perf_counter(), time.process_time()
        time.sleep(_QUIET)
        if time.process_time() - begin_cpu < _BUSY * (time.perf_counter() - begin):
            return


def figures(taken: Taken, reference: str) -> dict[str, Figures]:
    """Medians, quartiles and ratios to the engine `reference`."""
    every = {name: [s for block in blocks for s in block] for name, blocks in taken.rounds.items()}
    clean = {name: sum(sample.clean for sample in samples) for name, samples in every.items()}
    choosy = all(clean[name] >= _enough(len(samples)) for name, samples in every.items())
    middle: dict[str, list[float | None]] = {}
    for name, blocks in taken.rounds.items():
        kept = [[s.milliseconds for s in block if s.clean or not choosy] for block in blocks]
        middle[name] = [statistics.median(block) if block else None for block in kept]
    result = {}
    for name, samples in every.items():
        used = [s.milliseconds for s in samples if s.clean or not choosy]
        pairs = zip(middle[name], middle[reference], strict=True)
        ratios = [own / other for own, other in pairs if own is not None and other is not None]
        times = _spread(ratios) if ratios else None
        result[name] = Figures(_spread(used), times, len(samples), clean[name], len(used))
    return result


def doubts(found: Mapping[str, Figures], others: float | None) -> list[str]:
    """What makes these figures doubtful, a sentence each; [] for a quiet machine."""
    sentences = []
    if others is not None and others > BUSY_CORES:
        sentences.append(
            f"the machine was busy: other programs used {others:.1f} cores; stop them and repeat"
        )
    few = [
        f"{name} {f.clean} of {f.samples}"
        for name, f in found.items()
        if f.clean < _enough(f.samples)
    ]
    if few:
        sentences.append(
            f"too few samples ran undisturbed ({', '.join(few)}), so all samples were used; "
            "stop other programs, or leave a core free"
        )
    wide = [
        f"{name} {f.milliseconds.width:.0%}"
        for name, f in found.items()
        if f.milliseconds.width > WIDE
    ]
    if wide:
        sentences.append(
            f"the machine was uneven: quartiles lie far apart ({', '.join(wide)} of the median); "
            "trust the ratios, which are taken within rounds, more than the milliseconds"
        )
    return sentences


def _enough(samples: int) -> int:
    return min(LEAST_CLEAN, samples)


def _block(call: Callable[[], object], expected: float, clock: Clock) -> list[Sample]:
    """The samples of one block. A call that fills the block by itself needs no waking."""
    if expected >= _BLOCK:
        return [_timed(call, clock)]
    call()
    count = min(_CALLS, max(1, int(_BLOCK / max(expected, 1e-6))))
    return [_timed(call, clock) for _ in range(count)]


def _timed(call: Callable[[], object], clock: Clock) -> Sample:
    before = preemptions()
    taken = clock(call)
    return Sample(taken, preemptions() == before)


def _spread(values: list[float]) -> Spread:
    if len(values) == 1:
        return Spread(values[0], values[0], values[0])
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    return Spread(median, low, high)
