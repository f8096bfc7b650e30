"""Small result files, and the cells of a table."""

from __future__ import annotations

from typing import Any


def data(*rows: dict[str, Any]) -> dict[str, Any]:
    """A file of trained models, with these rows."""
    return {
        "model": "tiny",
        "images": {"train": "some.zip", "judge": "others.zip"},
        "options": ["--distill", "1"],
        "rates": {"8": 1e-5},
        "versions": {"mnq": "0.1.0"},
        "machine": {"processor": "a CPU"},
        "float": {"top1": 88.0, "images": 500},
        "rows": {str(number): one for number, one in enumerate(rows)},
    }


def cells(line: str) -> list[str]:
    """The texts of a line of a table."""
    return [cell.strip() for cell in line.strip("|").split("|")]
