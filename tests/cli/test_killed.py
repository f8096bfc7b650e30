"""Commands that are killed at any moment: where a good file stood, one stands."""

from __future__ import annotations

import itertools
import json
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from cli_runs import Digits
from cli_training import OPTIONS, few

from mnq.toolchain.checkpoint import read

SEED = 20_261_129
MOMENTS = 25
"""Random ones, of each command; those of writing a file are tried one by one beside them."""

KEPT = ("last.safetensors", "best.safetensors")

Run = Callable[..., dict[str, Any]]


@pytest.fixture(scope="module")
def run() -> Iterator[Run]:
    """A function that runs a command that is killed after a delay, or at a step of writing."""
    program = [sys.executable, str(Path(__file__).with_name("cli_nursery.py"))]
    pipe = subprocess.PIPE
    variables = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(program, stdin=pipe, stdout=pipe, text=True, env=variables) as nursery:
        assert nursery.stdin is not None and nursery.stdout is not None
        sent, told = nursery.stdin, nursery.stdout
        assert told.readline() == "ready\n"

        def one(*words: object, delay: float | None = None, call: int | None = None) -> Any:
            job = {"words": [*map(str, words)], "delay": delay, "call": call}
            print(json.dumps(job), file=sent, flush=True)
            return json.loads(told.readline())

        yield one
        sent.close()


@dataclass
class Moment:
    """When to kill a command: in the place of a step of writing, or after a share of its time."""

    call: int | None
    share: float
    killed: bool = False

    def at(self, seconds: float) -> dict[str, Any]:
        """The options of `run` for a command that takes so long."""
        return {"delay": self.share * seconds} if self.call is None else {"call": self.call}


def moments(steps: int) -> Iterator[Moment]:
    """The first steps of writing, then random moments until MOMENTS of these have killed."""
    yield from (Moment(number, 0) for number in range(steps))
    draw, killed, tries = random.Random(SEED), 0, 0
    while killed < MOMENTS:
        moment = Moment(None, draw.random())
        yield moment
        killed, tries = killed + moment.killed, tries + 1
        assert tries < 20 * MOMENTS


def content(path: Path) -> tuple[str, list[Any]]:
    """What a checkpoint holds, but for the seconds that its epochs took."""
    found = read(path)
    return found.digest(), [{**row, "seconds": None} for row in found.header["history"]]


def visible(folder: Path) -> set[str]:
    """Names in a folder, without the temporary files that a killed process cannot remove."""
    return {path.name for path in folder.iterdir() if not path.name.startswith(".")}


@pytest.mark.slow
@pytest.mark.onnxruntime
def test_an_export_that_is_killed_leaves_the_old_file_or_the_new_one(
    run: Run, exported: Digits, tmp_path: Path
) -> None:
    output = tmp_path / "m.onnx"
    words = ("export", "--model", "digits", "--calib", exported.calib, "--output", output)
    made = {}
    for name in ("ibert", "ivit"):
        ended = run(*words, "--assign", f"uniform:{name}")
        assert ended["status"] == 0
        made[name] = output.read_bytes()
    seconds = ended["seconds"]
    for moment in moments(5):
        output.write_bytes(made["ibert"])
        ended = run(*words, "--assign", "uniform:ivit", **moment.at(seconds))
        moment.killed = ended["status"] is None
        if not moment.killed:
            seconds = ended["seconds"]  # the machine may be less busy than before
        assert output.read_bytes() in made.values(), moment
        assert visible(tmp_path) == {"m.onnx"}


@pytest.mark.slow
def test_a_run_that_is_killed_goes_on_to_the_same_end(
    run: Run, digits: Digits, tmp_path: Path
) -> None:
    small = few(digits, tmp_path / "few", 2)
    data = ("--train", small.train, "--val", small.test, "--batch", 10, "--epochs", 6)
    whole, output = tmp_path / "whole", tmp_path / "run"
    words = ("qat", *OPTIONS, *data)
    ended = run(*words, "--output", whole)
    assert ended["status"] == 0
    last = output / "last.safetensors"
    step = 0
    for moment in itertools.chain(moments(25), [None]):
        goes_on = ("--resume", last) if last.exists() else ()
        when = {} if moment is None else moment.at(ended["seconds"])
        status = run(*words, *goes_on, "--output", output, **when)["status"]
        assert status in (0, None)
        if moment is not None:
            moment.killed = status is None
        found = read(last).header["progress"]["step"] if last.exists() else 0
        assert found >= step, moment
        step = found
        if status == 0:
            assert visible(output) == visible(whole)
            assert [content(output / name) for name in KEPT] == [content(whole / n) for n in KEPT]
            shutil.rmtree(output)
            step = 0
    assert not output.exists()  # the last one went to its end
