"""mnq-qat: train an integer model as it will be deployed."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.table import Table

from mnq.cli.calibration import Ranges, range_options
from mnq.cli.common import MODEL_HELP, Command, Screen, output_options
from mnq.cli.mapping import assign_option, bits_option, chosen_map
from mnq.cli.recipe import recipe_options
from mnq.cli.runs import Setup, drive, prepare, run_options
from mnq.cli.training import BEST, LAST, Run

if TYPE_CHECKING:
    from mnq.toolchain.processes import Process
    from mnq.toolchain.train import Recipe

EXAMPLES = """
\b
Examples:
  mnq-qat --model deit_t --assign map.json --train imagenet/train --val imagenet/val \\
      --output run                                  the paper's recipe, one epoch
  mnq-qat --model deit_t --weights deit_t.safetensors --assign uniform:ivit --bits 6 \\
      --train photos.zip --val held_out.zip --epochs 5 --batch 32 --lr 1e-4 --distill 1 \\
      --distill-features 30 --ranges learned --range-lr 0.01 --augment light --output run
                                                    little data: learn from the float model
  mnq-qat ... --output run --resume run/last.safetensors
  torchrun --nproc-per-node 8 -m mnq.cli.qat ...    eight GPUs
  mnq-export --checkpoint run/best.safetensors --output m.onnx
"""


@click.command(
    cls=Command, epilog=EXAMPLES, context_settings={"help_option_names": ["-h", "--help"]}
)
@click.option("--model", "name", required=True, help=MODEL_HELP)
@assign_option
@click.option("--weights", type=Path, help="Float weights (.safetensors, .pth); default: timm's.")
@bits_option
@run_options
@range_options
@recipe_options
@output_options
def main(
    name: str,
    assign: str,
    weights: Path | None,
    bits: int | None,
    setup: Setup,
    ranges: Ranges,
    recipe: Recipe,
    as_json: bool,
    quiet: bool,
) -> None:
    """Train an integer vision transformer: every forward pass computes the deployed integers.

    Starts from the float weights, calibrated on --calib (default: the training images). Writes
    last.safetensors and best.safetensors, log.csv and curve.svg to the output folder after every
    epoch. Ctrl-C stops after the step and saves; --resume goes on as if nothing had happened.
    """
    ranges = setup.calibration(ranges)

    def start(screen: Screen, here: Process) -> Run:
        mapping = chosen_map(assign, name, bits)
        subject, images = prepare(screen, name, weights, mapping, ranges, setup)
        return Run(screen, here, subject, images, recipe, setup.output)

    drive(setup, (as_json, quiet), start, _report)


def _report(screen: Screen, run: Run, finished: bool) -> None:
    """What came of the run, and what to do next."""
    table = Table(box=None, pad_edge=False)
    for head in ("epoch", "loss", "top-1 %", "agree %", "seconds"):
        table.add_column(head, justify="right")
    for row in run.progress.history:
        cells = (row["loss"], row["top1"], row["agreement"], row["seconds"])
        formats = (".4g", ".2f", ".2f", ".0f")
        shown = ["-" if c is None else format(c, f) for c, f in zip(cells, formats, strict=True)]
        table.add_row(str(row["epoch"]), *shown)
    payload = {
        "output": str(run.output),
        "finished": finished,
        "float": run.reference,
        "best": run.progress.best(),
        "history": run.progress.history,
    }
    screen.result(payload, table)
    if not finished:
        return
    chosen = BEST if (run.output / BEST).exists() else LAST
    screen.note(f"next: mnq-export --checkpoint {run.output / chosen} --output m.onnx")


if __name__ == "__main__":
    main()
