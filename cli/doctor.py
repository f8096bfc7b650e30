"""mnq-doctor: what this machine has, what it lacks, and how to mend it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
from rich.markup import escape
from rich.table import Table

from mnq.cli.common import Command, Screen, output_options
from mnq.ops.errors import EnvironmentLack

if TYPE_CHECKING:
    from mnq.runtime.doctor import Finding

EXAMPLES = """
\b
Examples:
  mnq-doctor                 a table, and the commands that mend what is not right
  mnq-doctor --json          for machines; status 0 if models can run here, else 3
"""

_STYLES = {"ok": "[green]ok", "warning": "[yellow]warning", "problem": "[red]PROBLEM"}


@click.command(
    cls=Command, epilog=EXAMPLES, context_settings={"help_option_names": ["-h", "--help"]}
)
@output_options
def main(as_json: bool, quiet: bool) -> None:
    """Check Python, packages, onnxruntime and its providers, the CPU, and the integers it gives.

    A warning is about something slower or missing that models run without; a problem means
    that no model runs right here.
    """
    from mnq.runtime import doctor

    screen = Screen(as_json, quiet)
    screen.note("checking packages and running a self-test")
    findings = doctor.examine()
    problems = [finding for finding in findings if finding.status == doctor.PROBLEM]
    payload = {"passed": not problems, "findings": [finding.to_json() for finding in findings]}
    screen.result(payload, _table(findings), *_remedies(findings))
    if problems:
        names = ", ".join(finding.name for finding in problems)
        raise EnvironmentLack(
            f"doctor: expected a machine that runs models, found a problem with {names}; "
            f"first {next((p.remedy for p in problems if p.remedy), 'see the table')}"
        )


def _table(findings: list[Finding]) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in ("check", "result", "found"):
        table.add_column(column, overflow="fold")
    for finding in findings:
        table.add_row(finding.name, _STYLES[finding.status], escape(finding.found))
    return table


def _remedies(findings: list[Finding]) -> list[str]:
    """Lines to copy, each once, with the checks that they mend above them."""
    names: dict[str, list[str]] = {}
    for finding in findings:
        if finding.remedy:
            names.setdefault(finding.remedy, []).append(finding.name)
    return [f"\nTo mend {', '.join(checks)}:\n  {remedy}" for remedy, checks in names.items()]
