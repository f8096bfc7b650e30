"""Trains micro_vit with learned bit-widths and with uniform ones, and judges what is exported.

    python results/qvit.py --data DIR --work DIR [--row TEXT]

DIR of --data holds cifar10.zip: its training images train and calibrate, its 10,000 test images
judge only. --work keeps the runs, so that an interrupted one goes on. Everything is done by mnq's
own commands. Writes results/qvit_micro_vit.json after every row. A row of 4 epochs takes about half
an hour on one core.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import click
import onnx
from qat import PLANS, RESULTS, VERIFIED, Study, study

from mnq.cli.judge import float_predict, onnx_predict
from mnq.ops.files import write_atomically
from mnq.runtime.accuracy import accuracy
from mnq.runtime.machine import processor
from mnq.runtime.modelfile import read
from mnq.runtime.packed import unpack

MODEL = "micro_vit"
SEEDS = (0, 1, 2)
EPOCHS = 4
RATES = {4: 2e-4, 3: 4e-4}
OPTIONS = (
    *("--distill", "1", "--distill-features", "10", "--augment", "light"),
    *("--precision", "bfloat16", "--batch", "128", "--epochs", str(EPOCHS)),
    *("--range-lr", "0.01", "--bits-lr", "0.02", "--workers", "0"),
)
VARIANTS = {
    "LSQ+": ("--quantizer", "lsq+", "--heads", "none"),
    "Q-ViT": (),
    "Q-ViT without heads": ("--heads", "none"),
    "Q-ViT without switchable scales": ("--scales", "single"),
}


@dataclass(frozen=True)
class Row:
    """One model. map: of methods, `mixed` by the paper's rule, or one method."""

    variant: str
    bits: int
    map: str
    seed: int

    @property
    def name(self) -> str:
        """As in the result file."""
        return f"{self.variant}, {self.bits} bits, {self.map}, seed {self.seed}"

    @property
    def folder(self) -> str:
        """Of its files."""
        return self.name.replace(", ", "_").replace(" ", "-").replace("+", "plus")


def rows() -> Iterator[Row]:
    """All rows: variants by one method, then learned bits with mixed methods and with one."""
    for seed in SEEDS:
        for bits in RATES:
            yield from (Row(variant, bits, "lut", seed) for variant in VARIANTS)
        yield from (Row("Q-ViT", 4, name, seed) for name in ("mixed", "ivit", "ibert"))


def mapping(what: Study, row: Row) -> tuple[object, ...]:
    """The option that names a row's methods; those of the mixed map are chosen at 8 bits."""
    if row.map != "mixed":
        return "--assign", f"uniform:{row.map}"
    path = what.work / "map_8.json"
    if not path.exists():
        rule = ("--rule", "sqnr-absdiff", "--methods", "paper", "--bits", 8)
        calib = ("--calib", what.data / what.plan.train, "--output", path)
        what.command("assign", *what.model(), *rule, *calib)
    return "--assign", path


def trained(what: Study, row: Row) -> tuple[Path, dict[str, Any]]:
    """A row's .onnx, and what its training says."""
    folder = what.work / row.folder
    output, last = folder / "model.onnx", folder / "last.safetensors"
    run = what.command(
        "search",
        *(*what.model(), *mapping(what, row), *OPTIONS, *VARIANTS[row.variant]),
        *("--train", what.data / what.plan.train, "--bits", row.bits, "--seed", row.seed),
        *("--lr", RATES[row.bits], "--output", folder),
        *(("--resume", last) if last.exists() else ()),
    )
    what.command("export", "--checkpoint", last, "--output", output)
    figures = {key: run[key] for key in ("bitops", "budget")}
    return output, {**figures, "loss": [step["loss"] for step in run["history"]]}


def verified(what: Study, row: Row, path: Path) -> dict[str, Any]:
    """Differing integers of PyTorch and the kernels, tensor by tensor."""
    checkpoint = ("--checkpoint", path.with_name("last.safetensors"))
    images = ("--images", what.data / what.plan.train, "--count", VERIFIED, "--kernels")
    (run,) = what.command("verify", path, *checkpoint, *images)["runs"]
    return {key: run[key] for key in ("images", "tensors", "differing_integers")}


def sizes(path: Path) -> dict[str, int]:
    """Bytes of the file, of its constants, and of these with all weights in 8 bits."""
    model = onnx.load(path)
    packed, plain = (
        sum(len(tensor.raw_data) for tensor in each.graph.initializer)
        for each in (model, unpack(model))
    )
    return {"file": path.stat().st_size, "constants": packed, "constants_int8": plain}


@click.command()
@click.option("--data", required=True, type=Path, help="Folder with cifar10.zip.")
@click.option("--work", required=True, type=Path, help="Folder for the runs.")
@click.option("--row", "wanted", multiple=True, help="Rows whose names begin so.  [all]")
def main(data: Path, work: Path, wanted: tuple[str, ...]) -> None:
    """Measure and write results/qvit_micro_vit.json."""
    what, plan = study(MODEL, data, work), PLANS[MODEL]
    work.mkdir(parents=True, exist_ok=True)
    output = RESULTS / f"qvit_{MODEL}.json"
    floats = what.logits(float_predict(what.loaded))
    result: dict[str, Any] = json.loads(output.read_text()) if output.exists() else {"rows": {}}
    result |= {
        "model": MODEL,
        "images": {"train": plan.train, "judge": plan.judge},
        "options": OPTIONS,
        "rates": RATES,
        "versions": {n: metadata.version(n) for n in ("mnq", "torch", "timm", "onnxruntime")},
        "machine": {"processor": processor()},
        "float": accuracy("float", floats, what.truth).to_json(),
    }
    for row in rows():
        if row.name in result["rows"] or not row.name.startswith(wanted or ("",)):
            continue
        path, training = trained(what, row)
        model = read(path)
        predict = onnx_predict(model.proto, str(path), model.preprocess, model.output_scale)
        figures = accuracy(row.name, what.logits(predict), what.truth, floats).to_json()
        entry = {"variant": row.variant, "bits": row.bits, "map": row.map, "seed": row.seed}
        entry |= {**figures, **training, "bytes": sizes(path)}
        if row.variant == "Q-ViT" and row.seed == SEEDS[0]:
            entry["verified"] = verified(what, row, path)
        result["rows"][row.name] = entry
        write_atomically(output, (json.dumps(result, indent=1) + "\n").encode())
        what.screen.note(f"{row.name}: {figures}")


if __name__ == "__main__":
    main()
