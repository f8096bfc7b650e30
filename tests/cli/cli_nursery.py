"""A process that has the digits model captured, and forks one that runs a command until it is
killed.

For each JSON line on stdin, {"words": [verb, argument, ...], "delay": seconds or null, "call":
number or null}, it prints {"status": exit status or null, "seconds": of the run}. A child is killed
(SIGKILL) after the delay, or in the place of its call-th step of writing files.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from importlib import import_module
from typing import Any
from unittest import mock

from mnq.models import zoo
from mnq.toolchain import export

IMPORTS = ("onnxruntime", "mnq.cli.export", "mnq.cli.qat", "mnq.cli.training", "mnq.toolchain.fit")
STEPS = ((tempfile, "mkstemp"), (os, "fdopen"), (os, "fsync"), (os, "chmod"), (os, "replace"))


def die_in_place_of(number: int) -> None:
    """Let this process die instead of its `number`-th step of writing files, from 0."""
    count = 0

    def dying(step: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            nonlocal count
            if count == number:
                os.kill(os.getpid(), signal.SIGKILL)
            count += 1
            return step(*arguments, **options)

        return call

    for module, name in STEPS:
        setattr(module, name, dying(getattr(module, name)))


def run(words: list[str], call: int | None) -> None:
    """Run a command; does not return."""
    silent = os.open(os.devnull, os.O_RDWR)
    for descriptor in range(3):
        os.dup2(silent, descriptor)
    if call is not None:
        die_in_place_of(call)
    verb, *arguments = words
    try:
        import_module(f"mnq.cli.{verb}").main(arguments, prog_name=f"mnq-{verb}")
    except SystemExit as end:
        os._exit(end.code if isinstance(end.code, int) else 1)
    finally:
        os._exit(70)


def main() -> None:
    for name in IMPORTS:
        import_module(name)
    captured = zoo.load("digits")
    graph = export.graph_of(captured)
    loads = mock.patch.object(zoo, "load", lambda *_, **__: captured)
    captures = mock.patch.object(export, "graph_of", lambda _: graph)
    with loads, captures:
        print("ready", flush=True)
        serve()


def serve() -> None:
    """Do what stdin asks for, one by one."""
    for line in sys.stdin:
        job = json.loads(line)
        began = time.monotonic()
        child = os.fork()
        if child == 0:
            run(job["words"], job["call"])
        if job["delay"] is not None:
            time.sleep(job["delay"])
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        ended = None if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)
        print(json.dumps({"status": ended, "seconds": time.monotonic() - began}), flush=True)


if __name__ == "__main__":
    main()
