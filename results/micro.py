"""Measures the bundled micro models: float top-1 on all test images of CIFAR-10.

    python results/micro.py --data DIR

DIR holds cifar10.zip. Writes results/micro_accuracy.json.
"""

from __future__ import annotations

import json
import platform
from importlib import metadata
from pathlib import Path

import click
import torch
from safetensors import safe_open

from mnq.models.micro import data
from mnq.models.micro.train import MODELS, accuracy
from mnq.models.zoo import load
from mnq.ops.files import write_atomically
from mnq.runtime.machine import processor

OUTPUT = Path(__file__).parent / "micro_accuracy.json"


@click.command()
@click.option("--data", "folder", required=True, type=Path, help="Folder with cifar10.zip.")
def main(folder: Path) -> None:
    """Measure and write results/micro_accuracy.json."""
    images, labels = map(torch.from_numpy, data.load(folder / "cifar10.zip", "test"))
    rows = {}
    for name, module in MODELS.items():
        loaded = load(name)
        with safe_open(module.WEIGHTS, framework="pt") as file:
            training = json.loads(file.metadata()["training"])
        rows[name] = {
            "top1": round(100 * accuracy(loaded.model, images, labels), 2),
            "parameters": sum(p.numel() for p in loaded.model.parameters()),
            "weights_bytes": module.WEIGHTS.stat().st_size,
            "weights_digest": loaded.weights_digest,
            "epochs": training["recipe"]["epochs"],
            "seed": training["recipe"]["seed"],
            "trained_with": training["versions"],
        }
        print(name, rows[name])
    result = {
        "images": f"cifar10 test, {len(images)}",
        "rows": rows,
        "versions": {name: metadata.version(name) for name in ("mnq", "torch", "timm")},
        "machine": {"processor": processor(), "python": platform.python_version()},
    }
    write_atomically(OUTPUT, (json.dumps(result, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
