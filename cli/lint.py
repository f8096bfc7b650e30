"""mnq-lint: what in an .onnx is float, differs between machines, or is slow."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.markup import escape
from rich.table import Table

from mnq.cli.common import Command, Screen, expect_one, output_options
from mnq.ops.errors import CheckFailed

if TYPE_CHECKING:
    from mnq.runtime.lint import Finding

EXAMPLES = """
\b
Examples:
  mnq-lint m.onnx                 an exported model: nothing to object to
  mnq-lint other.onnx --strict    any .onnx; status 1 for warnings, too
  mnq-lint m.onnx --provider cuda nodes that would leave the GPU, too
  mnq-lint other.onnx --json      for machines
"""


@click.command(
    cls=Command, epilog=EXAMPLES, context_settings={"help_option_names": ["-h", "--help"]}
)
@click.argument("model_path", metavar="MODEL.ONNX", type=Path)
@click.option(
    "--provider",
    default="cpu",
    show_default=True,
    help="cpu or cuda: which of the installed onnxruntime should take every node.",
)
@click.option("--strict", is_flag=True, help="Warnings fail as errors do.")
@output_options
def main(model_path: Path, provider: str, strict: bool, as_json: bool, quiet: bool) -> None:
    """Say what in MODEL.ONNX computes in float, differs between machines, or is slow.

    For any .onnx, exported by mnq or not. Every finding comes with its cost and a remedy. Errors
    are about integers that are none, or that are others on another machine; warnings about what
    is right only where values allow, or slow.
    """
    from mnq.ops.kernels import signatures
    from mnq.ops.library import library_path
    from mnq.runtime.lint import ERROR, lint
    from mnq.runtime.modelfile import read_proto
    from mnq.runtime.session import PROVIDERS

    expect_one("--provider", provider, PROVIDERS)
    screen = Screen(as_json, quiet)
    kernels = None if library_path() is None else frozenset(signatures())
    found = lint(read_proto(model_path), kernels, provider)
    failed = [finding for finding in found if strict or finding.severity == ERROR]
    payload = {"passed": not failed, "findings": [finding.to_json() for finding in found]}
    screen.result(payload, _table(found) if found else f"{model_path}: nothing to object to")
    if failed:
        first = failed[0]
        raise CheckFailed(
            f"lint: expected a model without {'findings' if strict else 'errors'}, found "
            f"{len(failed)}, the first {first.rule} at {first.where[0]!r} ({first.count} in all); "
            f"{first.remedy}"
        )


def _table(found: list[Finding]) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in ("finding", "severity", "count", "where", "cost and remedy"):
        table.add_column(column, overflow="fold", justify="right" if column == "count" else "left")
    for f in found:
        style = "[red]error" if f.severity == "error" else "[yellow]warning"
        more = "" if f.count <= len(f.where) else ", ..."
        table.add_row(
            f.rule,
            style,
            str(f.count),
            escape(", ".join(f.where)) + more,
            escape(f"{f.cost}. Remedy: {f.remedy}."),
        )
    return table
