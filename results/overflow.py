"""Proves that nothing overflows in models of full size, and records the bits to spare.

    python results/overflow.py --data DIR

DIR holds deit_tiny_patch16_224.safetensors and imagenet_calib_1000.zip. The other models have
random weights. Every softmax method in both forms at 8 bits. Writes results/overflow.json.
"""

from __future__ import annotations

import json
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import click
import torch

from mnq.models.images import ImageSet, batches
from mnq.models.zoo import LoadedModel, load
from mnq.ops.files import write_atomically
from mnq.ops.proof import LIMITS
from mnq.runtime.machine import processor
from mnq.runtime.overflow import Proven
from mnq.toolchain.calibrate import Statistics, collect, scales
from mnq.toolchain.edges import assign_edges
from mnq.toolchain.equalize import equalize
from mnq.toolchain.export import Settings, graph_of, quantize
from mnq.toolchain.graph import Graph
from mnq.toolchain.map import uniform
from mnq.toolchain.overflow import prove

OUTPUT = Path(__file__).parent / "overflow.json"
MODELS = {"deit_t": "deit_tiny_patch16_224.safetensors", "deit_b": None, "swin_t": None}
MAPS = [(m, form) for m in ("ivit", "ibert", "fqvit", "lut") for form in ("deferred", "normalized")]
IMAGES = 16
BITS = 8


def calibrated(loaded: LoadedModel, data: Path) -> tuple[Graph, Statistics]:
    """The equalized graph and its statistics on IMAGES images."""
    source = ImageSet.open(data / "imagenet_calib_1000.zip")
    with source:
        pixels = [p for p, _, _ in batches(source, loaded.preprocess, 8, limit=IMAGES)]
    normalized = [torch.from_numpy(loaded.preprocess.normalize(p)) for p in pixels]
    graph = graph_of(loaded)
    statistics = collect(graph, lambda: normalized, {})
    return equalize(graph, statistics.equalization), statistics


def spare(rows: list[Proven]) -> dict[str, dict[str, list[Any]]]:
    """By operator and kind of step the fewest bits to spare, and the step."""
    found: dict[str, dict[str, list[Any]]] = {}
    for row in rows:
        kinds = found.setdefault(row.operator, {})
        for kind, (bits, step) in row.inside.items():
            if kind not in kinds or LIMITS[kind] - bits < kinds[kind][0]:
                kinds[kind] = [LIMITS[kind] - bits, step]
    return {operator: kinds for operator, kinds in found.items() if kinds}


@click.command()
@click.option("--data", required=True, type=Path, help="Weights and calibration images.")
def main(data: Path) -> None:
    """Prove, and write results/overflow.json."""
    settings, results = Settings(), {}
    for name, weights in MODELS.items():
        loaded = load(name, data / weights) if weights else load(name, random=0)
        graph, statistics = calibrated(loaded, data)
        found = scales(statistics, assign_edges(graph), BITS, settings.method, settings.form)
        rows, seconds = [], []
        for method, form in MAPS:
            mapping = uniform(name, method, BITS, form)
            program = quantize(loaded, graph, found, mapping, settings)
            begin = time.perf_counter()
            rows += prove(program)
            seconds.append(round(time.perf_counter() - begin, 2))
        results[name] = {
            "weights": "real" if weights else "random",
            "tensors": len({row.tensor for row in rows}),
            "seconds": [min(seconds), max(seconds)],
            "operators": spare(rows),
        }
        print(name, results[name]["tensors"], results[name]["seconds"], flush=True)
    content = {
        "bits": BITS,
        "images": IMAGES,
        "rows": results,
        "versions": {n: metadata.version(n) for n in ("mnq", "torch", "timm", "numpy")},
        "machine": {"processor": processor()},
    }
    write_atomically(OUTPUT, (json.dumps(content, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
