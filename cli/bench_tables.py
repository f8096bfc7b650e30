"""What mnq-bench shows: a table per comparison, and one of operators."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.table import Table

if TYPE_CHECKING:
    from mnq.runtime.compare import Comparison
    from mnq.runtime.modelfile import ModelFile
    from mnq.runtime.profile import Share


def title(model: ModelFile, run: Comparison, origin: dict[str, Any]) -> str:
    """What a comparison is of."""
    where = f"threads {run.threads}" if run.provider == "cpu" else "GPU"
    text = f"{model.name}, batch {run.batch}, {where}, {run.rounds} rounds"
    return text if origin["weights"] is None else f"{text}; peers' weights: {origin['weights']}"


def comparison(run: Comparison, floor: float | None = None) -> Table:
    """A row per engine. floor: milliseconds of the roofline of mnq's model, None for no column."""
    table = Table(box=None, pad_edge=False)
    heads = ("ms", "quartiles", "images/s", "times mnq", "quartiles", "clean", "file MB")
    table.add_column("engine")
    last = () if floor is None else ("of roofline %",)
    for head in (*heads, "peak MB", "start ms", "floats", *last):
        table.add_column(head, justify="right")
    for row in run.rows:
        f, ms = row.figures, row.figures.milliseconds
        share = "-" if floor is None or row.precision else f"{floor / ms.median * 100:.0f}"
        above = row.footprint.peak_bytes - run.empty.peak_bytes
        table.add_row(
            row.engine.name,
            f"{ms.median:.2f}",
            f"{ms.low:.2f} to {ms.high:.2f}",
            f"{run.batch * 1e3 / ms.median:.1f}",
            "-" if f.times is None else f"{f.times.median:.2f}",
            "-" if f.times is None else f"{f.times.low:.2f} to {f.times.high:.2f}",
            f"{f.clean} of {f.samples}",
            f"{row.engine.file_bytes / 1e6:.1f}",
            f"{above / 1e6:.0f}",
            f"{row.footprint.start_seconds * 1e3:.0f}",
            row.precision or "-",
            *last and (share,),
        )
    return table


def operators(shares: list[Share]) -> Table:
    """A row per operator."""
    table = Table(box=None, pad_edge=False)
    table.add_column("operator")
    for head in ("nodes", "ms", "share %"):
        table.add_column(head, justify="right")
    for share in shares:
        cells = (str(share.nodes), f"{share.milliseconds:.3f}", f"{share.share * 100:.1f}")
        table.add_row(share.operator, *cells)
    return table
