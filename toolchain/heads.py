"""Heads: which parts of a tensor have a quantizer of their own, where attention keeps heads apart.

Q-ViT (section 3.3) gives every head its own bit-width and scale: of its query, key, value, softmax
weights and output, and of the slices of the weights that make or read them. Which channels are a
head's is found by running the views in between on the channels' numbers.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray

from mnq.ops.errors import InputError
from mnq.toolchain.graph import Graph, Node
from mnq.toolchain.views import VIEWS

Index = NDArray[np.int64]

_MOVES = ("reshape", "transpose", "select", "slice", "gather", "scale")

LAYOUTS = ("paper", "published", "none")
"""Which slices of a weight are a head's. `paper`: those that make its query, key and value, and
those that read its output (Eq. 10). `published`: the code's, which has the two axes the other way
round (spec 6.3), and a scale for all heads of a tensor that have equal bits. `none`: no heads."""


def weight_of(node: str) -> str:
    """Name of the quantizer of a linear layer's weight."""
    return f"{node}:weight"


def softmax_of(node: str) -> str:
    """Name of the quantizer of the softmax weights inside an attention node."""
    return f"{node}:softmax"


@dataclass(frozen=True)
class Parts:
    """The quantizers that are split into parts.

    counts: by quantizer (a group of edges, or `weight_of`, `softmax_of`), 1 where absent.
    index: part of each feature: for the tensors that carry such codes, broadcastable to their
        features: (K,) beside linear layers, (H, 1, 1) beside attention; for a weight to (O, K).
    tensors: parts of one tensor as the published code has them, by quantizer: q, k and v are three.
    """

    counts: dict[str, int] = field(default_factory=dict)
    index: dict[str, Index] = field(default_factory=dict)
    tensors: dict[str, Index] = field(default_factory=dict)
    layout: str = "none"

    def count(self, quantizer: str) -> int:
        """Number of parts of a quantizer."""
        return self.counts.get(quantizer, 1)

    def at(self, tensor: str) -> Index:
        """Part of each feature of a tensor or weight; one number where it has one part."""
        return self.index.get(tensor, np.zeros((), np.int64))


def sizes_of_one_image(graph: Graph) -> dict[str, tuple[int, ...]]:
    """The shape of every tensor for a batch of one: windows may stand beside the images."""
    sizes: dict[str, tuple[int, ...]] = {}
    for node in graph:
        if node.op in VIEWS:
            inputs = [torch.zeros(sizes[name], dtype=torch.int8) for name in node.inputs]
            moved = VIEWS[node.op].run(inputs, 1, {"shape": node.shape, **node.settings})
            sizes[node.name] = tuple(moved.shape)
        elif node.inputs:
            images = sizes[node.inputs[0]]
            sizes[node.name] = tuple(
                images[axis] if n == -1 else n for axis, n in enumerate(node.shape)
            )
        else:
            sizes[node.name] = tuple(1 if n == -1 else n for n in node.shape)
    return sizes


def find_parts(graph: Graph, layout: str) -> Parts:
    """The parts of a prepared graph's quantizers.

    A tensor whose heads are not whole channels of a linear layer, or that something other than
    attention reads too, stays in one part.

    Raises InputError for an unknown layout.
    """
    if layout not in LAYOUTS:
        raise InputError(f"heads: expected {' or '.join(LAYOUTS)}, found {layout!r}; choose one")
    parts, sizes = Parts(layout=layout), sizes_of_one_image(graph)
    if layout != "none":
        for node in graph:
            if node.op == "attention":
                _split_attention(graph, node, sizes, parts)
    return parts


def _split_attention(
    graph: Graph, node: Node, sizes: dict[str, tuple[int, ...]], parts: Parts
) -> None:
    """Enter the parts around one attention node."""
    sources = [_source(graph, name) for name in node.inputs]
    pairs = zip(node.inputs, sources, strict=True)
    channels = [_channels(graph, name, source) for name, source in pairs]
    heads = None if channels[0] is None else _number(channels[0])
    if heads is None:
        return
    count = int(heads.max()) + 1
    for source in dict.fromkeys(s.name for s in sources):
        read = [j for j, s in enumerate(sources) if s.name == source]
        sets = [channels[j] for j in read]
        if all(found is not None for found in sets) and _private(graph, source, node):
            _split_layer(graph.nodes[source], [node.inputs[j] for j in read], sets, count, parts)
    parts.counts[softmax_of(node.name)] = count
    parts.index[softmax_of(node.name)] = heads[:, None, None]
    _split_output(graph, node, sizes, heads, parts)


def _split_layer(
    source: Node, reads: list[str], sets: list[Index | None], heads: int, parts: Parts
) -> None:
    """A linear layer that makes q, k, v or several of them: a part for each set of channels."""
    width = source.shape[-1]
    rows = np.concatenate([np.asarray(found) for found in sets])  # (heads of all reads, d)
    _, first = np.unique(rows, axis=0, return_index=True)
    unique = rows[first]
    if unique.size != width or len(np.unique(unique)) != width:
        return
    unique = unique[np.argsort(unique[:, 0])]
    part = np.empty(width, np.int64)
    part[unique] = np.arange(len(unique))[:, None]
    parts.counts[source.name], parts.index[source.name] = len(unique), part
    for name, found in zip(reads, sets, strict=True):
        parts.index[name] = part[np.asarray(found)[:, 0]][:, None, None]
    parts.tensors[source.name] = np.arange(len(unique)) // heads
    columns = source.parameters["weight"].shape[1]
    weight = weight_of(source.name)
    parts.counts[weight], parts.index[weight] = len(unique), part[:, None]
    if parts.layout == "published" and columns % heads == 0 and len(unique) % heads == 0:
        groups = np.arange(columns) // (columns // heads)
        parts.index[weight] = part[:, None] // heads * heads + groups
    parts.tensors[weight] = parts.tensors[source.name]


def _split_output(
    graph: Graph, node: Node, sizes: dict[str, tuple[int, ...]], heads: Index, parts: Parts
) -> None:
    """What attention makes, if one linear layer reads it."""
    name, readers, count = node.name, graph.consumers(node.name), int(heads.max()) + 1
    numbers = torch.from_numpy(heads)[None, :, None, None].expand(sizes[node.name])
    while len(readers) == 1 and readers[0].op in _MOVES:
        numbers = _moved(readers[0], numbers)
        name, readers = readers[0].name, graph.consumers(readers[0].name)
    if len(readers) != 1 or readers[0].op != "linear" or readers[0].inputs[0] != name:
        return
    rows = numbers.reshape(-1, numbers.shape[-1]).numpy()
    if not (rows == rows[:1]).all():
        return
    layer, weight = readers[0], weight_of(readers[0].name)
    parts.counts[node.name] = parts.counts[weight] = count
    parts.index[node.name], parts.index[name] = heads[:, None, None], rows[0].astype(np.int64)
    parts.index[weight] = parts.index[name][None, :]
    outer = layer.shape[-1]
    if parts.layout == "published" and outer % count == 0:
        parts.index[weight] = (np.arange(outer) // (outer // count))[:, None]
    parts.tensors[node.name] = parts.tensors[weight] = np.zeros(count, np.int64)


def _source(graph: Graph, name: str) -> Node:
    """The node whose codes a tensor holds, behind the views."""
    node = graph.nodes[name]
    while node.op in _MOVES:
        node = graph.nodes[node.inputs[0]]
    return node


def _channels(graph: Graph, name: str, source: Node) -> Index | None:
    """The channels (H, d) of a linear layer that each head of a tensor (B, H, N, d) holds.

    None if they differ from token to token, or no linear layer made them.
    """
    if source.op != "linear":
        return None

    def value(name: str) -> torch.Tensor:
        node = graph.nodes[name]
        if node is source:
            return torch.arange(source.shape[-1]).expand(1, *source.shape[1:])
        return _moved(node, value(node.inputs[0]))

    found = value(name)
    if found.ndim != 4 or not bool((found == found[:1, :, :1]).all()):
        return None
    return found[0, :, 0].numpy().astype(np.int64)


def _moved(node: Node, value: torch.Tensor) -> torch.Tensor:
    """What a view, or a multiplication by a number, makes of the numbers of one image."""
    if node.op == "scale":
        return value
    return VIEWS[node.op].run([value], 1, {"shape": node.shape, **node.settings})


def _number(channels: Index) -> Index:
    """The head of each row: rows with the same channels, in several windows, are one head."""
    return np.unique(channels[:, 0], return_inverse=True)[1].reshape(-1).astype(np.int64)


def _private(graph: Graph, source: str, node: Node) -> bool:
    """Whether nothing but views and this attention node read a tensor."""
    readers = graph.consumers(source)
    return all(
        reader is node or (reader.op in _MOVES and _private(graph, reader.name, node))
        for reader in readers
    )
