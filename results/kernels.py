"""Compares the kernels with PyTorch on DeiT-T: every tensor, method, form, width, path and batch.

    python results/kernels.py --data DIR

DIR holds deit_tiny_patch16_224.safetensors and imagenet_calib_1000.zip. Each model also runs once
by its own functions. Writes results/kernels.json: integers compared and how many differed.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from mnq.cli.calibration import calibrate
from mnq.cli.common import Screen
from mnq.models.images import ImageSet, batches
from mnq.models.zoo import load
from mnq.ops.files import write_atomically
from mnq.ops.library import cpu_path, library_path, why_no_library
from mnq.runtime import verify
from mnq.runtime.machine import features, processor
from mnq.runtime.modelfile import ModelFile, parse
from mnq.toolchain.export import export, graph_of, rebuild, reference
from mnq.toolchain.map import uniform

OUTPUT = Path(__file__).parent / "kernels.json"
MODEL = "deit_t"
CALIBRATION_IMAGES = 32
METHODS = ("ivit", "ibert", "fqvit", "lut")
FORMS = ("deferred", "normalized")
PATHS = ("portable", "avx2", "avx512", "amx")
BATCHES = (1, 3, 8)
THREADS = (1, 2)

Images = NDArray[Any]


def available_paths() -> list[str]:
    """The paths of this CPU: all up to the one that is chosen by itself."""
    library = library_path()
    if library is None:
        raise SystemExit(f"kernels: expected the native library, found none: {why_no_library()}")
    os.environ.pop("MNQ_CPU_PATH", None)
    return list(PATHS[: PATHS.index(cpu_path(library)) + 1])


def compare(model: ModelFile, expected: Mapping[str, Images], images: Images) -> dict[str, int]:
    """Runs and differing integers over all paths, threads and batches, and by functions."""
    result = {"runs": 0, "integers": 0, "differing_integers": 0}

    def add(part: Images, threads: int, kernels: bool) -> None:
        run = verify.compare(
            model,
            lambda given: {name: values[: len(given)] for name, values in expected.items()},
            [part],
            threads=threads,
            kernels=kernels,
        )
        result["runs"] += 1
        result["integers"] += sum(v[: len(part)].size for v in expected.values())
        result["differing_integers"] += run.differing_integers or 0

    for path in available_paths():
        os.environ["MNQ_CPU_PATH"] = path
        for threads in THREADS:
            for batch in BATCHES:
                add(images[:batch], threads, True)
    add(images[:1], 2, False)
    return result


@click.command()
@click.option("--data", required=True, type=Path, help="Folder with the weights and images.")
def main(data: Path) -> None:
    """Measure and write results/kernels.json."""
    screen = Screen(as_json=False, quiet=False)
    paths = available_paths()
    loaded = load(MODEL, data / "deit_tiny_patch16_224.safetensors")
    graph = graph_of(loaded)
    with ImageSet.open(data / "imagenet_calib_1000.zip") as source:
        statistics = calibrate(screen, source, loaded, graph, CALIBRATION_IMAGES, 16)
        images = next(iter(batches(source, loaded.preprocess, max(BATCHES))))[0]
    result: dict[str, Any] = {
        "model": MODEL,
        "images": "imagenet_calib_1000",
        "paths": paths,
        "batches": BATCHES,
        "threads": THREADS,
        "machine": {"processor": processor(), "features": features()},
        "versions": {n: metadata.version(n) for n in ("mnq", "torch", "onnxruntime")},
        "rows": {},
    }
    for bits in (8, 6, 4):
        for form in FORMS:
            for method in METHODS:
                mapping = uniform(MODEL, method, bits, form)
                model = parse(export(loaded, graph, statistics, mapping), MODEL)
                expected = reference(rebuild(model, loaded))(np.ascontiguousarray(images))
                name = f"{method}, {form}, {bits} bits"
                result["rows"][name] = {
                    "tensors": len(expected),
                    **compare(model, expected, images),
                }
                screen.note(f"{name}: {result['rows'][name]}")
                write_atomically(OUTPUT, (json.dumps(result, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
