"""Measures speed, size and memory of DeiT-T, S and B and Swin-T beside their peers.

    python results/speed.py --peers-dir DIR [--model deit_s] [--batch 8] [--threads 2]

Random weights, calibrated on random images: they say nothing about accuracy, and speed does not
depend on them. Writes results/speed.json after every comparison. Everything else on the machine
should be quiet; what was not is in the file.
"""

from __future__ import annotations

import itertools
import json
import tempfile
from pathlib import Path
from typing import Any

import click
import torch

from mnq.cli.common import Screen
from mnq.models.zoo import LoadedModel, load
from mnq.ops.files import write_atomically
from mnq.ops.registry import METHODS
from mnq.runtime.compare import compare, steps, surroundings
from mnq.runtime.engines import Engine
from mnq.toolchain import peers
from mnq.toolchain.calibrate import collect
from mnq.toolchain.export import export, graph_of
from mnq.toolchain.map import Map, uniform
from mnq.toolchain.variants import PAPER_METHODS

RESULTS = Path(__file__).parent
OUTPUT = RESULTS / "speed.json"
MODELS = ("deit_t", "deit_s", "deit_b", "swin_t")
UNIFORM = ("lut", "ibert", "ivit", "fqvit")
MIXED = "8 bits, paper, joint, sqnr-absdiff"
"""The row of deit_t_assignment.json that mixes most; all sizes of DeiT have the same sites. Others
take the paper's methods in turn.
"""

BATCHES = (1, 8)
THREADS = (1, 2)
ROUNDS = 40
SECONDS = 50.0
IMAGES = 8


def maps(model: str, kinds: dict[str, str]) -> dict[str, Map]:
    """The maps to measure by name, for sites of these kinds; ratios are to the first."""
    rows = json.loads((RESULTS / "deit_t_assignment.json").read_text())["rows"]
    methods = rows[MIXED]["sites"]
    if set(methods) != set(kinds):
        usable = {kind: [m for m in METHODS[kind] if m in PAPER_METHODS] for kind in METHODS}
        counts = {kind: itertools.cycle(names) for kind, names in usable.items()}
        methods = {site: next(counts[kind]) for site, kind in kinds.items()}
    sites = {site: {"method": method} for site, method in methods.items()}
    mixed = Map(model, defaults={"attention": "deferred"}, sites=sites)
    return {"mixed": mixed, **{name: uniform(model, name) for name in UNIFORM}}


def exported(
    loaded: LoadedModel, folder: Path, names: tuple[str, ...] = ("mixed", *UNIFORM)
) -> list[Engine]:
    """An engine for each of these maps."""
    p = loaded.preprocess
    generator = torch.Generator().manual_seed(peers.SEED)
    images = torch.randn(IMAGES, p.channels, p.size, p.size, generator=generator)
    graph = graph_of(loaded)
    origin = {"source": "random", "images": IMAGES, "weights": loaded.weights_digest}
    statistics = collect(graph, lambda: [images], origin)
    engines = []
    found = maps(loaded.name, graph.sites())
    for name in names:
        path = folder / f"{name}.onnx"
        path.write_bytes(export(loaded, graph, statistics, found[name]).SerializeToString())
        engines.append(Engine(f"mnq {name}", "mnq", path))
    return engines


@click.command()
@click.option("--peers-dir", required=True, type=Path, help="Keep the peers' models here.")
@click.option("--model", "models", multiple=True, type=click.Choice(MODELS), default=MODELS)
@click.option("--batch", "batches", multiple=True, type=int, default=BATCHES)
@click.option("--threads", multiple=True, type=int, default=THREADS)
@click.option("--output", type=Path, default=OUTPUT, help="Another file for another machine.")
def main(
    peers_dir: Path,
    models: tuple[str, ...],
    batches: tuple[int, ...],
    threads: tuple[int, ...],
    output: Path,
) -> None:
    """Measure and write results/speed.json."""
    screen = Screen(as_json=False, quiet=False)
    result: dict[str, Any] = json.loads(output.read_text()) if output.exists() else {"rows": {}}
    for model in models:
        loaded = load(model, random=peers.SEED)
        with tempfile.TemporaryDirectory() as folder:
            with screen.progress(f"{model}: building", len(peers.PEERS["cpu"])) as advance:
                others = peers.build(loaded, peers.PEERS["cpu"], peers_dir, advance)
            screen.note(f"{model}: exporting")
            engines = [*exported(loaded, Path(folder)), *others]
            for batch in batches:
                for count in threads:
                    name = f"{model}, batch {batch}, threads {count}"
                    with screen.progress(name, steps(engines, ROUNDS)) as advance:
                        found = compare(
                            engines, batch, count, rounds=ROUNDS, seconds=SECONDS, done=advance
                        )
                    for doubt in found.doubts:
                        screen.warn(doubt)
                    result["rows"][name] = {"model": model, **surroundings(), **found.to_json()}
                    write_atomically(output, (json.dumps(result, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
