"""Training curves: accuracy by epoch, as the paper's Fig. 4."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.ticker import MaxNLocator

from mnq.toolchain.report.svg import MUTED, drawing

_COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00")  # Okabe and Ito
_MARKERS = "os^DvP"


def training_curve(
    runs: Mapping[str, list[dict[str, Any]]], reference: float | None, measure: str = "top1"
) -> str:
    """An SVG document: a line for every run, by name, over its history (toolchain.fit.Row).

    Epoch 0 is the model before training. reference: the float model's figure, a dashed line.
    measure: a key of the rows, in percent.
    """
    with drawing(3.6) as drawn:
        axes = drawn.axes[0]
        handles = []
        for index, history in enumerate(runs.values()):
            epochs = [row["epoch"] for row in history]
            look: dict[str, Any] = {
                "color": _COLOURS[index % len(_COLOURS)],
                "marker": _MARKERS[index % 6],
            }
            handles += axes.plot(epochs, [row[measure] for row in history], **look)
        names = list(runs)
        if reference is not None:
            handles.append(axes.axhline(reference, color=MUTED, linewidth=1, linestyle="--"))
            names.append("float model")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("epoch (0: before training)")
        axes.set_ylabel({"top1": "top-1, %", "agreement": "agreement with float, %"}[measure])
        axes.grid(axis="y")
        drawn.legend(handles, names)
    return drawn.document
