"""Exports and verifies models of every size, as a user would, and records time and memory.

    python results/sizes.py --calib imagenet_calib_1000.zip [--weights deit_tiny.safetensors]

deit_t takes the real weights if they are given; the rest have random ones, which say nothing
about accuracy and everything about exactness, time and memory. Writes results/sizes.json.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from importlib import metadata
from pathlib import Path
from typing import Any

import click

from mnq.ops.files import write_atomically

OUTPUT = Path(__file__).parent / "sizes.json"
# model: calibration images, images compared with PyTorch
MODELS = {
    "deit_t": (128, 64),
    "deit_s": (32, 8),
    "deit_b": (16, 4),
    "vit_s": (32, 8),
    "vit_b": (16, 4),
}


def timed(command: list[str]) -> tuple[dict[str, Any], float, float]:
    """JSON output, wall seconds and peak resident GB of a command of this environment."""
    program = str(Path(sys.executable).parent / command[0])
    begin = time.perf_counter()
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen([program, *command[1:], "--json"], stdout=output)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            sys.exit(f"{' '.join(command)}: exit status {process.returncode}")
        output.seek(0)
        found = json.loads(output.read())
    return found, time.perf_counter() - begin, usage.ru_maxrss / 2**20


@click.command()
@click.option("--calib", required=True, type=Path, help="Calibration images.")
@click.option("--weights", type=Path, help="Real DeiT-T weights.")
@click.option("--model", "wanted", multiple=True, help="Measure these only.  [all]")
def main(calib: Path, weights: Path | None, wanted: tuple[str, ...]) -> None:
    """Measure and write results/sizes.json."""
    rows = json.loads(OUTPUT.read_text())["rows"] if OUTPUT.exists() else {}
    for model, (images, compared) in MODELS.items():
        if wanted and model not in wanted:
            continue
        real = weights is not None and model == "deit_t"
        source = ["--weights", str(weights)] if real else ["--random-weights", "0"]
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.onnx"
            export = ["mnq-export", "--model", model, *source, "--calib", str(calib)]
            export += ["--images", str(images), "--output", str(path)]
            _, seconds, gigabytes = timed(export)
            data = path.read_bytes()
            again = Path(folder) / "again.onnx"
            same = None
            if model == "deit_t":
                timed([*export[:-1], str(again)])
                same = again.read_bytes() == data
            verify = ["mnq-verify", str(path), *source, "--images", str(calib)]
            report, _, _ = timed([*verify, "--count", str(compared), "--batch", "4"])
        run = report["runs"][0]
        rows[model] = {
            "weights": "real" if real else "random",
            "calibration_images": images,
            "export_seconds": round(seconds, 1),
            "export_gigabytes": round(gigabytes, 2),
            "file_bytes": len(data),
            "two_exports_equal": same,
            "float_tensors": len(report["float_tensors"]),
            "images": run["images"],
            "tensors": run["tensors"],
            "differing_integers": run["differing_integers"],
            "versions": {n: metadata.version(n) for n in ("mnq", "torch", "timm", "onnxruntime")},
            "cores": os.cpu_count(),
        }
        print(model, rows[model])
        write_atomically(OUTPUT, (json.dumps({"rows": rows}, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
