"""The table made from qvit_MODEL.json."""

from __future__ import annotations

from typing import Any

from qat_tables import spread, training


def learned(data: dict[str, Any]) -> str:
    """Every variant by its bits and map: means over the seeds, and their spread."""
    lines = [
        "| bits | variant | map | seeds | of the budget % | top-1 % | agrees with float % "
        "| constants, file of 8-bit ones |",
        "|---|---|---|---|---|---|---|---|",
        f"| 32 | float | - | - | - | {data['float']['top1']:.1f} | - | - |",
    ]
    groups: dict[tuple[int, str, str], list[dict[str, Any]]] = {}
    for row in data["rows"].values():
        groups.setdefault((row["bits"], row["variant"], row["map"]), []).append(row)
    for (bits, variant, name), rows in sorted(groups.items(), key=lambda group: -group[0][0]):
        cells: list[Any] = [bits, variant, name, len(rows)]
        cells.append(spread([100 * row["bitops"] / row["budget"] for row in rows]))
        cells += [spread([row[key] for row in rows]) for key in ("top1", "agreement")]
        cells.append(", ".join(f"{share:.2f}" for share in _sizes([row["bytes"] for row in rows])))
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join([*lines, "", _source(data)])


def _sizes(found: list[dict[str, int]]) -> tuple[float, float]:
    """Of the constants and of the file: shares of what they are with all weights in 8 bits."""
    constants = sum(size["constants"] for size in found)
    plain = sum(size["constants_int8"] for size in found)
    file = sum(size["file"] for size in found)
    return constants / plain, file / (file - constants + plain)


def _source(data: dict[str, Any]) -> str:
    compared = "; ".join(
        f"{name}: {row['verified']['differing_integers']} of the integers of "
        f"{row['verified']['tensors']} tensors on {row['verified']['images']} images differ, and "
        f"{row['verified']['differing_answers']} of {row['verified']['answers']} answers"
        for name, row in data["rows"].items()
        if "verified" in row
    )
    return training(data, f"PyTorch against the exported file: {compared or '-'}.")
