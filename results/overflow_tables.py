"""The table made from overflow.json."""

from __future__ import annotations

from typing import Any

KINDS = ("int64", "sum", "int32")
LAYOUTS = ("Packed", "Window")


def spare(data: dict[str, Any]) -> str:
    """By operator, in any layout, the fewest bits to spare in each model, and the tightest step."""
    lines = [
        f"| operator | {' | '.join(data['rows'])} | tightest step in int64 |",
        "|---|" + "---|" * (len(data["rows"]) + 1),
    ]
    tables = [_by_layout_less_name(row["operators"]) for row in data["rows"].values()]
    for name in dict.fromkeys(name for table in tables for name in table):
        found = [table[name] for table in tables if name in table]
        _, step = min(kinds["int64"] for kinds in found if "int64" in kinds)
        cells = [_cell(table.get(name, {})) for table in tables]
        lines.append(f"| {' | '.join([name, *cells, f'`{_short(step)}`'])} |")
    models = "; ".join(
        f"{name}, {row['weights']} weights: {row['tensors']} tensors, proved in "
        f"{row['seconds'][0]:.1f} to {row['seconds'][1]:.1f} s"
        for name, row in data["rows"].items()
    )
    versions = ", ".join(f"{name} {version}" for name, version in data["versions"].items())
    return "\n".join(
        [
            *lines,
            "",
            f"{data['bits']} bits, {data['images']} images for calibration; {models}; {versions}; "
            f"{data['machine']['processor']}.",
        ]
    )


def _by_layout_less_name(operators: dict[str, Any]) -> dict[str, dict[str, list[Any]]]:
    merged: dict[str, dict[str, list[Any]]] = {}
    for operator, kinds in operators.items():
        name = operator
        for layout in LAYOUTS:
            name = name.replace(layout, "")
        table = merged.setdefault(name, {})
        for kind, place in kinds.items():
            table[kind] = min(table.get(kind, place), place)
    return merged


def _cell(kinds: dict[str, list[Any]]) -> str:
    if not kinds:
        return "-"
    return ", ".join(str(kinds[kind][0]) if kind in kinds else "-" for kind in KINDS)


def _short(step: str) -> str:
    """The text of a step without the functions that lead to it."""
    return step.rpartition(" > ")[2]
