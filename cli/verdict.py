"""What mnq-verify shows: its tables, and the one line of a failure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

if TYPE_CHECKING:
    from pathlib import Path

    from mnq.runtime.contents import Change
    from mnq.runtime.finding import Finding
    from mnq.runtime.matrix import Cell
    from mnq.runtime.overflow import Proven
    from mnq.runtime.place import Place
    from mnq.runtime.verify import Report

_OK, _FAILED = "[green]ok", "[red]FAILED"


def table(report: Report, rows: bool = True) -> Table:
    """What was checked, and every run unless `rows` is False."""
    shown = Table(box=None, pad_edge=False)
    for column in ("check", "images", "tensors", "differing", "result"):
        shown.add_column(column, justify="left" if column in ("check", "result") else "right")
    floats, changes = len(report.float_tensors), len(report.changes)
    shown.add_row("integers only", "", "", f"{floats} float", _FAILED if floats else _OK)
    shown.add_row("the file as certified", "", "", str(changes), _FAILED if changes else _OK)
    for run in report.runs if rows else []:
        integers = run.differing_integers
        differing = run.differing_tensors if integers is None else f"{integers} integers"
        result = _OK if run.passed else "[red]REFUSED" if run.refused else _FAILED
        shown.add_row(run.name, str(run.images), str(run.tensors), str(differing), result)
    return shown


def ranges(rows: list[Proven]) -> Table:
    """A row for every tensor whose range was proved, with the operator's step nearest its limit."""
    from mnq.ops.proof import LIMITS

    shown = Table(box=None, pad_edge=False)
    for column in ("tensor", "operator", "range", "bits", "spare", "inside, spare"):
        shown.add_column(column, overflow="fold")
    for row in rows:
        inside = (f"{kind} {LIMITS[kind] - bits}" for kind, (bits, _) in row.inside.items())
        cells = (row.tensor, row.operator, f"{row.lo}..{row.hi}", f"{row.bits}/{row.width}")
        shown.add_row(*map(escape, cells), str(row.spare), ", ".join(inside))
    return shown


def matrix(cells: list[Cell]) -> list[Table | str]:
    """A row for every engine, path, provider and number of threads, a column for every level."""
    from mnq.runtime.session import LEVELS

    shown = Table(box=None, pad_edge=False)
    shown.add_column("what runs")
    shown.add_column("threads", justify="right")
    for level in LEVELS:
        shown.add_column(level, overflow="fold")
    rows: dict[tuple[str, str], dict[str, str]] = {}
    reasons: dict[str, str] = {}
    for cell in cells:
        place = cell.place
        row = rows.setdefault((_engine(place), str(place.threads or "")), {})
        row[place.level] = _shown(cell)
        if cell.reason:
            text = f"{cell.verdict}: {_engine(place)}: {cell.reason}"
            reasons.setdefault(text, text)
    for (engine, threads), row in rows.items():
        shown.add_row(engine, threads, *(row.get(level, "") for level in LEVELS))
    return [shown, *reasons]


def _engine(place: Place) -> str:
    if place.engine == "reference":
        return "onnx.reference"
    return f"{place.engine}, {place.path or place.provider}"


def _shown(cell: Cell) -> str:
    if cell.run is None:
        return "[yellow]not run"
    if cell.run.refused:
        return "[red]REFUSED"
    first = cell.run.first
    return _OK if first is None else f"[red]FAILED {escape(first.tensor)}"


def changed(changes: list[Change]) -> str:
    """The one line of a file that is not as certified."""
    more = f" ({len(changes) - 1} more)" if len(changes) > 1 else ""
    return (
        f"verify: expected the file that was certified, found a changed one: {changes[0]}{more}; "
        "get the file again, or export the model again"
    )


def failure(report: Report, finding: Finding | None, repro: Path | None) -> str:
    """The one line of a report that did not pass. repro: where the smallest wrong part goes."""
    if report.changes:
        return changed(report.changes)
    if report.float_tensors:
        names = ", ".join(report.float_tensors[:3])
        return (
            f"verify: expected integers only, found {len(report.float_tensors)} float tensors "
            f"({names}); export the model again"
        )
    run = next(run for run in report.runs if not run.passed)
    if run.refused:
        return f"verify: expected a model that runs, found it refused in {run.name}: {run.refused}"
    where = str(run.first)
    if finding is None:
        return (
            f"verify: expected equal integers, found a difference in {run.name}: {where}; "
            "run mnq-doctor"
        )
    if run.first is not None and finding.tensor != run.first.tensor:
        where += f", which begins at tensor {finding.tensor!r}"
    index, expected, found = finding.first()
    if index is not None and finding.inner is None and run.differing_integers is None:
        where += f", index {index}: expected {expected}, found {found}"
    remedy = (
        "--repro DIR puts the smallest wrong part into a folder"
        if repro is None
        else f"the smallest wrong part is in {repro}"
    )
    return f"verify: expected equal integers, found a difference in {run.name}: {where}; {remedy}"
