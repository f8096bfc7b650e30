"""The page of a bit search: bits of heads by layer, of GELU, of the first and last layer.

Figures 2b, 4 and 5 and Table 2 of the Q-ViT paper, for one checkpoint.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from mnq.toolchain.bitops import bitops, products, uniform
from mnq.toolchain.edges import Edges
from mnq.toolchain.graph import Graph, Node
from mnq.toolchain.heads import Parts, softmax_of, weight_of
from mnq.toolchain.report.markup import Html, element, join, number, table
from mnq.toolchain.report.page import document
from mnq.toolchain.report.svg import MUTED, drawing
from mnq.toolchain.widths import LARGEST, SMALLEST, Widths

OPERANDS = ("queries Q", "keys K", "values V", "attention scores A", "head outputs")
_COLOURS = ("#0072b2", "#56b4e9", "#009e73", "#e69f00", "#cc79a7")  # Okabe and Ito
_INTRODUCTION = (
    "Every part of this model has as many bits as training found it to need, under a budget of "
    "BitOPs: products times the bits of both factors. What follows is what is deployed."
)


@dataclass(frozen=True)
class Sensitivity:
    """What a head costs if it alone has few bits: rows of layer, head and points of top-1 lost.

    measure: what was judged, "top-1" or "agreement with the float model"; images: how many.
    """

    bits: int
    measure: str
    images: int
    reference: float
    rows: list[tuple[str, int, float]] = field(default_factory=list)


@dataclass(frozen=True)
class Searched:
    """A model with the bits that were found. budget: bits of the uniform model of equal cost."""

    name: str
    graph: Graph
    edges: Edges
    widths: Widths
    budget: int

    def vectors(self) -> dict[str, Any]:
        """Bits of every quantizer, one number for each part."""
        found = {g: self.widths.tensor(g, self.edges) for g in self.edges.kinds}
        for node in self.graph:
            found[weight_of(node.name)] = self.widths.weight(weight_of(node.name))
            found[softmax_of(node.name)] = self.widths.softmax(softmax_of(node.name))
        return {key: bits.astype(np.float64) for key, bits in found.items()}

    def heads(self) -> list[tuple[str, list[list[int]]]]:
        """For every attention: its name, and the bits of the heads of each of OPERANDS."""
        result = []
        for node in self.graph:
            if node.op == "attention":
                tensors = [*node.inputs, softmax_of(node.name), node.name]
                result.append((_layer(node), [self._of_heads(name) for name in tensors]))
        return result

    def _of_heads(self, tensor: str) -> list[int]:
        edge = self.edges.edges.get(tensor)
        bits = self.widths.softmax(tensor)
        if edge is not None:
            bits = self.widths.tensor(edge.group, self.edges)
        return [int(b) for b in np.atleast_1d(bits[self.widths.parts.at(tensor)]).ravel()]

    def gelus(self) -> list[tuple[str, int]]:
        """For every GELU: its name, and the bits of what it makes."""
        nodes = [node for node in self.graph if node.op == "gelu"]
        groups = [self.edges.edges[node.name].group for node in nodes]
        return [
            (_layer(node), int(self.widths.tensor(group, self.edges).max()))
            for node, group in zip(nodes, groups, strict=True)
        ]

    def ends(self) -> list[tuple[str, int, int]]:
        """The first and last layer: name, bits of the weight, bits of what it reads."""
        found = [p for p in products(self.graph, self.edges, self.widths.parts) if p.end]
        vectors = self.vectors()
        return [(p.node, int(vectors[p.right].max()), int(vectors[p.left].max())) for p in found]


def render(searched: Searched, sensitivity: Sensitivity | None = None) -> str:
    """The page as an HTML file. The same input gives the same text."""
    sections = [
        ("heads", "Bits of heads, layer by layer", _heads(searched)),
        ("gelu", "Bits of GELU", _gelus(searched)),
        ("ends", "First and last layer", _ends(searched)),
    ]
    if sensitivity is not None:
        sections.insert(0, ("sensitivity", "Sensitivity of heads", _sensitivity(sensitivity)))
    title = f"{searched.name}: learned bit-widths"
    return document(title, _INTRODUCTION, _headline(searched), sections)


def _headline(searched: Searched) -> Html:
    counted = products(searched.graph, searched.edges, searched.widths.parts)
    cost = float(bitops(counted, searched.vectors()))
    whole = uniform(products(searched.graph, searched.edges, Parts()), searched.budget)
    vectors = searched.vectors()
    weights = [
        (vectors[weight_of(n.name)].mean(), n.parameters["weight"].numel())
        for n in searched.graph
        if n.op == "linear"
    ]
    mean = sum(bits * count for bits, count in weights) / sum(count for _, count in weights)
    tiles = (
        (f"{cost:.4g} G", "BitOPs of one image"),
        (f"{whole:.4g} G", f"budget: {searched.budget} bits everywhere"),
        (number(mean, 2), "bits of a weight, on average"),
    )
    items = [element("li", element("b", value), text) for value, text in tiles]
    return element("ul", *items, class_="tiles")


def _heads(searched: Searched) -> list[Html]:
    layers = searched.heads()
    if not layers:
        return []
    with drawing(1.9 * len(OPERANDS) * 0.72, rows=len(OPERANDS), sharex=True, sharey=True) as drawn:
        for axes, index in zip(drawn.axes, range(len(OPERANDS)), strict=True):
            _boxes(axes, [bits[index] for _, bits in layers], _COLOURS[index])
            axes.set_title(OPERANDS[index])
            axes.set_ylabel("bits")
        _layers(drawn.axes[-1], [name for name, _ in layers])
        drawn.legend(
            [
                Patch(facecolor="#cccccc", edgecolor=MUTED),
                Line2D([], [], color="black"),
                Line2D([], [], color="black", marker="x", linestyle=""),
            ],
            ["half of the heads", "median", "mean"],
        )
    text = "As Figure 4 of the paper: a box holds the middle half of a layer's heads."
    caption = element("figcaption", text)
    figure = drawn.html("bh", "Bits of the heads of every layer, as box plots")
    heads = ["layer", *OPERANDS]
    rows = [(name, *(" ".join(map(str, each)) for each in bits)) for name, bits in layers]
    return [element("figure", figure, caption), table(heads, rows, "numbers")]


def _boxes(axes: Axes, rows: Sequence[list[int]], colour: str) -> None:
    drawn = axes.boxplot(
        rows,
        positions=range(len(rows)),
        widths=0.6,
        showmeans=True,
        patch_artist=True,
        medianprops={"color": "black"},
        meanprops={"marker": "x", "markeredgecolor": "black", "markersize": 5},
        flierprops={"marker": "o", "markersize": 4, "markeredgecolor": colour},
    )
    for box in drawn["boxes"]:
        box.set(facecolor=colour, alpha=0.55, edgecolor=MUTED)
    axes.set_ylim(SMALLEST - 0.5, LARGEST + 0.5)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(axis="y")


def _layers(axes: Axes, names: Sequence[str]) -> None:
    axes.set_xticks(range(len(names)), [str(index + 1) for index in range(len(names))])
    axes.set_xlabel("layer")


def _gelus(searched: Searched) -> list[Html]:
    found = searched.gelus()
    if not found:
        return []
    with drawing(2.4) as drawn:
        axes = drawn.axes[0]
        axes.plot([bits for _, bits in found], marker="o", color=_COLOURS[0])
        axes.axhline(searched.budget, color=MUTED, linestyle="--", linewidth=1)
        axes.set_ylim(SMALLEST - 0.5, LARGEST + 0.5)
        axes.set_ylabel("bits")
        axes.grid(axis="y")
        _layers(axes, [name for name, _ in found])
    figure = drawn.html("bg", "Bits of what GELU makes, by layer")
    text = f"As Figure 5 of the paper. Dashed: the {searched.budget} bits of a uniform model."
    return [element("figure", figure, element("figcaption", text))]


def _ends(searched: Searched) -> list[Html]:
    rows = [(name, f"{w} / {a}") for name, w, a in searched.ends()]
    text = "As Table 2 of the paper: bits of the weight / of what it reads. Images have 8 bits."
    return [table(["layer", "W / A"], rows, "numbers"), element("p", text, class_="note")]


def _sensitivity(found: Sensitivity) -> list[Html]:
    layers = list(dict.fromkeys(layer for layer, _, _ in found.rows))
    with drawing(2.8) as drawn:
        axes, place, ticks = drawn.axes[0], 0, []
        for number_, layer in enumerate(layers):
            own = [(head, lost) for name, head, lost in found.rows if name == layer]
            places = [place + index for index in range(len(own))]
            axes.bar(places, [lost for _, lost in own], color=_COLOURS[number_ % len(_COLOURS)])
            ticks += [(at, str(head + 1)) for at, (head, _) in zip(places, own, strict=True)]
            place += len(own) + 1
        axes.set_xticks([at for at, _ in ticks], [label for _, label in ticks])
        axes.set_xlabel("head, layer by layer")
        axes.set_ylabel(f"{found.measure} lost, points")
        axes.grid(axis="y")
    figure = drawn.html("bs", f"Loss of {found.measure} if one head has {found.bits} bits")
    text = join(
        f"As Figure 2b of the paper: all is quantized to 8 bits, but for one head, whose query, "
        f"key, value, softmax weights, output and weights have {found.bits}. With 8 bits "
        f"everywhere {found.measure} is {found.reference:.2f} % on {found.images} images."
    )
    return [element("figure", figure, element("figcaption", text))]


def _layer(node: Node) -> str:
    return node.module or node.name
