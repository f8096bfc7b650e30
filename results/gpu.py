"""Checks the kernels on a GPU and measures them beside their peers, in one go.

    python results/gpu.py --work DIR [--step NAME] [--model deit_s]

Steps: `tests`, those of the project that need a GPU; `verify`, every tensor of DeiT-T, S and B and
Swin-T against its certificate, which the CPU's integers made; `bench`, DeiT-S at 1, 8 and 64 images
beside onnxruntime and torch; `wgmma`, DeiT-S on the path for compute capability 9.0, every tensor
and the same speed; `sanitizer`, the kernels under compute-sanitizer, on that path too. Random
weights: they say nothing about accuracy. --work keeps the models. Writes results/gpu.json after
every step; a step that failed leaves what it printed there.

Needs an onnxruntime-gpu, torch and nvcc's tools, and the project installed. About nine minutes.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
from speed import MODELS, exported

from mnq.models.zoo import load
from mnq.ops.errors import EnvironmentLack
from mnq.ops.files import write_atomically
from mnq.runtime.compare import surroundings
from mnq.toolchain import peers

RESULTS = Path(__file__).parent
OUTPUT = RESULTS / "gpu.json"
TESTS = RESULTS.parent / "tests"
MAP = "mixed"
BENCHED = "deit_s"
BATCHES = "1,8,64"
WGMMA = {"MNQ_CUDA_PATH": "wgmma"}
TOOLS = ("memcheck", "racecheck", "synccheck", "initcheck")
PATIENCE = 500  # seconds, for a step's command
KEPT = 4000  # characters of what a command that failed has printed


@dataclass(frozen=True)
class Study:
    """What the steps work on."""

    work: Path
    models: tuple[str, ...]

    def file(self, model: str) -> Path:
        """An exported model; made if it is not there."""
        path = self.work / f"{model}.onnx"
        if not path.exists():
            loaded = load(model, random=peers.SEED)
            folder = self.work / model
            folder.mkdir(exist_ok=True)
            exported(loaded, folder, (MAP,))
            (folder / f"{MAP}.onnx").replace(path)
        return path


def called(*words: object, **variables: str) -> dict[str, Any]:
    """How a command ended: status and seconds, and its last JSON or what it printed."""
    begin = time.perf_counter()
    try:
        done = subprocess.run(
            [*map(str, words)],
            env={**os.environ, **variables},
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return {"status": None, "printed": str(error)[-KEPT:]}
    entry: dict[str, Any] = {"status": done.returncode}
    entry["seconds"] = round(time.perf_counter() - begin, 1)
    try:
        entry["answer"] = json.loads(done.stdout)
    except ValueError:
        entry["printed"] = (done.stdout + done.stderr)[-KEPT:]
    if done.returncode:
        entry["printed"] = (done.stdout + done.stderr)[-KEPT:]
    return entry


def mnq(verb: str, *words: object, **variables: str) -> dict[str, Any]:
    """`called` for one of mnq's commands."""
    program = "from mnq.cli.main import main; main()"
    return called(sys.executable, "-c", program, verb, *words, "--json", **variables)


def tests(study: Study) -> dict[str, Any]:
    """All tests that need a GPU, of which none may be skipped."""
    entry = called(sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-rs", TESTS)
    if "skipped" in entry["printed"]:
        entry["status"] = None
    return {"pytest": entry}


def verify(study: Study) -> dict[str, Any]:
    """Every tensor of every model."""
    return {
        model: mnq("verify", study.file(model), "--provider", "cuda", "--kernels")
        for model in study.models
    }


def bench(study: Study) -> dict[str, Any]:
    """Speed beside the peers, whose models are kept."""
    words = ("--provider", "cuda", "--batch", BATCHES, "--peers-dir", study.work / "peers")
    return {BENCHED: mnq("bench", study.file(BENCHED), *words, "--seconds", 20)}


def wgmma(study: Study) -> dict[str, Any]:
    """Every tensor and the speed of one model on warp groups, beside its strongest peer."""
    path, words = study.file(BENCHED), ("--provider", "cuda")
    others = ("--peers", "fp16", "--peers-dir", study.work / "peers", "--seconds", 10)
    return {
        "verify": mnq("verify", path, *words, "--kernels", **WGMMA),
        "bench": mnq("bench", path, *words, "--batch", BATCHES, *others, **WGMMA),
    }


def sanitizer(study: Study) -> dict[str, Any]:
    """Small shapes of products and attention, under each of its tools."""
    program = shutil.which("compute-sanitizer")
    if program is None:
        return {"compute-sanitizer": {"status": None, "printed": "found none on the PATH"}}
    script = TESTS / "ops" / "ops_emulated.py"
    options = ("--error-exitcode", 9, "--target-processes", "all")
    paths: dict[str, dict[str, str]] = {"": {}, " wgmma": WGMMA}
    return {
        tool + name: called(program, "--tool", tool, *options, sys.executable, script, **variables)
        for tool in TOOLS
        for name, variables in paths.items()
    }


STEPS: dict[str, Callable[[Study], dict[str, Any]]] = {
    "tests": tests,
    "verify": verify,
    "bench": bench,
    "wgmma": wgmma,
    "sanitizer": sanitizer,
}


@click.command()
@click.option("--work", required=True, type=Path, help="Keep the models here.")
@click.option("--step", "steps", multiple=True, type=click.Choice([*STEPS]), default=[*STEPS])
@click.option("--model", "models", multiple=True, type=click.Choice(MODELS), default=MODELS)
def main(work: Path, steps: tuple[str, ...], models: tuple[str, ...]) -> None:
    """Check, measure, and write results/gpu.json."""
    work.mkdir(parents=True, exist_ok=True)
    study = Study(work, models)
    kept = json.loads(OUTPUT.read_text())["steps"] if OUTPUT.exists() else {}
    try:
        result: dict[str, Any] = {**surroundings(on_gpu=True), "steps": kept}
    except EnvironmentLack as error:
        raise SystemExit(f"gpu: {error}") from error
    for name in steps:
        result["steps"][name] = STEPS[name](study)
        write_atomically(OUTPUT, (json.dumps(result, indent=1) + "\n").encode())
        states = {what: entry["status"] for what, entry in result["steps"][name].items()}
        click.echo(f"{name}: {states}")
    failed = [n for n in steps if any(e["status"] != 0 for e in result["steps"][n].values())]
    if failed:
        raise SystemExit(
            f"gpu: expected status 0, found others in {', '.join(failed)}; see {OUTPUT}"
        )


if __name__ == "__main__":
    main()
