"""Trains models as they will be deployed, and judges them on images that they have not seen.

    python results/qat.py deit_t --data DIR --work DIR [--row TEXT]
    python results/qat.py micro_vit --data DIR --work DIR [--row TEXT]
    python results/qat.py micro_swin --data DIR --work DIR [--row TEXT]

DIR of --data holds, for DeiT-T, deit_tiny_patch16_224.safetensors, imagenet_calib_1000.zip
(calibration, assignment and training) and imagenet_eval_500.zip (judgement only); for the micro
models cifar10.zip, whose splits serve in the same way. --work keeps the runs, so that an
interrupted one goes on. Everything is done by mnq's own commands. Writes results/qat_MODEL.json
after every row.
The options for DeiT-T were chosen on 200 of its training images, held out while training on the
other 800.
"""

from __future__ import annotations

import itertools
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

RESULTS = Path(__file__).parent
VERIFIED = 256


@dataclass(frozen=True)
class Plan:
    """What is measured for a model.

    epochs: numbers of them, 0 for calibration alone; rates: learning rate by width; repeated:
    maps, widths and epochs with more seeds than the first; options: of mnq-qat.
    """

    weights: str | None
    train: str
    judge: str
    maps: tuple[str, ...]
    epochs: tuple[int, ...]
    rates: dict[int, float]
    repeated: tuple[tuple[str, int, int], ...]
    batch: int
    options: tuple[str, ...]
    seeds: tuple[int, ...] = (0, 1, 2)


PLANS = {
    "deit_t": Plan(
        weights="deit_tiny_patch16_224.safetensors",
        train="imagenet_calib_1000.zip",
        judge="imagenet_eval_500.zip",
        maps=("ivit", "ibert", "mixed"),
        epochs=(0, 1, 5),
        rates={8: 5e-5, 6: 1e-4, 4: 2e-4},
        repeated=(("mixed", 8, 5), ("mixed", 6, 5)),
        batch=32,
        options=(
            *("--distill", "1", "--distill-features", "30", "--augment", "light"),
            *("--ranges", "learned", "--range-lr", "0.01", "--precision", "bfloat16"),
        ),
    ),
    "micro_swin": Plan(
        weights=None,
        train="cifar10.zip/cifar10/train",
        judge="cifar10.zip/cifar10/test",
        maps=("ivit", "ibert", "fqvit", "mixed"),
        epochs=(0, 1),
        rates={8: 1e-4, 6: 2e-4},
        repeated=(),
        batch=128,
        options=(
            *("--distill", "1", "--distill-features", "10", "--augment", "light"),
            *("--precision", "bfloat16"),
        ),
    ),
    "micro_vit": Plan(
        weights=None,
        train="cifar10.zip/cifar10/train",
        judge="cifar10.zip/cifar10/test",
        maps=("ivit", "ibert", "fqvit", "mixed"),
        epochs=(0, 1, 2),
        rates={8: 1e-4, 6: 2e-4},
        repeated=tuple(itertools.product(("ivit", "ibert", "fqvit", "mixed"), (8, 6), (1, 2))),
        batch=128,
        options=(
            *("--distill", "1", "--distill-features", "10", "--augment", "light"),
            *("--precision", "bfloat16"),
        ),
    ),
}


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


def rows(plan: Plan) -> Iterator[Row]:
    """All rows, the first seed first."""
    for seed in plan.seeds:
        if seed == plan.seeds[0]:
            for bits, epochs in itertools.product(plan.rates, plan.epochs):
                yield from (Row(name, bits, epochs, seed) for name in plan.maps)
        else:
            yield from (Row(*row, seed) for row in plan.repeated)


@dataclass
class Study:
    """Where everything is, and what the models are judged on."""

    name: str
    plan: Plan
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

    def model(self) -> tuple[object, ...]:
        """The options that name the float model."""
        weights = self.plan.weights
        return "--model", self.name, *(("--weights", self.data / weights) if weights else ())

    def mapping(self, row: Row) -> tuple[object, ...]:
        """The options that name a row's map; a mixed one is assigned by the paper's rule."""
        if row.map != "mixed":
            return "--assign", f"uniform:{row.map}", "--bits", row.bits
        path = self.work / f"map_{row.bits}.json"
        if not path.exists():
            rule = ("--rule", "sqnr-absdiff", "--methods", "paper", "--bits", row.bits)
            calib = ("--calib", self.data / self.plan.train, "--output", path)
            self.command("assign", *self.model(), *rule, *calib)
        return "--assign", path

    def export(self, row: Row) -> tuple[Path, dict[str, Any]]:
        """A row's .onnx, and what its training says."""
        folder = self.work / row.folder
        output, last = folder / "model.onnx", folder / "last.safetensors"
        train = self.data / self.plan.train
        if row.epochs == 0:
            folder.mkdir(exist_ok=True)
            options = ("--calib", train, "--output", output)
            self.command("export", *self.model(), *self.mapping(row), *options)
            return output, {}
        followed = row.seed == self.plan.seeds[0] and row.epochs == self.plan.epochs[-1]
        judged = ("--val", self.data / self.plan.judge) if followed else ()
        trained = self.command(
            "qat",
            *(*self.model(), *self.mapping(row), *self.plan.options, "--train", train, *judged),
            *("--epochs", row.epochs, "--batch", self.plan.batch, "--seed", row.seed),
            *("--lr", self.plan.rates[row.bits], "--workers", 0, "--output", folder),
            *(("--resume", last) if last.exists() else ()),
        )
        self.command("export", "--checkpoint", last, "--output", output)
        found: dict[str, Any] = {"loss": [epoch["loss"] for epoch in trained["history"]]}
        if followed:
            keys = ("epoch", "top1", "agreement")
            found["curve"] = [{key: epoch[key] for key in keys} for epoch in trained["history"]]
        return output, found

    def verified(self, row: Row, path: Path) -> dict[str, Any]:
        """Differing integers of PyTorch and the kernels, tensor by tensor."""
        checkpoint = ("--checkpoint", self.work / row.folder / "last.safetensors")
        images = ("--images", self.data / self.plan.train, "--count", VERIFIED, "--kernels")
        (run,) = self.command("verify", path, *checkpoint, *images)["runs"]
        return {key: run[key] for key in ("images", "tensors", "differing_integers")}

    def logits(self, predict: Predict) -> NDArray[np.float64]:
        """A model's logits for all images that it is judged on."""
        return np.concatenate([predict(part) for part in self.pixels])


def study(name: str, data: Path, work: Path) -> Study:
    """Load the float model and the images."""
    plan = PLANS[name]
    loaded = load(name, data / plan.weights if plan.weights else None)
    with ImageSet.open(data / plan.judge) as source:
        labels = label_index(source.classes, loaded.classes)
        images = list(batches(source, loaded.preprocess, 10, labels=labels))
    truth = np.concatenate([batch[1] for batch in images])
    screen = Screen(as_json=False, quiet=False)
    return Study(name, plan, data, work, screen, loaded, [batch[0] for batch in images], truth)


@click.command()
@click.argument("name", metavar="MODEL", type=click.Choice([*PLANS]))
@click.option("--data", required=True, type=Path, help="Folder with the weights and images.")
@click.option("--work", required=True, type=Path, help="Folder for the runs.")
@click.option("--row", "wanted", multiple=True, help="Rows whose names begin so.  [all]")
def main(name: str, data: Path, work: Path, wanted: tuple[str, ...]) -> None:
    """Measure and write results/qat_MODEL.json."""
    plan, what = PLANS[name], study(name, data, work)
    work.mkdir(parents=True, exist_ok=True)
    output = RESULTS / f"qat_{name}.json"
    floats = what.logits(float_predict(what.loaded))
    result: dict[str, Any] = json.loads(output.read_text()) if output.exists() else {"rows": {}}
    result |= {
        "model": name,
        "images": {"train": plan.train, "judge": plan.judge},
        "options": [*plan.options, "--batch", str(plan.batch)],
        "rates": plan.rates,
        "versions": {n: metadata.version(n) for n in ("mnq", "torch", "timm", "onnxruntime")},
        "machine": {"processor": processor()},
        "float": accuracy("float", floats, what.truth).to_json(),
    }
    for row in rows(plan):
        if row.name in result["rows"] or not row.name.startswith(wanted or ("",)):
            continue
        path, history = what.export(row)
        model = read(path)
        predict = onnx_predict(model.proto, str(path), model.preprocess, model.output_scale)
        figures = accuracy(row.name, what.logits(predict), what.truth, floats).to_json()
        entry = {"map": row.map, "bits": row.bits, "epochs": row.epochs, "seed": row.seed}
        entry |= {**figures, **history}
        last = 0 < row.epochs == plan.epochs[-1]
        if row.map == "mixed" and last and row.seed == plan.seeds[0]:
            entry["verified"] = what.verified(row, path)
        result["rows"][row.name] = entry
        write_atomically(output, (json.dumps(result, indent=1) + "\n").encode())
        what.screen.note(f"{row.name}: {figures}")


if __name__ == "__main__":
    main()
