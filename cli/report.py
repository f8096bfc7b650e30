"""mnq-report: explain measurements and maps, as a page, in the terminal, or against others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mnq.cli.bits import bits_report
from mnq.cli.common import Command, Screen, need_train, output_options
from mnq.cli.main import Group
from mnq.ops.errors import InputError, one_line
from mnq.ops.files import check_writable, write_atomically

if TYPE_CHECKING:
    from mnq.toolchain.map import Map
    from mnq.toolchain.measurements import Measurements
    from mnq.toolchain.report.view import View

HELP = {"help_option_names": ["-h", "--help"]}

EXAMPLES = """
\b
Examples:
  mnq-report html deit_t.json --assign map.json --output report.html
  mnq-report show deit_t.json --assign map.json
  mnq-report diff map.json other_map.json
  mnq-report bits run/last.safetensors --output bits.html
"""

HTML_EXAMPLES = """
\b
Examples:
  mnq-report html deit_t.json --assign map.json --output report.html
  mnq-report html deit_t.json --output report.html           the measurements alone
"""

SHOW_EXAMPLES = """
\b
Examples:
  mnq-report show deit_t.json --assign map.json              what was chosen, and by how much
  mnq-report show deit_t.json                                figures of every method
"""

DIFF_EXAMPLES = """
\b
Examples:
  mnq-report diff map.json other_map.json                    sites with other methods
  mnq-report diff deit_t.json deit_t_tuned.json              figures that changed
"""

measurements_argument = click.argument("path", metavar="MEASUREMENTS.JSON", type=Path)
assign_option = click.option("--assign", type=Path, help="The map.json that was chosen.")


@click.group(cls=Group, epilog=EXAMPLES, context_settings=HELP)
def main() -> None:
    """Explain what mnq-assign measured and chose, and what bits mnq-search found."""


@main.command(
    "html",
    cls=Command,
    epilog=HTML_EXAMPLES,
    context_settings=HELP,
    short_help="One HTML page with all figures and tables.",
)
@measurements_argument
@assign_option
@click.option("--output", type=Path, required=True, help="The .html to write.")
@output_options
def html_report(path: Path, assign: Path | None, output: Path, as_json: bool, quiet: bool) -> None:
    """Write one HTML file with the figures and tables of MEASUREMENTS.JSON.

    It needs no network and no script, opens in any browser and can be printed.
    """
    screen = Screen(as_json, quiet)
    if output in (path, assign):
        raise InputError(f"output: expected a new file, found {output} given twice; rename it")
    check_writable(output)
    need_train("matplotlib")
    measurements, mapping = _read(path, assign)
    from mnq.toolchain.report.page import render

    screen.note("drawing")
    data = render(measurements, mapping).encode()
    write_atomically(output, data)
    payload = {
        "output": str(output),
        "bytes": len(data),
        "model": measurements.model,
        "sites": len(measurements.sites),
    }
    line = (
        f"{output}: {measurements.model}, {len(measurements.sites)} sites, {len(data) / 1e6:.1f} MB"
    )
    screen.result(payload, f"{line}; open it in a browser")


@main.command(
    cls=Command,
    epilog=SHOW_EXAMPLES,
    context_settings=HELP,
    short_help="A table in the terminal, with bars.",
)
@measurements_argument
@assign_option
@output_options
def show(path: Path, assign: Path | None, as_json: bool, quiet: bool) -> None:
    """Print a row for every site: with a map what was chosen and by which figures."""
    from mnq.cli.bars import SiteFigures, site_table

    screen = Screen(as_json, quiet)
    need_train()
    measurements, mapping = _read(path, assign)
    from mnq.toolchain.report.view import View

    if mapping is not None:
        view = View(measurements, mapping)
        screen.result(_payload(view), site_table(measurements, mapping), *_logits(view))
        return
    views = [View(measurements, bits=bits) for bits in measurements.widths()]
    payload = {"model": measurements.model, "widths": [_payload(view) for view in views]}
    parts = [part for view in views for part in ("", SiteFigures(view), *_logits(view))]
    screen.result(payload, *parts[1:])


@main.command(
    cls=Command,
    epilog=DIFF_EXAMPLES,
    context_settings=HELP,
    short_help="Two maps or two measurements, side by side.",
)
@click.argument("a", metavar="A.JSON", type=Path)
@click.argument("b", metavar="B.JSON", type=Path)
@output_options
def diff(a: Path, b: Path, as_json: bool, quiet: bool) -> None:
    """Compare two maps, or two files of measurements, of the same model.

    Status 0, whether they differ or not.
    """
    from mnq.cli.differences import map_tables, measurement_tables

    screen = Screen(as_json, quiet)
    need_train()
    from mnq.toolchain import map as maps
    from mnq.toolchain import measurements as measuring
    from mnq.toolchain.report import compare

    kinds = {path: _kind(path) for path in (a, b)}
    if kinds[a] != kinds[b]:
        (format_a, model_a), (format_b, model_b) = kinds[a], kinds[b]
        raise InputError(
            f"report: expected two files of one kind and model, found {format_a} of {model_a} in "
            f"{a} and {format_b} of {model_b} in {b}; compare like with like"
        )
    form, model = kinds[a]
    if form == measuring.FORMAT:
        found = compare.measurements(measuring.load(a), measuring.load(b))
        screen.result(found, *measurement_tables(found))
        return
    one, other = (maps.read(path, model) for path in (a, b))
    screen.note(f"reading the sites of {model}")
    found = compare.maps(one, other, _sites(model))
    screen.result(found, *map_tables(found))


main.add_command(bits_report)


def _read(path: Path, assign: Path | None) -> tuple[Measurements, Map | None]:
    from mnq.toolchain import map as maps
    from mnq.toolchain.measurements import load

    measurements = load(path)
    return measurements, None if assign is None else maps.read(assign, measurements.model)


def _kind(path: Path) -> tuple[str, str]:
    """Format and model that a file claims. Raises InputError if it is no file of ours."""
    from mnq.toolchain import map as maps
    from mnq.toolchain import measurements as measuring

    try:
        size = path.stat().st_size
        data = json.loads(path.read_text(encoding="utf-8")) if size <= measuring.MAX_BYTES else {}
    except (OSError, RecursionError, ValueError) as error:
        data = {"format": getattr(error, "strerror", None) or "no JSON"}
    form = data.get("format") if isinstance(data, dict) else None
    if form not in (maps.FORMAT, measuring.FORMAT):
        raise InputError(
            f"report: expected a map.json or measurements of mnq-assign, found {one_line(form)} "
            f"in {path}; check the path"
        )
    return form, one_line(data.get("model"))


def _sites(model: str) -> dict[str, str]:
    """Kind of every site of a model; maps need not name all of them."""
    from mnq.models.zoo import load
    from mnq.toolchain.export import graph_of

    return graph_of(load(model, random=0)).sites()


def _payload(view: View) -> dict[str, Any]:
    """What is shown of a bit-width, for machines."""
    return {
        "model": view.measurements.model,
        "bits": view.bits,
        "measure": view.basis,
        "rule": view.provenance.get("rule"),
        "logit_sqnr_db": {n: run.logits.sqnr_db() for n, run in view.models().items()},
        "counts": {kind: view.counts()[kind] for kind in view.kinds} if view.choices else {},
        "sites": {
            site.name: {
                "position": site.position,
                "kind": site.kind,
                "method": view.choices.get(site.name),
                "figures": {m: f for m in view.methods if (f := view.stated(m, site.name))},
                "unusable": view.unusable(site.name),
                "reason": view.reason(site.name),
            }
            for site in view.sites
        },
    }


def _logits(view: View) -> list[str]:
    """A line on the logits of whole models, best first; none if they were not measured."""
    found = {name: run.logits.sqnr_db() for name, run in view.models().items()}
    best = sorted(found, key=lambda name: -found[name])
    names = ", ".join(f"{name} {found[name]:.2f}" for name in best)
    return [f"\nlogit SQNR in dB, {view.bits} bits: {names}"] if names else []
