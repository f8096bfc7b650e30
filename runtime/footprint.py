"""Footprint: what a process that opens one model and runs it once takes in memory and in time."""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mnq.ops.errors import EnvironmentLack
from mnq.runtime import child
from mnq.runtime.engines import Engine, load_openvino, open_engine
from mnq.runtime.machine import peak_bytes
from mnq.runtime.session import load_onnxruntime

REPEATS = 3
_EMPTY = "empty"


@dataclass(frozen=True)
class Footprint:
    """Medians of REPEATS processes. Bytes at the peak, seconds from the file to a session."""

    peak_bytes: int
    start_seconds: float


def empty(done: Callable[[int], None] = lambda count: None) -> Footprint:
    """A process that imports onnxruntime and opens nothing; `done` as for `measure`."""
    return _repeated("an empty process", [_EMPTY], done)


def measure(
    engine: Engine, batch: int, threads: int, done: Callable[[int], None] = lambda count: None
) -> Footprint:
    """The footprint of an engine; `done` is called with 1 after each of REPEATS processes.

    Raises EnvironmentLack if a process does not end well.
    """
    arguments = [engine.runtime, engine.path, batch, threads]
    return _repeated(engine.name, arguments, done)


def _repeated(name: str, arguments: list[object], done: Callable[[int], None]) -> Footprint:
    answers = []
    for _ in range(REPEATS):
        try:
            answers.append(child.run("mnq.runtime.footprint", *arguments))
        except child.ChildFailed as error:
            raise EnvironmentLack(
                f"bench: expected {name} to run in a process of its own, found: {error}; close "
                "other programs or leave it out"
            ) from error
        done(1)
    return Footprint(
        int(statistics.median(answer["peak_bytes"] for answer in answers)),
        float(statistics.median(answer["start_seconds"] for answer in answers)),
    )


def main(arguments: list[str]) -> None:
    """Print {"peak_bytes", "start_seconds"} of this process as the last line."""
    load_onnxruntime()
    seconds = 0.0
    if arguments != [_EMPTY]:
        runtime, path, batch, threads = arguments
        if runtime == "openvino":
            load_openvino()  # importing it is no part of its start
        begin = time.perf_counter()
        opened = open_engine(Engine("", runtime, Path(path)), int(batch), int(threads))
        seconds = time.perf_counter() - begin
        opened.run()
    print(f"\n{json.dumps({'peak_bytes': peak_bytes(), 'start_seconds': seconds})}")


if __name__ == "__main__":
    main(sys.argv[1:])
