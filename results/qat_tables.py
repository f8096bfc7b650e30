"""The tables made from qat.json and qat_cost.json."""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from typing import Any


def judged(data: dict[str, Any]) -> str:
    """Every map and width by the number of epochs: means over the seeds, and their spread."""
    lines = [
        "| bits | map | epochs | seeds | top-1 % | agrees with float % | SQNR dB | recovered |",
        "|---|---|---|---|---|---|---|---|",
        f"| 32 | float | - | - | {data['float']['top1']:.1f} | - | - | - |",
    ]
    for (bits, name, epochs), rows in _groups(data):
        cells: list[Any] = [
            bits,
            name,
            epochs or "0 (calibrated only)",
            len(rows) if epochs else "-",
        ]
        for key in ("top1", "agreement", "logit_sqnr_db"):
            cells.append(spread([row[key] for row in rows]))
        before = [r["agreement"] for r in data["rows"].values() if _key(r) == (bits, name, 0)]
        if epochs and before:
            gained = statistics.mean(row["agreement"] for row in rows) - before[0]
            cells.append(f"{100 * gained / (100 - before[0]):.0f} %")
        else:
            cells.append("-")
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join([*lines, "", _source(data)])


def cost(data: dict[str, Any]) -> str:
    """Time and memory of a step by variant."""
    lines = ["| step | ms per image | times float | memory MB |", "|---|---|---|---|"]
    for name, row in data["rows"].items():
        cells = [name, f"{row['milliseconds_per_image']:.0f}", f"x{row['times_float']:.2f}"]
        lines.append("| " + " | ".join([*cells, f"{row['megabytes']:.0f}"]) + " |")
    versions = ", ".join(f"{k} {v}" for k, v in data["versions"].items())
    source = (
        f"{data['model']}, batch {data['batch']}, {data['threads']} threads, kernels by "
        f"{data['kernels']}; medians over steps in turns; {versions}; "
        f"{data['machine']['processor']}."
    )
    return "\n".join([*lines, "", source])


def products(data: dict[str, Any]) -> str:
    """Exact products of int8 codes in torch by type."""
    lines = ["| exact product of 8-bit codes in torch | ms |", "|---|---|"]
    lines += [f"| {name} | {ms:.1f} |" for name, ms in data["products"].items()]
    return "\n".join(lines)


def _key(row: dict[str, Any]) -> tuple[int, str, int]:
    return row["bits"], row["map"], row["epochs"]


def _groups(data: dict[str, Any]) -> Iterator[tuple[tuple[int, str, int], list[dict[str, Any]]]]:
    """The rows that differ in their seed only, wider codes first, in the order of epochs."""
    found: dict[tuple[int, str, int], list[dict[str, Any]]] = {}
    for row in data["rows"].values():
        found.setdefault(_key(row), []).append(row)
    names = list(dict.fromkeys(row["map"] for row in data["rows"].values()))
    yield from sorted(found.items(), key=lambda g: (-g[0][0], names.index(g[0][1]), g[0][2]))


def spread(values: list[float]) -> str:
    """The mean, and with several values their standard deviation."""
    mean = f"{statistics.mean(values):.1f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.1f}"


def _source(data: dict[str, Any]) -> str:
    verified = [row for row in data["rows"].values() if "verified" in row]
    compared = "; ".join(
        f"{row['map']}, {row['bits']} bits, {row['epochs']} epochs: "
        f"{row['verified']['differing_integers']} of the integers of "
        f"{row['verified']['tensors']} tensors on {row['verified']['images']} images differ"
        for row in verified
    )
    return training(
        data,
        "*recovered*: of the agreement that calibration alone lost. "
        f"PyTorch against the exported file after training: {compared or '-'}.",
    )


def training(data: dict[str, Any], remarks: str) -> str:
    """What the models were trained and judged on and how, remarks, and what did it."""
    rates = ", ".join(f"{rate} at {bits} bits" for bits, rate in data["rates"].items())
    versions = ", ".join(f"{k} {v}" for k, v in data["versions"].items())
    return (
        f"{data['model']}, trained on {data['images']['train']} with {' '.join(data['options'])}, "
        f"rate {rates}; judged on {data['float']['images']} images of {data['images']['judge']}. "
        f"{remarks} {versions}; {data['machine']['processor']}."
    )
