"""Trains models with learned bit-widths and with uniform ones, and judges what is exported.

    python results/qvit.py micro_vit --data DIR --work DIR [--row TEXT]
    python results/qvit.py deit_t --data DIR --work DIR [--row TEXT]

DIR of --data holds what results/qat.py reads: training images train and calibrate, the others judge
only. --work keeps the runs, so that an interrupted one goes on. Everything is done by mnq's own
commands. Writes results/qvit_MODEL.json after every row.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import click
import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from qat import PLANS, RESULTS, VERIFIED, Study, study

from mnq.cli.judge import float_predict, onnx_predict
from mnq.ops.files import write_atomically
from mnq.runtime.accuracy import accuracy
from mnq.runtime.machine import processor
from mnq.runtime.modelfile import read
from mnq.runtime.packed import unpack
from mnq.toolchain import checkpoint
from mnq.toolchain.export import rebuild

VARIANTS = {
    "LSQ+": ("--quantizer", "lsq+", "--heads", "none"),
    "Q-ViT": (),
    "Q-ViT without heads": ("--heads", "none"),
    "Q-ViT without switchable scales": ("--scales", "single"),
}


@dataclass(frozen=True)
class Bits:
    """What is measured for a model: variant, bits and map of the rows; rates by bits."""

    rows: tuple[tuple[str, int, str], ...]
    seeds: tuple[int, ...]
    rates: dict[int, float]
    options: tuple[str, ...]


SHARED = (
    *("--distill", "1", "--augment", "light", "--precision", "bfloat16", "--workers", "0"),
    *("--range-lr", "0.01", "--bits-lr", "0.02"),
)
STUDIES = {
    "micro_vit": Bits(
        rows=(
            *((variant, 3, "lut") for variant in VARIANTS),
            *((variant, 4, "lut") for variant in ("LSQ+", "Q-ViT")),
            *(("Q-ViT", 4, name) for name in ("mixed", "ivit")),
        ),
        seeds=(0, 1, 2),
        rates={4: 2e-4, 3: 4e-4},
        options=(*SHARED, "--distill-features", "10", "--batch", "128", "--epochs", "1"),
    ),
    "deit_t": Bits(
        rows=(("LSQ+", 4, "lut"), ("Q-ViT", 4, "lut")),
        seeds=(0,),
        rates={4: 2e-4},
        # So few steps: the rest of them trains with the bits as they are rounded.
        options=(
            *(*SHARED, "--sigma", "0.6", "--distill-features", "30"),
            *("--batch", "32", "--epochs", "5"),
        ),
    ),
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


def rows(bits: Bits) -> Iterator[Row]:
    """All rows, the first seed first."""
    for seed in bits.seeds:
        yield from (Row(*row, seed) for row in bits.rows)


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


def trained(what: Study, bits: Bits, row: Row) -> tuple[Path, dict[str, Any]]:
    """A row's .onnx, and what its training says."""
    folder = what.work / row.folder
    output, last = folder / "model.onnx", folder / "last.safetensors"
    run = what.command(
        "search",
        *(*what.model(), *mapping(what, row), *bits.options, *VARIANTS[row.variant]),
        *("--train", what.data / what.plan.train, "--bits", row.bits, "--seed", row.seed),
        *("--lr", bits.rates[row.bits], "--output", folder),
        *(("--resume", last) if last.exists() else ()),
    )
    what.command("export", "--checkpoint", last, "--output", output)
    figures = {key: run[key] for key in ("bitops", "budget")}
    return output, {**figures, "loss": [step["loss"] for step in run["history"]]}


def verified(what: Study, path: Path, logits: NDArray[np.float64]) -> dict[str, Any]:
    """Differing integers of PyTorch and the kernels, tensor by tensor, and differing answers.

    logits: the file's, for all images that it is judged on.
    """
    last = path.with_name("last.safetensors")
    images = ("--images", what.data / what.plan.train, "--count", VERIFIED, "--kernels")
    (run,) = what.command("verify", path, "--checkpoint", last, *images)["runs"]
    program = rebuild(read(path), what.loaded, checkpoint.read(last))
    codes = [program.logits(torch.from_numpy(part)).numpy() for part in what.pixels]
    other = np.concatenate(codes).argmax(1) != logits.argmax(1)
    found = {key: run[key] for key in ("images", "tensors", "differing_integers")}
    return found | {"answers": len(other), "differing_answers": int(other.sum())}


def sizes(path: Path) -> dict[str, int]:
    """Bytes of the file, of its constants, and of these with all weights in 8 bits."""
    model = onnx.load(path)
    packed, plain = (
        sum(len(tensor.raw_data) for tensor in each.graph.initializer)
        for each in (model, unpack(model))
    )
    return {"file": path.stat().st_size, "constants": packed, "constants_int8": plain}


@click.command()
@click.argument("name", metavar="MODEL", type=click.Choice([*STUDIES]))
@click.option("--data", required=True, type=Path, help="Folder with the weights and images.")
@click.option("--work", required=True, type=Path, help="Folder for the runs.")
@click.option("--row", "wanted", multiple=True, help="Rows whose names begin so.  [all]")
def main(name: str, data: Path, work: Path, wanted: tuple[str, ...]) -> None:
    """Measure and write results/qvit_MODEL.json."""
    what, plan, bits = study(name, data, work), PLANS[name], STUDIES[name]
    work.mkdir(parents=True, exist_ok=True)
    output = RESULTS / f"qvit_{name}.json"
    floats = what.logits(float_predict(what.loaded))
    result: dict[str, Any] = json.loads(output.read_text()) if output.exists() else {"rows": {}}
    result |= {
        "model": name,
        "images": {"train": plan.train, "judge": plan.judge},
        "options": bits.options,
        "rates": bits.rates,
        "versions": {n: metadata.version(n) for n in ("mnq", "torch", "timm", "onnxruntime")},
        "machine": {"processor": processor()},
        "float": accuracy("float", floats, what.truth).to_json(),
    }
    for row in rows(bits):
        if row.name in result["rows"] or not row.name.startswith(wanted or ("",)):
            continue
        path, training = trained(what, bits, row)
        model = read(path)
        predict = onnx_predict(model.proto, str(path), model.preprocess, model.output_scale)
        logits = what.logits(predict)
        figures = accuracy(row.name, logits, what.truth, floats).to_json()
        entry = {"variant": row.variant, "bits": row.bits, "map": row.map, "seed": row.seed}
        entry |= {**figures, **training, "bytes": sizes(path)}
        if row.variant == "Q-ViT" and row.seed == bits.seeds[0]:
            entry["verified"] = verified(what, path, logits)
        result["rows"][row.name] = entry
        write_atomically(output, (json.dumps(result, indent=1) + "\n").encode())
        what.screen.note(f"{row.name}: {figures}")


if __name__ == "__main__":
    main()
