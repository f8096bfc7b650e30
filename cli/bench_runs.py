"""The comparisons of mnq-bench, on the CPU and on a GPU."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from mnq.cli.common import Screen
from mnq.ops.errors import InputError

if TYPE_CHECKING:
    from mnq.runtime.compare import Comparison
    from mnq.runtime.engines import Engine
    from mnq.runtime.modelfile import ModelFile


def check_for_gpu() -> None:
    """Refuse options that mean something on the CPU only, and a machine without a GPU."""
    from mnq.runtime.gpu import load_torch

    context = click.get_current_context()
    for name in ("threads", "bodies", "with_profile"):
        if context.get_parameter_source(name) is ParameterSource.COMMANDLINE:
            option = name.removeprefix("with_")
            raise InputError(
                f"--provider cuda: expected no --{option} beside it, found one; leave it out"
            )
    load_torch()


def on_cpu(
    screen: Screen,
    engines: list[Engine],
    batches: tuple[int, ...],
    threads: tuple[int, ...],
    rounds: int,
    seconds: float,
) -> list[Comparison]:
    """A comparison for each batch size and number of threads."""
    from mnq.runtime.compare import compare, steps

    runs = []
    for count in threads:
        for batch in batches:
            title = f"batch {batch}, threads {count}"
            with screen.progress(title, steps(engines, rounds)) as advance:
                found = compare(engines, batch, count, rounds=rounds, seconds=seconds, done=advance)
            runs.append(found)
    return runs


def on_gpu(
    screen: Screen,
    model: ModelFile,
    path: Path,
    peers: list[Engine],
    batches: tuple[int, ...],
    rounds: int,
    seconds: float,
) -> tuple[list[Comparison], list[dict[str, float]]]:
    """A comparison for each batch size, and what bounds it."""
    from mnq.runtime import gpu, roofline
    from mnq.runtime.compare import compare_on_gpu
    from mnq.runtime.engines import Engine

    ceilings = gpu.ceilings()
    own = [Engine("mnq", "cuda mnq", path), Engine("mnq, no graph", "cuda mnq, launched", path)]
    runs, floors = [], []
    for batch in batches:
        floors.append(roofline.work(model.proto, batch).to_json(ceilings))
        with screen.progress(f"batch {batch}, GPU", rounds) as advance:
            found = compare_on_gpu(
                [*own, *peers], batch, rounds=rounds, seconds=seconds, done=advance
            )
        runs.append(found)
    return runs, floors
