"""Measures DeiT-T on real images: every uniform map at 8 and 6 bits, and what each method costs.

    python results/accuracy.py --data DIR [--engine torch]

DIR holds deit_tiny_patch16_224.safetensors, imagenet_calib_1000.zip (calibration only) and
imagenet_eval_500.zip (judgement only). Writes results/deit_t_accuracy.json after every row.
"""

from __future__ import annotations

import functools
import json
import platform
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from mnq.cli.calibration import calibrate
from mnq.cli.common import Screen
from mnq.cli.judge import Predict, float_predict, onnx_predict
from mnq.models.images import ImageSet, batches, label_index
from mnq.models.zoo import load
from mnq.ops.files import write_atomically
from mnq.runtime import verify
from mnq.runtime.accuracy import accuracy
from mnq.runtime.machine import processor
from mnq.runtime.modelfile import parse
from mnq.toolchain.export import Settings, export, graph_of, rebuild, reference
from mnq.toolchain.map import Map, uniform

OUTPUT = Path(__file__).parent / "deit_t_accuracy.json"
MODEL = "deit_t"
CALIBRATION_IMAGES = 128
VERIFIED_IMAGES = 64
BATCH = 10

UNIFORM = ("ivit", "ibert", "fqvit", "lut")
# One method at one kind of site, everything else as in uniform:lut: what that method costs.
SWAPS = {
    "softmax": ("ivit", "ibert", "fqvit"),
    "gelu": ("ivit", "ibert"),
    "layernorm": ("ivit", "fqvit"),
}


def rows() -> dict[str, Map]:
    """The maps to measure by row name."""
    result = {f"{m} {b}": uniform(MODEL, m, b) for b in (8, 6) for m in UNIFORM}
    for kind, methods in SWAPS.items():
        for method in methods:
            base = uniform(MODEL, "lut", 8)
            result[f"lut 8, {kind} {method}"] = Map(MODEL, 8, 8, {**base.defaults, kind: method})
    return result


@click.command()
@click.option("--data", required=True, type=Path, help="Folder with the weights and images.")
@click.option("--engine", type=click.Choice(["onnxruntime", "torch"]), default="onnxruntime")
@click.option("--row", "wanted", multiple=True, help="Measure these rows only.  [all]")
def main(data: Path, engine: str, wanted: tuple[str, ...]) -> None:
    """Measure and write results/deit_t_accuracy.json."""
    screen = Screen(as_json=False, quiet=False)
    loaded = load(MODEL, data / "deit_tiny_patch16_224.safetensors")
    graph = graph_of(loaded)
    with ImageSet.open(data / "imagenet_calib_1000.zip") as source:
        statistics = calibrate(screen, source, loaded, graph, CALIBRATION_IMAGES, 16)
    with ImageSet.open(data / "imagenet_eval_500.zip") as source:
        labels = label_index(source.classes, loaded.classes)
        images = list(batches(source, loaded.preprocess, BATCH, labels=labels))
    truth = np.concatenate([batch[1] for batch in images])
    result: dict[str, Any] = json.loads(OUTPUT.read_text()) if OUTPUT.exists() else {"rows": {}}
    result |= {
        "model": MODEL,
        "images": "imagenet_eval_500",
        "calibration": statistics.provenance,
        "machine": {"processor": processor(), "python": platform.python_version()},
    }

    def infer(predict: Callable[[NDArray[np.uint8]], NDArray[Any]], text: str) -> NDArray[Any]:
        with screen.progress(text, len(truth)) as advance:
            logits = []
            for pixels, _, _ in images:
                logits.append(predict(pixels).astype(np.float64))
                advance(len(pixels))
        return np.concatenate(logits)

    floats = infer(float_predict(loaded), "float")
    result["float"] = accuracy("float", floats, truth).to_json()
    for name, mapping in rows().items():
        if wanted and name not in wanted:
            continue
        model = parse(export(loaded, graph, statistics, mapping, Settings()), name)
        exact = reference(rebuild(model, loaded))
        compared = (batch[0] for batch in images[: -(-VERIFIED_IMAGES // BATCH)])
        verified = verify.compare(model, exact, compared)
        scale = model.output_scale
        predict: Predict = onnx_predict(model.proto, name, loaded.preprocess, scale)
        if engine == "torch":
            predict = functools.partial(_torch_predict, exact, scale)
        figures = accuracy(name, infer(predict, name), truth, floats).to_json()
        result["rows"][name] = {
            **figures,
            "engine": engine,
            "versions": {n: metadata.version(n) for n in ("mnq", "torch", "timm", "onnxruntime")},
            "map": mapping.to_json(),
            "file_bytes": model.proto.ByteSize(),
            "verified": {
                "images": verified.images,
                "tensors": verified.tensors,
                "differing_integers": verified.differing_integers,
            },
        }
        write_atomically(OUTPUT, (json.dumps(result, indent=1) + "\n").encode())
        screen.note(f"{name}: {figures}")
        if not verified.passed:
            sys.exit(f"{name}: {verified.first}")


def _torch_predict(
    exact: verify.Reference, scale: float, pixels: NDArray[np.uint8]
) -> NDArray[np.float64]:
    return list(exact(pixels).values())[-1].astype(np.float64) * scale


if __name__ == "__main__":
    main()
