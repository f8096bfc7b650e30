"""Draws the figures of the documents from the files in this folder.

python results/figures.py
"""

from __future__ import annotations

import json
from pathlib import Path

from mnq.ops.files import write_atomically
from mnq.toolchain.report.training import training_curve

RESULTS = Path(__file__).resolve().parent
DOCS = RESULTS.parent / "docs"


def main() -> None:
    """The curves of QAT of the micro ViT, a figure for every width, as the paper's Fig. 4."""
    data = json.loads((RESULTS / "qat_micro_vit.json").read_text())
    for bits in sorted({row["bits"] for row in data["rows"].values()}):
        followed = [r for r in data["rows"].values() if r["bits"] == bits and "curve" in r]
        curves = {row["map"]: row["curve"] for row in followed}
        drawn = training_curve(curves, data["float"]["top1"])
        write_atomically(DOCS / f"micro_vit_{bits}.svg", drawn.encode())


if __name__ == "__main__":
    main()
