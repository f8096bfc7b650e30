"""Trains DeiT-T as it will be deployed, on 1000 images, and judges it on 500 others.

    python results/qat.py --data DIR --work DIR [--row TEXT]

DIR of --data holds deit_tiny_patch16_224.safetensors, imagenet_calib_1000.zip (calibration,
assignment and training) and imagenet_eval_500.zip (judgement only). --work keeps the runs, so that
an interrupted one goes on. Everything is done by mnq's own commands. Writes results/qat.json after
every row. Options of the training were chosen on 200 images of the first set, held out from it.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import click
import numpy as np
from numpy.typing import NDArray

from mnq.cli.common import Screen
from mnq.cli.judge import Predict, float_predict, onnx_predict
from mnq.models.images import ImageSet, batches, label_index
from mnq.models.zoo import LoadedModel, load
from mnq.ops.files import write_atomically
from mnq.runtime.accuracy import accuracy
from mnq.runtime.machine import processor
from mnq.runtime.modelfile import read

OUTPUT = Path(__file__).parent / "qat.json"
MODEL = "deit_t"
WEIGHTS, TRAIN, JUDGE = (
    "deit_tiny_patch16_224.safetensors",
    "imagenet_calib_1000.zip",
    "imagenet_eval_500.zip",
)
MAPS = ("ivit", "ibert", "mixed")
WIDTHS = (8, 6, 4)
EPOCHS = (0, 1, 5)
MAIN = (8, 6)  # widths with several seeds
SEEDS = (0, 1, 2)
BATCH = 32
RATES = {8: 3e-5, 6: 1e-4, 4: 2e-4}
OPTIONS = ("--distill", "1", "--augment", "light", "--precision", "bfloat16")
VERIFIED = 256


@dataclass(frozen=True)
class Row:
    """One model: 0 epochs are post-training quantization."""

    map: str
    bits: int
    epochs: int
    seed: int

    @property
    def name(self) -> str:
        """As in the result file."""
        return f"{self.map}, {self.bits} bits, {self.epochs} epochs, seed {self.seed}"

    @property
    def folder(self) -> str:
        """Of its files."""
        return f"{self.map}_{self.bits}_{self.epochs}_{self.seed}"


def rows() -> Iterator[Row]:
    """All rows, the first seed first."""
    for seed in SEEDS:
        for bits in WIDTHS if seed == 0 else MAIN:
            for epochs in EPOCHS if seed == 0 else (5,):
                yield from (Row(name, bits, epochs, seed) for name in MAPS)


@dataclass
class Study:
    """Where everything is, and what the models are judged on."""

    data: Path
    work: Path
    screen: Screen
    loaded: LoadedModel
    pixels: list[NDArray[np.uint8]]
    truth: NDArray[np.int64]

    def command(self, name: str, *options: object) -> dict[str, Any]:
        """What one of mnq's commands prints as JSON. Exits where it fails."""
        program = str(Path(sys.executable).with_name(f"mnq-{name}"))
        self.screen.note(f"mnq-{name} {' '.join(map(str, options))}")
        call = [program, *map(str, options), "--json"]
        done = subprocess.run(call, stdout=subprocess.PIPE, text=True)
        if done.returncode:
            raise SystemExit(done.returncode)
        result: dict[str, Any] = json.loads(done.stdout)
        return result

    def mapping(self, row: Row) -> list[object]:
        """The options that name a row's map; a mixed one is assigned by the paper's rule."""
        if row.map != "mixed":
            return ["--assign", f"uniform:{row.map}", "--bits", row.bits]
        path = self.work / f"map_{row.bits}.json"
        if not path.exists():
            options = ("--rule", "sqnr-absdiff", "--bits", row.bits, "--output", path)
            self.command("assign", *self.model(), "--calib", self.data / TRAIN, *options)
        return ["--assign", path]

    def model(self) -> tuple[object, ...]:
        """The options that name the float model."""
        return "--model", MODEL, "--weights", self.data / WEIGHTS

    def export(self, row: Row) -> tuple[Path, dict[str, Any]]:
        """A row's .onnx, and the history of its training."""
        folder = self.work / row.folder
        output, last = folder / "model.onnx", folder / "last.safetensors"
        if row.epochs == 0:
            folder.mkdir(exist_ok=True)
            calib = ("--calib", self.data / TRAIN, "--output", output)
            self.command("export", *self.model(), *self.mapping(row), *calib)
            return output, {}
        trained = self.command(
            "qat",
            *(*self.model(), *self.mapping(row), *OPTIONS),
            *("--train", self.data / TRAIN, "--epochs", row.epochs, "--batch", BATCH),
            *("--lr", RATES[row.bits], "--seed", row.seed, "--workers", 0, "--output", folder),
            *(("--resume", last) if last.exists() else ()),
        )
        self.command("export", "--checkpoint", last, "--output", output)
        return output, {"loss": [step["loss"] for step in trained["history"]]}

    def verified(self, row: Row, path: Path) -> dict[str, Any]:
        """Differing integers of PyTorch and the kernels, tensor by tensor."""
        checkpoint = ("--checkpoint", self.work / row.folder / "last.safetensors")
        images = ("--images", self.data / TRAIN, "--count", VERIFIED, "--kernels")
        (run,) = self.command("verify", path, *checkpoint, *images)["runs"]
        return {key: run[key] for key in ("images", "tensors", "differing_integers")}

    def logits(self, predict: Predict) -> NDArray[np.float64]:
        """A model's logits for all images that it is judged on."""
        return np.concatenate([predict(part) for part in self.pixels])


def study(data: Path, work: Path) -> Study:
    """Load the float model and the images."""
    loaded = load(MODEL, data / WEIGHTS)
    with ImageSet.open(data / JUDGE) as source:
        labels = label_index(source.classes, loaded.classes)
        images = list(batches(source, loaded.preprocess, 10, labels=labels))
    truth = np.concatenate([batch[1] for batch in images])
    screen = Screen(as_json=False, quiet=False)
    return Study(data, work, screen, loaded, [batch[0] for batch in images], truth)


@click.command()
@click.option("--data", required=True, type=Path, help="Folder with the weights and images.")
@click.option("--work", required=True, type=Path, help="Folder for the runs.")
@click.option("--row", "wanted", multiple=True, help="Rows whose names begin so.  [all]")
def main(data: Path, work: Path, wanted: tuple[str, ...]) -> None:
    """Measure and write results/qat.json."""
    what = study(data, work)
    floats = what.logits(float_predict(what.loaded))
    result: dict[str, Any] = json.loads(OUTPUT.read_text()) if OUTPUT.exists() else {"rows": {}}
    result |= {
        "model": MODEL,
        "images": {"train": TRAIN, "judge": JUDGE},
        "options": [*OPTIONS, "--batch", str(BATCH)],
        "rates": RATES,
        "versions": {n: metadata.version(n) for n in ("mnq", "torch", "timm", "onnxruntime")},
        "machine": {"processor": processor()},
        "float": accuracy("float", floats, what.truth).to_json(),
    }
    for row in rows():
        if row.name in result["rows"] or not row.name.startswith(wanted or ("",)):
            continue
        path, history = what.export(row)
        model = read(path)
        predict = onnx_predict(model.proto, str(path), model.preprocess, model.output_scale)
        figures = accuracy(row.name, what.logits(predict), what.truth, floats).to_json()
        entry = {"map": row.map, "bits": row.bits, "epochs": row.epochs, "seed": row.seed}
        entry |= {**figures, **history}
        if row.map == "mixed" and row.epochs == max(EPOCHS) and row.seed == 0:
            entry["verified"] = what.verified(row, path)
        result["rows"][row.name] = entry
        write_atomically(OUTPUT, (json.dumps(result, indent=1) + "\n").encode())
        what.screen.note(f"{row.name}: {figures}")


if __name__ == "__main__":
    main()
