"""Writes the tables of the documents (PAGES) from the files in this folder.

python results/tables.py            rewrite the documents
python results/tables.py --check    exit 1 if a document is not up to date
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import Any

import architecture_tables
import assignment_tables
import micro_tables
import overflow_tables
import qat_tables
import qvit_tables
import speed_tables

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "results"
PAGES = ("README.md", "docs/results.md", "docs/kernels.md", "docs/qat.md", "docs/models.md")
PAGES += ("docs/exactness.md", "docs/bits.md")
HEAD = "| map | bits | top-1 % | top-5 % | agrees with float % | logit SQNR dB | won / lost |"
RULE = "|---|---|---|---|---|---|---|"


def _row(name: str, bits: str, row: dict[str, Any]) -> str:
    def show(key: str) -> str:
        return "-" if row[key] is None else f"{row[key]:.1f}"

    pairs = "-" if row["gained"] is None else f"{row['gained']} / {row['lost']}"
    cells = [
        name,
        bits,
        show("top1"),
        show("top5"),
        show("agreement"),
        show("logit_sqnr_db"),
        pairs,
    ]
    return "| " + " | ".join(cells) + " |"


def _source(data: dict[str, Any]) -> str:
    rows = data["rows"].values()
    versions = sorted({", ".join(f"{k} {v}" for k, v in row["versions"].items()) for row in rows})
    images = data["calibration"]["images"]
    return (
        f"{data['model']}, {data['float']['images']} images of {data['images']}, calibrated on "
        f"{images} of {data['calibration']['source']}; {'; '.join(versions)}; "
        f"{data['machine']['processor']}."
    )


def accuracy(data: dict[str, Any]) -> str:
    """The uniform maps at every width, below the float model."""
    lines = [HEAD, RULE, _row("float", "32", data["float"])]
    for name, row in data["rows"].items():
        if "," not in name:
            method, bits = name.split()
            lines.append(_row(f"uniform:{method}", bits, row))
    return "\n".join([*lines, "", _source(data)])


def swaps(data: dict[str, Any]) -> str:
    """One method at one kind of site in a uniform:lut model: what each method costs."""
    lines = [HEAD, RULE, _row("uniform:lut", "8", data["rows"]["lut 8"])]
    for name, row in data["rows"].items():
        if "," in name:
            base, swap = name.split(", ")
            lines.append(_row(swap, base.split()[1], row))
    return "\n".join([*lines, "", _source(data)])


def verified(data: dict[str, Any]) -> str:
    """What was compared, integer by integer."""
    lines = [
        "| map | images | tensors | differing integers | file MB | accuracy run by |",
        "|---|---|---|---|---|---|",
    ]
    for name, row in data["rows"].items():
        v, size = row["verified"], row["file_bytes"] / 1e6
        lines.append(
            f"| {name} | {v['images']} | {v['tensors']} | {v['differing_integers']} | {size:.1f} "
            f"| {row['engine']} |"
        )
    return "\n".join(lines)


def calibration(data: dict[str, Any]) -> str:
    """Calibration choices at 8 and 6 bits side by side."""
    lines = [
        "| LayerNorms | ranges | scale | 8 bits: agrees %, SQNR dB | 6 bits: agrees %, SQNR dB |",
        "|---|---|---|---|---|",
    ]
    rows = data["rows"]
    for eight, six in zip(rows[::2], rows[1::2], strict=True):
        figures = [f"{r['agreement']:.1f}, {r['logit_sqnr_db']:.1f}" for r in (eight, six)]
        kind = "equalized" if eight["equalized"] else "as they are"
        scale = "a / (2^(b-1) - 1)" if eight["form"] == "ivit" else "2a / (2^b - 1)"
        lines.append(f"| {kind} | {eight['method']} | {scale} | {figures[0]} | {figures[1]} |")
    return "\n".join(lines)


def sizes(data: dict[str, Any]) -> str:
    """Every size: export time and memory, and what was compared."""
    lines = [
        "| model | weights | calibration images | export s | peak GB | file MB | images compared "
        "| tensors | differing integers | float tensors |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for name, r in sorted(data["rows"].items(), key=lambda row: row[1]["file_bytes"]):
        cells = [name, r["weights"], r["calibration_images"], r["export_seconds"]]
        cells += [r["export_gigabytes"], f"{r['file_bytes'] / 1e6:.1f}", r["images"], r["tensors"]]
        cells += [r["differing_integers"], r["float_tensors"]]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines)


def _read(name: str) -> dict[str, Any]:
    data: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text())
    return data


def render(text: str) -> str:
    """`text` with the content of every table marker written anew."""
    measured = _read("deit_t_accuracy")
    choices = _read("deit_t_calibration")
    assigned = _read("deit_t_assignment")
    exported = _read("sizes")
    tables = {
        "accuracy": lambda: accuracy(measured),
        "swaps": lambda: swaps(measured),
        "verified": lambda: verified(measured),
        "calibration": lambda: calibration(choices),
        "sizes": lambda: sizes(exported),
        "assigned_8": lambda: assignment_tables.judged(assigned, 8),
        "assigned_6": lambda: assignment_tables.judged(assigned, 6),
        "paper_counts": lambda: assignment_tables.paper_counts(assigned),
        "stability": lambda: assignment_tables.stability(assigned),
        "sweep": lambda: assignment_tables.sweep(assigned),
        "costs": lambda: assignment_tables.costs(assigned),
        "front": lambda: assignment_tables.front(assigned),
        "seconds": lambda: assignment_tables.seconds(assigned),
        "speed": lambda: speed_tables.latency(_read("speed")),
        "speed_avx512": lambda: speed_tables.latency(_read("speed_avx512")),
        "memory": lambda: speed_tables.size(_read("speed")),
        "kernels": lambda: speed_tables.exact(_read("kernels")),
        "qlinear": lambda: speed_tables.qlinear(_read("qlinear")),
        "qat": lambda: qat_tables.judged(_read("qat_deit_t")),
        "micro": lambda: micro_tables.bundled(_read("micro_accuracy")),
        "micro_vit": lambda: qat_tables.judged(_read("qat_micro_vit")),
        "micro_swin": lambda: qat_tables.judged(_read("qat_micro_swin")),
        "bits_micro": lambda: qvit_tables.learned(_read("qvit_micro_vit")),
        "bits_deit": lambda: qvit_tables.learned(_read("qvit_deit_t")),
        "architectures": lambda: architecture_tables.tried(_read("architectures")),
        "overflow": lambda: overflow_tables.spare(_read("overflow")),
        "qat_cost": lambda: qat_tables.cost(_read("qat_cost")),
        "qat_products": lambda: qat_tables.products(_read("qat_cost")),
    }

    def fill(match: re.Match[str]) -> str:
        name = match.group(1)
        return f"<!-- table:{name} -->\n{tables[name]()}\n<!-- end -->"

    return re.sub(r"<!-- table:(\w+) -->.*?<!-- end -->", fill, text, flags=re.DOTALL)


def main() -> None:
    """Rewrite or check the pages with tables."""
    stale = []
    for name in PAGES:
        path = ROOT / name
        text = path.read_text()
        if render(text) != text:
            stale.append(name)
            if "--check" not in sys.argv:
                path.write_text(render(text))
    if stale and "--check" in sys.argv:
        sys.exit(f"{', '.join(stale)}: not up to date; run python results/tables.py")


if __name__ == "__main__":
    main()
