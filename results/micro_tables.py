"""The table made from micro_accuracy.json."""

from __future__ import annotations

from typing import Any


def bundled(data: dict[str, Any]) -> str:
    """The float models that were trained here."""
    lines = [
        "| model | parameters | MB | epochs | seed | top-1 % |",
        "|---|---|---|---|---|---|",
    ]
    for name, row in data["rows"].items():
        size = f"{row['weights_bytes'] / 1e6:.1f}"
        cells = (name, row["parameters"], size, row["epochs"], row["seed"], f"{row['top1']:.2f}")
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    versions = ", ".join(f"{name} {version}" for name, version in data["versions"].items())
    where = f"{data['images']} images; {versions}; {data['machine']['processor']}."
    return "\n".join([*lines, "", where])
