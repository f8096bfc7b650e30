"""mnq-demo: the whole way on the bundled digits model, in about a minute and offline."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.table import Table

from mnq.cli.assignment import Request, assign, measure
from mnq.cli.calibration import calibrate
from mnq.cli.common import Command, Screen, map_text, need_train, new_folder, output_options
from mnq.cli.judge import Candidate, float_predict, judge, onnx_predict
from mnq.cli.workbench import Workbench, take_sample, workbench
from mnq.models.images import ImageSet, batches, label_index
from mnq.ops.errors import CheckFailed
from mnq.ops.files import write_atomically
from mnq.runtime.accuracy import Accuracy

if TYPE_CHECKING:
    from mnq.models.zoo import LoadedModel
    from mnq.runtime.modelfile import ModelFile
    from mnq.toolchain.graph import Graph
    from mnq.toolchain.map import Map

EXAMPLES = """
\b
Examples:
  mnq-demo
  mnq-demo --output digits               keep the images, the maps and the .onnx files
  mnq-demo --json > demo.json
"""

UNIFORM = ("ivit", "ibert", "fqvit", "lut")
LEVELS = ("disabled", "all")  # of graph optimization, for the certificates
CALIBRATION_IMAGES = 128
SAMPLE = 32  # images that methods are measured on
COMPARED_IMAGES = 32  # whose tensors are compared with PyTorch's, integer by integer
BATCH = 32

NEXT = """
Every map gave the integers of PyTorch: with the optimizer off and on, on the certificate's images,
and integer by integer on {compared} test digits.

Next, with a model of your own (any ViT or DeiT of timm; PHOTOS holds class/name.jpg):

  mnq-export --model deit_t --calib PHOTOS --save-calib calib.safetensors --output lut.onnx
  mnq-export --model deit_t --calib calib.safetensors --assign uniform:ibert --output ibert.onnx
  mnq-eval lut.onnx ibert.onnx --images PHOTOS --float

Methods chosen layer by layer, and why (docs/assign.md):

  mnq-assign --model deit_t --calib PHOTOS --output map.json --report report.html
  mnq-export --model deit_t --calib calib.safetensors --assign map.json --output mixed.onnx
  mnq-verify mixed.onnx"""


@dataclass(frozen=True)
class Export:
    """One map's .onnx and what verification found: tensors per run, differing integers, and
    the first fault, or "" if there is none.
    """

    name: str
    model: ModelFile
    size: int
    tensors: int
    differing: int
    fault: str

    def to_json(self, accuracy: Accuracy) -> dict[str, Any]:
        """One row of the table."""
        return {
            **accuracy.to_json(),
            "bytes": self.size,
            "tensors": self.tensors,
            "differing_integers": self.differing,
        }


@click.command(
    cls=Command, epilog=EXAMPLES, context_settings={"help_option_names": ["-h", "--help"]}
)
@click.option(
    "--output",
    type=Path,
    metavar="DIR",
    help="Keep the files in this new folder.  [a temporary one, removed]",
)
@output_options
def main(output: Path | None, as_json: bool, quiet: bool) -> None:
    """Go the whole way on the bundled digits model: calibrate, export, verify, evaluate.

    Five maps, one table: each published method everywhere, exact tables (lut), and all of them
    mixed as mnq-assign chooses. Needs no network and no data.
    """
    screen = Screen(as_json, quiet)
    need_train("matplotlib", "sklearn")
    from mnq.models.zoo import DIGITS, load
    from mnq.toolchain.export import graph_of

    with new_folder(output) as folder:
        train, test = _write_digits(screen, folder)
        loaded = load(DIGITS)
        graph = graph_of(loaded)
        exports = _export_all(screen, loaded, graph, train, test, folder)
        results = _evaluate(screen, loaded, exports, test)
    reference, *figures = results
    rows = [e.to_json(accuracy) for e, accuracy in zip(exports, figures, strict=True)]
    payload = {
        "model": loaded.name,
        "calibration_images": CALIBRATION_IMAGES,
        "folder": None if output is None else str(output),
        "float": reference.to_json(),
        "maps": rows,
    }
    screen.result(payload, _table(reference, rows))
    wrong = next((export for export in exports if export.fault), None)
    if wrong is not None:
        raise CheckFailed(
            f"demo: expected the integers of PyTorch, found a difference with {wrong.name}: "
            f"{wrong.fault}; run mnq-doctor and report this"
        )
    screen.note(NEXT.format(compared=COMPARED_IMAGES))
    if output is not None:
        screen.note(f"\nThe files are in {output}: open {output / 'report.html'} in a browser.")


def _write_digits(screen: Screen, folder: Path) -> tuple[Path, Path]:
    """The train and test digits as image folders."""
    from mnq.models.digits import data

    screen.note("writing the digits as image folders")
    train, test = folder / "train", folder / "test"
    data.write_folder(train, "train")
    data.write_folder(test, "test")
    return train, test


def _assigned(bench: Workbench, folder: Path) -> Map:
    """All methods mixed by what the logits say, as mnq-assign does, and its report."""
    from mnq.toolchain.report.page import render

    mapping = assign(bench, Request(8, "logits", "isolated", "all", "all"))
    measure(bench, 8, "joint", UNIFORM)
    bench.save()
    write_atomically(folder / "report.html", render(bench.measurements, mapping).encode())
    return mapping


def _export_all(
    screen: Screen, loaded: LoadedModel, graph: Graph, train: Path, test: Path, folder: Path
) -> list[Export]:
    """Calibrate once and choose methods, then export and verify every map."""
    from mnq.runtime.modelfile import parse
    from mnq.toolchain import export as toolchain
    from mnq.toolchain.map import uniform

    settings = toolchain.Settings()
    with ImageSet.open(train) as source:
        statistics = calibrate(screen, source, loaded, graph, CALIBRATION_IMAGES, BATCH)
        sample = take_sample(screen, source, loaded, SAMPLE, seed=0)
    path = folder / "measurements.json"
    bench = workbench(screen, loaded, graph, statistics, settings, sample, path)
    exports = []
    maps = {method: uniform(loaded.name, method) for method in UNIFORM}
    maps["mixed"] = _assigned(bench, folder)
    with screen.progress("exporting, verifying", len(maps) * (2 + len(LEVELS))) as advance:
        for name, mapping in maps.items():
            text = map_text(mapping.to_json())
            write_atomically(folder / f"{name}.json", f"{text}\n".encode())
            proto = toolchain.export(loaded, graph, statistics, mapping)
            write_atomically(folder / f"{name}.onnx", proto.SerializeToString())
            advance(1)
            model = parse(proto, f"{name}.onnx")
            exports.append(_verified(name, model, loaded, test, advance))
    return exports


def _verified(
    name: str,
    model: ModelFile,
    loaded: LoadedModel,
    test: Path,
    advance: Callable[[int], None],
) -> Export:
    """Purity, the certificate, and PyTorch itself on some test digits, as mnq-verify does."""
    from mnq.runtime import verify
    from mnq.toolchain.export import rebuild, reference

    report = verify.check_purity(model)
    for level in LEVELS:
        report.runs.append(verify.check_certificate(model, level))
        advance(1)
    with ImageSet.open(test) as source:
        digits = batches(source, model.preprocess, BATCH, limit=COMPARED_IMAGES)
        pixels = (batch for batch, _, _ in digits)
        report.runs.append(verify.compare(model, reference(rebuild(model, loaded)), pixels))
    advance(1)
    faults = [str(run.first) for run in report.runs if not run.passed]
    faults += [f"float tensor {tensor!r}" for tensor in report.float_tensors]
    tensors = min(run.tensors for run in report.runs)
    differing = report.runs[-1].differing_integers or 0
    size = model.proto.ByteSize()
    return Export(name, model, size, tensors, differing, faults[0] if faults else "")


def _evaluate(
    screen: Screen, loaded: LoadedModel, exports: list[Export], test: Path
) -> list[Accuracy]:
    """Accuracy of the float model, then of every export."""
    candidates = [Candidate("float", float_predict(loaded))]
    for export in exports:
        model = export.model
        predict = onnx_predict(model.proto, export.name, model.preprocess, model.output_scale)
        candidates.append(Candidate(export.name, predict))
    with ImageSet.open(test) as source:
        labels = label_index(source.classes, loaded.classes)
        stream = batches(source, loaded.preprocess, BATCH, labels=labels)
        return judge(screen, candidates, stream, len(source), with_reference=True)


def _table(reference: Accuracy, rows: list[dict[str, Any]]) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column("map")
    heads = ("top-1 %", "agree with float %", "SQNR dB", "KB", "tensors verified", "differing")
    for head in heads:
        table.add_column(head, justify="right")
    table.add_row("float", f"{reference.top1:.1f}", "-", "-", "-", "-", "-")
    for row in rows:
        sqnr = row["logit_sqnr_db"]
        table.add_row(
            row["name"],
            f"{row['top1']:.1f}",
            f"{row['agreement']:.1f}",
            "-" if sqnr is None else f"{sqnr:.1f}",
            f"{row['bytes'] / 1000:.0f}",
            str(row["tensors"]),
            f"{row['differing_integers']} integers",
        )
    return table
