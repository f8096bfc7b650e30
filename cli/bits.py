"""mnq-report bits: the page of a bit search, and how sensitive the heads of a model are."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mnq.cli.common import COUNT, Command, Screen, need_train, output_options
from mnq.ops.errors import InputError
from mnq.ops.files import check_writable, write_atomically

if TYPE_CHECKING:
    from mnq.models.zoo import LoadedModel
    from mnq.toolchain.program import Program
    from mnq.toolchain.report.bits import Sensitivity

EXAMPLES = """
\b
Examples:
  mnq-report bits run/last.safetensors --output bits.html
  mnq-report bits run/last.safetensors --calib cifar/train --images cifar/test --output bits.html
                                                   also what every head costs at 2 bits
"""

_CALIBRATION_IMAGES = 64


@click.command(
    "bits",
    cls=Command,
    epilog=EXAMPLES,
    context_settings={"help_option_names": ["-h", "--help"]},
    short_help="One HTML page about the bits that mnq-search found.",
)
@click.argument("path", metavar="CHECKPOINT", type=Path)
@click.option("--calib", type=Path, help="Images for the scales of the sensitivity of heads.")
@click.option("--images", type=Path, help="Images with labels to judge that on.")
@click.option(
    "--count", type=COUNT, default=1000, show_default=True, help="Images to judge on at most."
)
@click.option("--weights", type=Path, help="Float weights, for the sensitivity; default: timm's.")
@click.option("--output", type=Path, required=True, help="The .html to write.")
@output_options
def bits_report(
    path: Path,
    calib: Path | None,
    images: Path | None,
    count: int,
    weights: Path | None,
    output: Path,
    as_json: bool,
    quiet: bool,
) -> None:
    """Write one HTML file about the bits of a checkpoint of mnq-search.

    With --calib and --images also how much is lost if one head of a model of 8 bits has 2.
    """
    screen = Screen(as_json, quiet)
    if (calib is None) != (images is None):
        raise InputError(
            "report: expected --calib and --images together, found one of them; give both or none"
        )
    check_writable(output)
    need_train("matplotlib")
    from mnq.models.zoo import load
    from mnq.toolchain.checkpoint import read
    from mnq.toolchain.edges import assign_edges
    from mnq.toolchain.export import restored
    from mnq.toolchain.report.bits import Searched, render

    found = read(path)
    if not found.header["widths"]:
        raise InputError(
            f"report: expected a checkpoint of mnq-search, found one without learned bits in "
            f"{path}; mnq-qat trains with those of the map"
        )
    name = str(found.header["model"])
    screen.note(f"reading {name}")
    graph, _, _, _, widths = restored(load(name, random=0), found)
    page = Searched(name, graph, assign_edges(graph), widths, _budget(found.header["recipe"]))
    sensitivity = None
    if calib is not None and images is not None:
        sensitivity = _sensitivity(screen, load(name, weights), calib, images, count)
    data = render(page, sensitivity).encode()
    write_atomically(output, data)
    payload = {"output": str(output), "bytes": len(data), "model": name}
    screen.result(payload, f"{output}: {name}, {len(data) / 1e6:.1f} MB; open it in a browser")


def _budget(recipe: dict[str, Any]) -> int:
    """The bits of the uniform model that cost as much. Raises InputError if there are none."""
    bits = recipe.get("bits")
    if type(bits) is not int or not 2 <= bits <= 8:
        raise InputError(
            f"checkpoint: expected a budget of 2 to 8 bits in its recipe, found {bits!r:.40}; give "
            "a file that mnq-search wrote"
        )
    return bits


def _sensitivity(
    screen: Screen, loaded: LoadedModel, calib: Path, images: Path, count: int
) -> Sensitivity:
    """What every head of the float model costs at 2 bits, with 8 bits elsewhere."""
    import numpy as np
    import torch

    from mnq.cli.calibration import BATCH, Ranges
    from mnq.models.images import ImageSet, batches, label_index
    from mnq.ops.library import library_path
    from mnq.toolchain import export as toolchain
    from mnq.toolchain import map as maps
    from mnq.toolchain.build import build
    from mnq.toolchain.edges import assign_edges
    from mnq.toolchain.equalize import equalize
    from mnq.toolchain.first_scales import initialize
    from mnq.toolchain.head_sensitivity import FEW_BITS, head_sensitivity
    from mnq.toolchain.heads import find_parts
    from mnq.toolchain.learned import LearnedQuantizers
    from mnq.toolchain.report.bits import Sensitivity

    mapping, settings = maps.uniform(loaded.name, "lut"), toolchain.Settings()
    prepared = toolchain.graph_of(loaded)
    ranges = Ranges(calib, _CALIBRATION_IMAGES, settings.method, settings.form, True)
    with ImageSet.open(calib) as source:
        statistics = ranges.statistics(screen, source, loaded, prepared, BATCH)
        limit = _CALIBRATION_IMAGES
        first = [part[0] for part in batches(source, loaded.preprocess, limit, limit=limit)]
    graph = equalize(prepared, statistics.equalization)
    edges, image = assign_edges(graph), toolchain.input_of(loaded, settings)
    choices, parts = mapping.resolve(graph.sites()), find_parts(graph, "paper")
    quantizers = LearnedQuantizers(statistics, graph, edges, parts, choices, "qvit", 8, True)
    normalized = loaded.preprocess.normalize(np.concatenate(first))
    initialize(quantizers, graph, image, torch.from_numpy(normalized))
    with ImageSet.open(images) as source:
        labels = label_index(source.classes, loaded.classes, loaded.num_classes)
        judged = [*batches(source, loaded.preprocess, 50, limit=count, labels=labels)]
    total, kernels = sum(len(batch[1]) for batch in judged), library_path() is not None

    def made() -> Program:
        widths = quantizers.bit_widths(mapping.widths())
        return build(graph, edges, quantizers.scales(), widths, choices, image, settings.form)

    def judge(program: Program) -> float:
        right = 0
        for pixels, truth, _ in judged:
            answers = program.logits(torch.from_numpy(pixels), kernels).argmax(1).numpy()
            right += int((answers == truth).sum())
        return 100 * right / total

    rows = []
    heads = sum(node.shape[1] for node in graph if node.op == "attention")
    with screen.progress("heads", heads) as advance:
        for row in head_sensitivity(quantizers, graph, made, judge):
            rows.append(row)
            advance(1)
    return Sensitivity(FEW_BITS, "top-1", total, judge(made()), rows)
