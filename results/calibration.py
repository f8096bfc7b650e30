"""Measures calibration choices on images that are neither calibrated on nor used to judge.

    python results/calibration.py --data DIR

DIR holds deit_tiny_patch16_224.safetensors and imagenet_calib_1000.zip: 128 images of it are
calibrated on, 200 others compared with the float model. Writes results/deit_t_calibration.json.
"""

from __future__ import annotations

import json
from importlib import metadata
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch

from mnq.cli.calibration import calibrate
from mnq.cli.common import Screen
from mnq.models.images import ImageSet, batches, choose
from mnq.models.zoo import load
from mnq.ops.files import write_atomically
from mnq.runtime.accuracy import accuracy
from mnq.toolchain.calibrate import scales
from mnq.toolchain.edges import assign_edges
from mnq.toolchain.equalize import equalize
from mnq.toolchain.export import Settings, graph_of, quantize
from mnq.toolchain.map import uniform

OUTPUT = Path(__file__).parent / "deit_t_calibration.json"
MODEL = "deit_t"
CALIBRATION_IMAGES = 128
COMPARED_IMAGES = 200
BATCH = 20

# (equalized, calibration method, range form)
CHOICES = [
    (False, "minmax", "ivit"),
    (False, "percentile", "ivit"),
    (False, "mse", "ivit"),
    (True, "minmax", "ivit"),
    (True, "percentile", "ivit"),
    (True, "mse", "paper"),
    (True, "mse", "ivit"),
]


@click.command()
@click.option("--data", required=True, type=Path, help="Folder with the weights and images.")
def main(data: Path) -> None:
    """Measure and write results/deit_t_calibration.json."""
    screen = Screen(as_json=False, quiet=False)
    loaded = load(MODEL, data / "deit_tiny_patch16_224.safetensors")
    graph = graph_of(loaded)
    with ImageSet.open(data / "imagenet_calib_1000.zip") as source:
        statistics = {
            equalized: calibrate(screen, source, loaded, graph, CALIBRATION_IMAGES, 16, equalized)
            for equalized in (False, True)
        }
        calibrated = set(choose(len(source), CALIBRATION_IMAGES, None))
        others = [i for i in range(len(source)) if i not in calibrated]
        picked = {others[i] for i in choose(len(others), COMPARED_IMAGES, None)}
        everything = batches(source, loaded.preprocess, 1)
        images = [batch[0] for i, batch in enumerate(everything) if i in picked]
    pixels = [np.concatenate(images[i : i + BATCH]) for i in range(0, len(images), BATCH)]
    unknown = np.full(len(images), -1, np.int64)
    with torch.no_grad():
        normalized = (torch.from_numpy(loaded.preprocess.normalize(p)) for p in pixels)
        floats = np.concatenate([loaded.model(x).double().numpy() for x in normalized])
    rows: list[dict[str, Any]] = []
    for equalized, method, form in CHOICES:
        equal = equalize(graph, statistics[equalized].equalization)
        for bits in (8, 6):
            mapping = uniform(MODEL, "lut", bits)
            found = scales(statistics[equalized], assign_edges(equal), bits, method, form)
            program = quantize(loaded, equal, found, mapping, Settings(method, form))
            outputs = [program.run(torch.from_numpy(p))[program.output] for p in pixels]
            logits = np.concatenate([o.double().numpy() for o in outputs]) * program.output_scale
            figures = accuracy("", logits, unknown, floats)
            rows.append(
                {
                    "equalized": equalized,
                    "method": method,
                    "form": form,
                    "bits": bits,
                    "agreement": figures.agreement,
                    "logit_sqnr_db": figures.logit_sqnr_db,
                }
            )
            screen.note(str(rows[-1]))
    result = {
        "model": MODEL,
        "map": "uniform:lut",
        "images": len(images),
        "calibration": statistics[True].provenance,
        "versions": {n: metadata.version(n) for n in ("mnq", "torch", "timm")},
        "rows": rows,
    }
    write_atomically(OUTPUT, (json.dumps(result, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
