"""The tables made from speed.json and its likes."""

from __future__ import annotations

from typing import Any


def latency(data: dict[str, Any]) -> str:
    """Milliseconds of the first engine, and how many times as long each other one takes."""
    names = [engine["name"] for engine in next(iter(data["rows"].values()))["engines"]]
    lines = [
        "| model | batch | threads | " + " | ".join([f"{names[0]}, ms", *names[1:]]) + " |",
        "|---" * (3 + len(names)) + "|",
    ]
    for row in data["rows"].values():
        first, *others = row["engines"]
        ratios = ["-" if e["times"] is None else f"x{e['times']['median']:.2f}" for e in others]
        cells = [row["model"], row["batch"], row["threads"]]
        cells += [f"{first['milliseconds']['median']:.2f}", *ratios]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join([*lines, "", _source(data)])


def size(data: dict[str, Any]) -> str:
    """File size, memory and start of every engine, at the first batch and number of threads."""
    lines = [
        "| model | engine | file MB | peak MB | start ms | floats |",
        "|---|---|---|---|---|---|",
    ]
    seen = set()
    for row in data["rows"].values():
        if row["model"] not in seen:
            seen.add(row["model"])
            for e in row["engines"]:
                cells = [row["model"], e["name"], f"{e['file_bytes'] / 1e6:.1f}"]
                cells += [f"{e['peak_bytes_above_empty'] / 1e6:.0f}"]
                cells += [f"{e['start_seconds'] * 1e3:.0f}", e["precision"] or "none"]
                lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def qlinear(data: dict[str, Any]) -> str:
    """Time of each layer on each path, and its share of the vector unit's peak."""
    lines = [
        "| path | layer | rows x K x N | us | GMAC/s | of VNNI peak | 10th to 90th percentile |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in data["rows"]:
        cells = [row["path"], row["layer"], " x ".join(map(str, row["shape"]))]
        cells += [f"{row['microseconds']:.0f}", row["gmac_per_second"]]
        low, high = row["of_vnni_peak_percentiles_10_90"]
        cells += [f"{row['of_vnni_peak'] * 100:.0f} %", f"{low * 100:.0f} to {high * 100:.0f} %"]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    machine, versions = data["machine"], data["versions"]
    made = ", ".join(f"{name} {version}" for name, version in versions.items())
    source = f"One thread of {machine['processor']}, in turn with the peak loop; {made}."
    return "\n".join([*lines, "", source])


def exact(data: dict[str, Any]) -> str:
    """What the kernels were compared with, and how many integers differed."""
    lines = [
        "| map | tensors | runs | integers compared | differing |",
        "|---|---|---|---|---|",
    ]
    for name, r in data["rows"].items():
        cells = [name, r["tensors"], r["runs"], f"{r['integers'] / 1e6:.0f} M"]
        lines.append("| " + " | ".join(map(str, [*cells, r["differing_integers"]])) + " |")
    versions = ", ".join(f"{name} {version}" for name, version in data["versions"].items())
    source = (
        f"{data['model']}, paths {', '.join(data['paths'])}, threads "
        f"{', '.join(map(str, data['threads']))}, batches {', '.join(map(str, data['batches']))}, "
        f"and once by functions; {versions}; {data['machine']['processor']}."
    )
    return "\n".join([*lines, "", source])


def _source(data: dict[str, Any]) -> str:
    """What was measured where, with what, and how quiet it was there."""
    rows = list(data["rows"].values())
    versions = {", ".join(f"{k} {v}" for k, v in row["versions"].items()) for row in rows}
    machines = {
        f"{row['machine']['processor']}, {row['machine']['cores']} cores "
        f"({', '.join(row['machine']['features'])})"
        for row in rows
    }
    doubtful = sum(bool(row["doubts"]) for row in rows)
    quiet = f"The machine was noisy in {doubtful} of {len(rows)} rows." if doubtful else ""
    text = f"{'; '.join(sorted(versions))}; {'; '.join(sorted(machines))}. {quiet}"
    return text.strip()
