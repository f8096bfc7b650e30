"""Hostile files: how they are made from good ones, and what may come of them.

Every fuzz test changes good files in CASES ways that follow from SEED, the same in every run. What
reads them returns or raises an MnqError of one line, soon and in bounded memory.
"""

from __future__ import annotations

import copy
import json
import os
import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st

from mnq.ops.errors import MnqError

CASES = 10_000
SEED = 20_261_129

SECONDS = 20.0
"""That a case may take on a busy machine; all take a few milliseconds."""
MEMORY = 1 << 30
"""Bytes that all cases of a test may take, the largest image that is read among them."""

_LONGEST_ERROR = 1000

Function = TypeVar("Function", bound=Callable[..., Any])
Case = Callable[[bytes], None]

# Values where others are expected. Those of _RAW are text that json.dumps does not write.
_HOSTILE: list[Any] = [
    *(None, True, False, 0, -1, 1, 7, 0.5, 2**31, 2**63, -(2**63) - 1, 2**200, 1e-300, 1e308),
    *(float("nan"), float("inf"), -float("inf"), [], {}, [[]], [{}], {"": {}}, [0] * 1000),
    *("", " ", "0", "\x00", "\ud800", "a\nb", "\x1b[31m", "x" * 100_000, "../../etc/passwd"),
    *("/dev/zero", "uniform:ivit", "__class__", "%s%n", "eva_giant_patch14_560", "ivit"),
]
_RAW = {
    "<deep>": "[" * 3000 + "]" * 3000,
    "<deep object>": '{"a":' * 3000 + "1" + "}" * 3000,
    "<digits>": "9" * 5000,
    "<overflow>": "-1e999",
    "<twice>": '{"a": 1, "a": 2}',
    "<open>": "[1, ",
}
_ACTIONS = ("replace", "replace", "replace", "delete", "copy", "rename", "wrap")

Json = Any


@dataclass(frozen=True)
class JsonChanges:
    """Changes of a JSON value: what is done, to which of its parts, with what."""

    changes: list[tuple[str, int, Any]]

    def of(self, value: Json) -> bytes:
        """The text of the value after them."""
        root = [copy.deepcopy(value)]
        for action, number, hostile in self.changes:
            given = copy.deepcopy(hostile)
            places = list(_places(root))
            parent, key = places[number % len(places)]
            if action == "delete" and parent is not root:
                del parent[key]
            elif action in ("copy", "rename") and isinstance(parent, dict):
                parent[str(given)] = parent.pop(key) if action == "rename" else parent[key]
            elif action == "wrap":
                parent[key] = [parent[key]]
            else:
                parent[key] = given
        text = json.dumps(root[0])
        for name, raw in _RAW.items():
            text = text.replace(json.dumps(name), raw)
        return text.encode()


def _places(value: Json) -> Iterator[tuple[Any, Any]]:
    """Every part of a JSON value: what holds it, and under which key."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, part in [*items]:
        yield value, key
        if isinstance(part, dict | list):
            yield from _places(part)


@dataclass(frozen=True)
class ByteChanges:
    """Changes of bytes: what is done, where, with which byte."""

    changes: list[tuple[str, int, int]]

    def of(self, data: bytes) -> bytes:
        """The bytes after them; half of these are among the first 64, where sizes stand."""
        result = bytearray(data)
        for action, number, byte in self.changes:
            where = number // 2 % max(min(len(result), 64) if number % 2 else len(result), 1)
            length = byte % 16 + 1
            if action == "flip" and result:
                result[where] ^= 1 << byte % 8
            elif action == "set" and result:
                result[where] = byte
            elif action == "insert":
                result[where:where] = bytes([byte]) * length
            elif action == "delete":
                del result[where : where + length]
            elif action == "copy":
                result[where:where] = result[where : where + length * 16]
            elif action == "cut":
                del result[where:]
            elif action == "fill":
                result[where : where + length] = bytes([255 * (byte % 2)]) * length
        return bytes(result)


def json_changes() -> st.SearchStrategy[JsonChanges]:
    """One to three of them."""
    parts, given = st.integers(0, 2**16), st.sampled_from([*_HOSTILE, *_RAW])
    change = st.tuples(st.sampled_from(_ACTIONS), parts, given)
    return st.builds(JsonChanges, st.lists(change, min_size=1, max_size=3))


def byte_changes() -> st.SearchStrategy[ByteChanges]:
    """One to four of them."""
    actions = st.sampled_from(("flip", "set", "insert", "delete", "copy", "cut", "fill"))
    change = st.tuples(actions, st.integers(0, 2**32 - 1), st.integers(0, 255))
    return st.builds(ByteChanges, st.lists(change, min_size=1, max_size=4))


def fuzz(function: Function) -> Function:
    """Run a hypothesis test on CASES examples, the same ones each time."""
    quiet = settings(
        max_examples=CASES,
        database=None,
        deadline=None,
        phases=(Phase.generate, Phase.shrink),
        suppress_health_check=[*HealthCheck],
    )
    result: Function = seed(SEED)(quiet(function))
    return result


@contextmanager
def reading(read: Callable[[bytes], Any]) -> Iterator[Case]:
    """A function that gives hostile bytes to `read`, which accepts or cleanly refuses them.

    Fails on any exception but MnqError, after SECONDS, beyond MEMORY, and in the end unless there
    were CASES of them, some accepted and some refused.
    """
    taken = _address_space()
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    before = signal.signal(signal.SIGALRM, _late)
    resource.setrlimit(resource.RLIMIT_AS, (taken + MEMORY, hard))
    outcomes = {True: 0, False: 0}

    def case(data: bytes) -> None:
        signal.setitimer(signal.ITIMER_REAL, SECONDS)
        try:
            read(data)
            outcomes[True] += 1
        except MnqError as error:
            outcomes[False] += 1
            text = str(error)
            assert text.isprintable() and len(text) < _LONGEST_ERROR, ascii(text)
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)

    try:
        yield case
    finally:
        signal.signal(signal.SIGALRM, before)
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
    assert sum(outcomes.values()) >= CASES and min(outcomes.values()) > CASES / 100, outcomes


class MemoryFile:
    """A file that is on no disk: ten thousand are written and read in a second."""

    def __init__(self) -> None:
        self._descriptor = os.memfd_create("fuzz")
        self.path = Path(f"/proc/self/fd/{self._descriptor}")

    def write(self, data: bytes) -> None:
        """Let it hold `data` and nothing else."""
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, data, 0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)


def _late(number: int, frame: Any) -> None:
    raise AssertionError(f"a case took more than {SECONDS} s")


def _address_space() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[0]) * resource.getpagesize()
