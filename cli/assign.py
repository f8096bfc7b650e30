"""mnq-assign: measures every method at every site, chooses, explains."""

from __future__ import annotations

import math
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mnq.cli.assignment import Request, assign, measure
from mnq.cli.calibration import BATCH as CALIBRATION_BATCH
from mnq.cli.calibration import Ranges, range_options
from mnq.cli.common import (
    COUNT,
    MODEL_HELP,
    SEED,
    Command,
    Screen,
    map_text,
    need_train,
    output_options,
    threads_option,
)
from mnq.cli.workbench import Workbench, take_sample, workbench
from mnq.models.images import ImageSet
from mnq.ops.errors import InputError
from mnq.ops.files import check_writable, write_atomically

if TYPE_CHECKING:
    from mnq.toolchain.map import Map

EXAMPLES = """
\b
Examples:
  mnq-assign --model deit_t --calib images.zip --output map.json --report report.html
  mnq-assign --model deit_t --calib images.zip --bits 6 --objective logits \\
      --measurements deit_t.json --output map.json
  mnq-assign --model deit_t --calib images.zip --measure joint --methods paper \\
      --rule sqnr-signed --output paper.json
  mnq-assign --model deit_t --calib images.zip --objective cost --budget 40 --output map.json
"""
RULES = ("sqnr-drop", "sqnr-absdiff", "sqnr-signed", "sqnr-output")


def _widths(context: click.Context, option: click.Parameter, text: str) -> tuple[int, ...]:
    """The numbers of --sweep-bits."""
    parts = [part.strip() for part in text.split(",")] if text else []
    if not all(part in map(str, range(2, 9)) for part in parts):
        raise click.BadParameter(f"expected widths from 2 to 8 like 8,6,4, found {text!r}")
    return tuple(map(int, parts))


@click.command(
    cls=Command, epilog=EXAMPLES, context_settings={"help_option_names": ["-h", "--help"]}
)
@click.option("--model", "name", required=True, help=MODEL_HELP)
@click.option("--weights", type=Path, help="Float weights (.safetensors, .pth); default: timm's.")
@click.option("--random-weights", type=SEED, metavar="SEED", help="Random weights, to try sizes.")
@range_options
@click.option("--bits", type=click.IntRange(2, 8), default=8, show_default=True, help="Code width.")
@click.option("--rule", type=click.Choice(RULES), help="Choose by the sites' SQNR.  [sqnr-drop]")
@click.option(
    "--objective",
    type=click.Choice(["logits", "cost"]),
    help="Choose by the whole model's logits instead; cost: within --budget.",
)
@click.option(
    "--measure",
    "how",
    type=click.Choice(["isolated", "joint"]),
    default="isolated",
    show_default=True,
    help="One site quantized at a time, or (the paper's) a whole model per method.",
)
@click.option(
    "--methods",
    type=click.Choice(["all", "paper"]),
    default="all",
    show_default=True,
    help="paper: without the tables.",
)
@click.option(
    "--sites",
    type=click.Choice(["all", "paper"]),
    default="all",
    show_default=True,
    help="paper: without the LayerNorms outside the blocks.",
)
@click.option(
    "--sample", type=COUNT, default=32, show_default=True, help="Images to measure on, at random."
)
@click.option("--seed", type=SEED, default=0, show_default=True, help="Of the sample.")
@click.option(
    "--sample-from", type=Path, help="Images to take the sample from.  [those of --calib]"
)
@click.option(
    "--budget",
    type=click.FloatRange(0, min_open=True),
    help="For --objective cost: milliseconds of all sites together.",
)
@click.option("--costs", type=Path, help="Operator costs: read, or measured and kept there.")
@threads_option
@click.option(
    "--sweep-bits",
    "sweep",
    default="",
    callback=_widths,
    help="Measure at these widths too, like 8,6,4.",
)
@click.option("--measurements", type=Path, help="Keep all figures here, and go on from them.")
@click.option("--output", type=Path, required=True, help="The map.json to write.")
@click.option("--report", type=Path, help="Explain the map in this HTML file.")
@output_options
def main(
    name: str,
    weights: Path | None,
    random_weights: int | None,
    ranges: Ranges,
    bits: int,
    rule: str | None,
    objective: str | None,
    how: str,
    methods: str,
    sites: str,
    sample: int,
    seed: int,
    sample_from: Path | None,
    budget: float | None,
    costs: Path | None,
    threads: int,
    sweep: tuple[int, ...],
    measurements: Path | None,
    output: Path,
    report: Path | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Measure every integer method at every non-linear site, choose, and explain the choice.

    Writes a map.json for mnq-export --assign. Only the images given here decide: keep those
    that you judge with out of it. A measurement that was interrupted goes on where it stopped
    if --measurements names a file.
    """
    screen = Screen(as_json, quiet)
    _check_files(output, report, measurements, costs)
    request = Request(
        bits,
        _decision(rule, objective, budget, costs),
        how,
        methods,
        sites,
        sweep,
        budget,
        costs,
        threads,
    )
    if ranges.calib is None:
        raise InputError("assign: expected --calib, found none; give images or a calibration file")
    need_train(*(["matplotlib"] if report else []))
    from mnq.models.zoo import load
    from mnq.toolchain.export import Settings, graph_of

    settings = Settings(ranges.method, ranges.form)
    with ExitStack() as opened:
        source = ranges.open()
        drawn_from = source if sample_from is None else ImageSet.open(sample_from)
        for images in (source, drawn_from):
            if images is not None:
                opened.enter_context(images)
        if drawn_from is None:
            raise InputError(
                "assign: expected images to measure on, found a calibration file alone; add "
                "--sample-from FOLDER"
            )
        screen.note(f"loading {name}")
        loaded = load(name, weights, random=random_weights)
        screen.note("capturing")
        graph = graph_of(loaded)
        statistics = ranges.statistics(screen, source, loaded, graph, CALIBRATION_BATCH)
        drawn = take_sample(screen, drawn_from, loaded, sample, seed)
        skipped = {name for images in (source, drawn_from) if images for name, _ in images.skipped}
    bench = workbench(screen, loaded, graph, statistics, settings, drawn, measurements)
    mapping = assign(bench, request)
    if report is not None:
        _write_report(bench, request, mapping, report)
    bench.save()
    write_atomically(output, map_text(mapping.to_json()).encode() + b"\n")
    _show(bench, request, mapping, output, report, len(skipped))
    own = "" if weights is None else f" --weights {weights}"
    screen.note(
        f"next: mnq-export --model {name}{own} --assign {output} --calib {ranges.calib} "
        f"--output {output.with_suffix('.onnx')}"
    )


def _decision(
    rule: str | None, objective: str | None, budget: float | None, costs: Path | None
) -> str:
    """What decides: a rule, "logits" or "cost"."""
    if rule is not None and objective is not None:
        raise InputError(
            f"assign: expected --rule or --objective, found both ({rule}, {objective}); drop one"
        )
    if (objective == "cost") != (budget is not None):
        raise InputError(
            "budget: expected --budget MS and --objective cost together, found one of them; "
            "add the other or drop it"
        )
    if costs is not None and objective != "cost":
        raise InputError(
            "costs: expected --costs with --objective cost, found it alone; add that or drop it"
        )
    if budget is not None and not math.isfinite(budget):
        raise InputError(f"budget: expected milliseconds, found {budget}; give a number")
    return objective or rule or RULES[0]


def _check_files(*paths: Path | None) -> None:
    """Refuse now what could not be written in the end."""
    given = [path for path in paths if path is not None]
    for path in given:
        if given.count(path) > 1:
            raise InputError(f"assign: expected different files, found {path} twice; rename one")
        check_writable(path)


def _write_report(bench: Workbench, request: Request, mapping: Map, path: Path) -> None:
    from mnq.toolchain.assign import METHOD_SETS
    from mnq.toolchain.report.page import render

    # The report compares the chosen map with whole models of one method each.
    measure(bench, request.bits, "joint", METHOD_SETS[request.methods])
    bench.screen.note("drawing the report")
    write_atomically(path, render(bench.measurements, mapping).encode())


def _show(
    bench: Workbench,
    request: Request,
    mapping: Map,
    output: Path,
    report: Path | None,
    skipped: int,
) -> None:
    """The result: JSON, or a table with a row per site and one line."""
    from mnq.cli.bars import site_table
    from mnq.toolchain.measurements import CHOSEN

    quality = {
        run.name: run.logits.sqnr_db()
        for run in bench.measurements.runs
        if (run.bits, run.measure) == (request.bits, "joint")
    }
    counts: dict[str, dict[str, int]] = {}
    for site, kind in bench.measurements.sites.items():
        found = counts.setdefault(kind, {})
        method = mapping.sites[site]["method"]
        found[method] = found.get(method, 0) + 1
    payload = {
        "output": str(output),
        "report": None if report is None else str(report),
        "model": mapping.model,
        "bits": request.bits,
        "rule": request.rule,
        "counts": counts,
        "logit_sqnr_db": quality,
        "images": bench.sample.provenance,
        "skipped_images": skipped,
    }
    line = (
        f"{output}: {len(mapping.sites)} sites at {request.bits} bits by {request.rule}, logit "
        f"SQNR {quality[CHOSEN]:.1f} dB on {len(bench.sample)} images"
    )
    bench.screen.result(payload, site_table(bench.measurements, mapping), line)
