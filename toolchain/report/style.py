"""How each method looks in every figure: colours that everyone tells apart, and shapes for grey."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from mnq.toolchain.explain import name as method_name
from mnq.toolchain.report.sites import Site
from mnq.toolchain.report.view import ORDER

SELECTED = "#000000"


class Look(NamedTuple):
    """Of one method."""

    colour: str
    marker: str
    hatch: str


_LOOKS = (  # Okabe and Ito's palette, in the registry's order of methods
    Look("#0072b2", "o", ""),
    Look("#e69f00", "s", "////"),
    Look("#009e73", "^", "xxxx"),
    Look("#cc79a7", "D", "...."),
    Look("#56b4e9", "v", "\\\\\\\\"),
    Look("#d55e00", "P", "++++"),
)
LOOKS = {method: _LOOKS[index % len(_LOOKS)] for index, method in enumerate(ORDER)}


def line_handle(method: str, label: str = "") -> Line2D:
    """What a legend shows for a line of a method."""
    look = LOOKS[method]
    return Line2D([], [], color=look.colour, marker=look.marker, label=label or method_name(method))


def bar_handle(method: str) -> Patch:
    """What a legend shows for a bar of a method."""
    look = LOOKS[method]
    return Patch(facecolor=look.colour, hatch=look.hatch, edgecolor="white", linewidth=0)


def positions(sites: Sequence[Site], most: int = 30) -> tuple[list[int], list[str]]:
    """Where an axis over sites has labels (indices), and the labels: position, then block.

    There are at most about `most` of them, evenly spread.
    """
    step = -(-len(sites) // most)
    indices = list(range(0, len(sites), step))
    return indices, [f"{sites[i].position}\n{_block(sites[i])}" for i in indices]


def _block(site: Site) -> str:
    return f"b{site.block}" if site.block else "\N{EN DASH}"
