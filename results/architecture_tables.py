"""The table made from architectures.json."""

from __future__ import annotations

from typing import Any


def tried(data: dict[str, Any]) -> str:
    """Every architecture: its sites, what was compared, size and time."""
    lines = [
        "| model | input | softmax, GELU, LayerNorm sites | outputs | tensors | differing "
        "| float tensors | MB: float, file | capture, export s | ms an image |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, row in data["rows"].items():
        cells = [
            name,
            row["size"],
            ", ".join(str(count) for count in row["sites"].values()),
            row["outputs"],
            row["tensors"],
            ", ".join(str(count) for count in row["differing_integers"]),
            row["float_tensors"],
            f"{row['float_bytes'] / 1e6:.1f}, {row['file_bytes'] / 1e6:.1f}",
            f"{row['capture_s']:.0f}, {row['export_s']:.0f}",
            f"{row['ms']:.1f}",
        ]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    images = next(iter(data["rows"].values()))["images"]
    versions = ", ".join(f"{name} {version}" for name, version in data["versions"].items())
    return "\n".join(
        [
            *lines,
            "",
            f"{images} random images compared; ms: kernels, batch 1, one thread, on a shared "
            f"machine; {versions}; {data['machine']['processor']}.",
        ]
    )
