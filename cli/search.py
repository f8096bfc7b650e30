"""mnq-search: train an integer model that learns how many bits each of its parts needs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click
import numpy as np
from rich.table import Table

from mnq.cli.calibration import Ranges, range_options
from mnq.cli.common import MODEL_HELP, Command, Screen, output_options
from mnq.cli.mapping import assign_option, chosen_map
from mnq.cli.recipe import search_options
from mnq.cli.runs import Setup, drive, prepare, run_options
from mnq.cli.training import LAST, Run
from mnq.models.images import batches
from mnq.ops.errors import InputError

if TYPE_CHECKING:
    import torch

    from mnq.toolchain.bit_search import BitSearch, SearchRecipe
    from mnq.toolchain.fit import Row
    from mnq.toolchain.graph import Graph
    from mnq.toolchain.learned import LearnedQuantizers
    from mnq.toolchain.processes import Process

EXAMPLES = """
\b
Examples:
  mnq-search --model deit_t --assign map.json --train imagenet/train --val imagenet/val \\
      --bits 4 --output run                         bits as many as 4 everywhere would cost
  mnq-search --model micro_vit --assign uniform:lut --train cifar/train --val cifar/test \\
      --epochs 4 --batch 128 --distill 1 --augment light --bits 3 --output run
  mnq-search ... --quantizer lsq+ --output uniform  the same bits everywhere, to compare
  mnq-search ... --output run --resume run/last.safetensors
  torchrun --nproc-per-node 8 -m mnq.cli.search ... eight GPUs
  mnq-export --checkpoint run/last.safetensors --output m.onnx
  mnq-report bits run/last.safetensors --output bits.html
"""

_IMAGES = 64
"""That first scales are made from, as in the published code; calibration images here."""


@dataclass
class SearchRun(Run):
    """A run that learns quantizers. first: normalized images (B, C, H, W), for first scales."""

    first: torch.Tensor | None = None

    def quantizers(self, graph: Graph) -> LearnedQuantizers:
        """Learned quantizers, with their first scales."""
        from mnq.toolchain.edges import assign_edges
        from mnq.toolchain.export import input_of
        from mnq.toolchain.first_scales import initialize
        from mnq.toolchain.heads import find_parts
        from mnq.toolchain.learned import LearnedQuantizers

        subject, recipe, settings = self.subject, self.search, self.subject.settings
        found = LearnedQuantizers(
            subject.statistics,
            graph,
            assign_edges(graph),
            find_parts(graph, recipe.heads),
            subject.mapping.resolve(graph.sites()),
            recipe.quantizer,
            recipe.bits,
            recipe.switchable,
            settings.method,
            settings.form,
        )
        assert self.first is not None
        initialize(found, graph, input_of(subject.loaded, settings), self.first)
        return found

    def optimizer(self) -> BitSearch:
        """What trains the model, and its bits."""
        from mnq.toolchain.bit_search import BitSearch

        found = cast("LearnedQuantizers", self.model.ranges)
        return BitSearch(self.model, found, self.search, len(self.loader), self.teacher)

    def judge(self, answers: list[Any]) -> Row:
        """Also the BitOPs of one image, in G, and whether bits still move."""
        trainer = cast("BitSearch", self.trainer)
        more = {"bitops": trainer.bitops(), "searching": trainer.searching()}
        return {**super().judge(answers), **more}

    @property
    def search(self) -> SearchRecipe:
        """The recipe."""
        return cast("SearchRecipe", self.recipe)


@click.command(
    cls=Command, epilog=EXAMPLES, context_settings={"help_option_names": ["-h", "--help"]}
)
@click.option("--model", "name", required=True, help=MODEL_HELP)
@assign_option
@click.option("--weights", type=Path, help="Float weights (.safetensors, .pth); default: timm's.")
@run_options
@range_options
@search_options
@output_options
def main(
    name: str,
    assign: str,
    weights: Path | None,
    setup: Setup,
    ranges: Ranges,
    recipe: SearchRecipe,
    as_json: bool,
    quiet: bool,
) -> None:
    """Train an integer vision transformer that learns its bit-widths, head by head (Q-ViT).

    As mnq-qat, and the integers are those that are deployed all the way. Bits of 2 to 8 move until
    --sigma of the steps, pulled toward the BitOPs of a uniform model of --bits; then they are
    rounded to cost no more. --assign says the method of every site; its bits are not used.
    """
    ranges = setup.calibration(ranges)

    def start(screen: Screen, here: Process) -> SearchRun:
        mapping = chosen_map(assign, name, None)
        subject, images = prepare(screen, name, weights, mapping, ranges, setup)
        first = _first_images(ranges, subject.loaded.preprocess)
        return SearchRun(screen, here, subject, images, recipe, setup.output, first=first)

    drive(setup, (as_json, quiet), start, _report)


def _first_images(ranges: Ranges, preprocess: Any) -> torch.Tensor:
    """Normalized calibration images for the first scales, evenly spread."""
    import torch

    source = ranges.open()
    if source is None:
        raise InputError(
            "--calib: expected images, which the first scales are made from, found saved "
            f"statistics in {ranges.calib}; give a folder or .zip"
        )
    with source:
        found = [part[0] for part in batches(source, preprocess, _IMAGES, limit=_IMAGES)]
    return torch.from_numpy(preprocess.normalize(np.concatenate(found)))


def _report(screen: Screen, run: Run, finished: bool) -> None:
    """What came of the run, and what to do next."""
    trainer = cast("BitSearch", run.trainer)
    table = Table(box=None, pad_edge=False)
    for head in ("epoch", "loss", "top-1 %", "agree %", "GBitOPs", "seconds"):
        table.add_column(head, justify="right")
    for row in run.progress.history:
        cells = [row[key] for key in ("loss", "top1", "agreement", "bitops", "seconds")]
        formats = (".4g", ".2f", ".2f", ".4g", ".0f")
        shown = ["-" if c is None else format(c, f) for c, f in zip(cells, formats, strict=True)]
        table.add_row(str(row["epoch"]), *shown)
    payload = {
        "output": str(run.output),
        "finished": finished,
        "float": run.reference,
        "best": run.progress.best(),
        "budget": trainer.budget,
        "bitops": trainer.bitops(),
        "history": run.progress.history,
    }
    screen.result(payload, table)
    screen.note(f"{trainer.bitops():.4g} G BitOPs of a budget of {trainer.budget:.4g} G")
    if finished:
        screen.note(f"next: mnq-export --checkpoint {run.output / LAST} --output m.onnx")


if __name__ == "__main__":
    main()
