"""BitOPs: products of one image times the bits of both factors (Q-ViT, section 3.3; spec 6.5).

Linear layers and the two products of attention count; LayerNorm, Softmax, GELU, residual additions
and requantization do not. Where bits differ inside a tensor, every product counts with its own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnq.toolchain.edges import Edges
from mnq.toolchain.graph import Graph, Node
from mnq.toolchain.heads import Index, Parts, sizes_of_one_image, softmax_of, weight_of

END_BITS = 8
"""Of the first and the last layer of a uniform model, as the paper counts it."""


@dataclass(frozen=True)
class Product:
    """Products of the codes of two quantizers.

    left, right: quantizers as in `Parts`; counts (P_left, P_right): products of one image, in G,
    for every pair of their parts; end: whether it is the model's first or last layer.
    """

    node: str
    left: str
    right: str
    counts: NDArray[np.float64]
    end: bool = False

    def bitops(self, bits: Mapping[str, Any]) -> Any:
        """BitOPs in G, for vectors of bits (P,) of both quantizers: arrays, or tensors alike."""
        counts = self.counts
        left, right = bits[self.left], bits[self.right]
        if not isinstance(left, np.ndarray):
            counts = left.new_tensor(self.counts)
        return (left @ counts @ right).sum()


def products(graph: Graph, edges: Edges, parts: Parts) -> list[Product]:
    """What counts of a prepared graph, in its order."""
    found, sizes = [], sizes_of_one_image(graph)
    for node in graph:
        if node.op == "linear":
            end = edges.edges[node.inputs[0]].group == graph.input or node.name == graph.output
            found.append(replace(_linear(node, sizes[node.name], edges, parts), end=end))
        elif node.op == "attention":
            found.extend(_attention(node, sizes[node.name], edges, parts))
    return found


def bitops(found: list[Product], bits: Mapping[str, Any]) -> Any:
    """BitOPs of one image, in G, for the bits of every quantizer: vectors of one number a part."""
    return sum(product.bitops(bits) for product in found)


def uniform(found: list[Product], bits: int) -> float:
    """BitOPs in G where every factor has so many bits, those of the first and last layer 8."""
    return float(sum(p.counts.sum() * (END_BITS if p.end else bits) ** 2 for p in found))


def _linear(node: Node, size: tuple[int, ...], edges: Edges, parts: Parts) -> Product:
    reads, weight = edges.edges[node.inputs[0]].group, weight_of(node.name)
    outer, inner = node.parameters["weight"].shape
    tokens = prod(size[:-1])
    left = np.broadcast_to(parts.at(node.inputs[0]), (outer, inner))
    right = np.broadcast_to(parts.at(weight), (outer, inner))
    counts = _pairs(left, right, (parts.count(reads), parts.count(weight)))
    return Product(node.name, reads, weight, counts * (tokens * 1e-9))


def _attention(node: Node, size: tuple[int, ...], edges: Edges, parts: Parts) -> list[Product]:
    q, k, v = node.inputs
    groups = [edges.edges[name].group for name in node.inputs]
    windows, heads, queries, depth = size
    each = windows * queries * queries * depth * 1e-9
    softmax = softmax_of(node.name)
    part = {name: np.broadcast_to(parts.at(name), (heads, 1, 1)) for name in (q, k, v, softmax)}
    result = []
    pairs = ((q, groups[0], k, groups[1]), (softmax, softmax, v, groups[2]))
    for a, left, b, right in pairs:
        counts = _pairs(part[a], part[b], (parts.count(left), parts.count(right)))
        result.append(Product(node.name, left, right, counts * each))
    return result


def _pairs(left: Index, right: Index, counts: tuple[int, int]) -> NDArray[np.float64]:
    """How often each pair of parts meets."""
    result = np.zeros(counts)
    np.add.at(result, (left.ravel(), right.ravel()), 1)
    return result
