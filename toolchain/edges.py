"""Edges: which tensors share a quantizer, and how many bits each quantizer has (spec 1.7)."""

from __future__ import annotations

from dataclasses import dataclass, replace

from mnq.ops.errors import InputError
from mnq.toolchain.graph import Graph, Node
from mnq.toolchain.views import VIEWS

RESIDUAL_BITS = 16
INPUT_BITS = 8

# What multiplies, or looks up, 8-bit codes.
_NARROW = ("linear", "attention", "gelu", "matmul", "normalize")


@dataclass(frozen=True)
class Edge:
    """value = code * scale of `group` * `factor`; the group is named after its first tensor."""

    group: str
    factor: float


@dataclass(frozen=True)
class Edges:
    """The quantizers of a graph.

    edges: for every tensor, inner attention scores included.
    kinds: for every group `input`, `residual` (16 bits), `activation` (b bits) or `logits`
        (int32 accumulators at one scale; never calibrated).
    """

    edges: dict[str, Edge]
    kinds: dict[str, str]

    def bits(self, group: str, activation_bits: int) -> int:
        """Code width of a group's tensors."""
        fixed = {"input": INPUT_BITS, "residual": RESIDUAL_BITS, "logits": 32}
        return fixed.get(self.kinds[group], activation_bits)


def assign_edges(graph: Graph) -> Edges:
    """Groups and kinds for every tensor of a prepared graph.

    Views and concatenations share one quantizer; the residual stream (whatever an addition
    reads or writes, or a LayerNorm reads) has 16 bits, the rest the map's bits. What attention
    or GELU make has the map's bits in any case: their operators return 8-bit codes.

    Raises InputError if tensors of different factors are concatenated.
    """
    edges, residual = _classify(graph)
    groups = dict.fromkeys(edge.group for edge in edges.values())
    kinds = dict.fromkeys(groups, "activation")
    kinds.update((group, "residual") for group in groups if group in residual)
    kinds[graph.input] = "input"
    if graph.nodes[graph.output].op == "linear" and not graph.features:
        kinds[graph.output] = "logits"
    return Edges(edges, kinds)


def narrow(graph: Graph) -> Graph:
    """The graph with a `requantize` node wherever 8-bit codes are needed of the residual stream.

    Several readers of one tensor share it. Raises InputError as `assign_edges`.
    """
    edges, residual = _classify(graph)
    nodes: dict[str, Node] = {}
    for node in graph:
        inputs = list(node.inputs)
        for index, name in enumerate(_codes_read(node) if node.op in _NARROW else ()):
            group = edges[name].group
            if group in residual and group != graph.input:
                made = inputs[index] = f"{name}.narrow"
                source = graph.nodes[name]
                if made not in nodes:
                    nodes[made] = Node(made, "requantize", (name,), source.shape, source.module)
        nodes[node.name] = replace(node, inputs=tuple(inputs))
    return replace(graph, nodes=nodes)


def _classify(graph: Graph) -> tuple[dict[str, Edge], set[str]]:
    """The edge of every tensor, and the groups of the residual stream."""
    edges: dict[str, Edge] = {}
    residual: set[str] = set()
    normalized: set[str] = set()  # read by a LayerNorm, which takes codes of any width

    def merge(old: str, new: str) -> None:
        for name, edge in edges.items():
            if edge.group == old:
                edges[name] = Edge(new, edge.factor)
        for marked in (residual, normalized):
            if old in marked:
                marked.add(new)

    for node in graph:
        if node.op == "concat":
            first = edges[node.inputs[0]]
            for name in node.inputs[1:]:
                if edges[name].factor != first.factor:
                    raise InputError(
                        f"edges: expected tensors at one scale, found a concatenation of scaled "
                        f"and unscaled ones in module {node.module or '(top)'!r}"
                    )
                merge(edges[name].group, first.group)
            edges[node.name] = first
        elif node.op in VIEWS:
            edges[node.name] = edges[node.inputs[0]]
        elif node.op == "scale":
            above = edges[node.inputs[0]]
            edges[node.name] = Edge(above.group, above.factor * node.settings["factor"])
        else:
            if node.op == "attention":
                edges[node.scores] = Edge(node.scores, 1.0)
            edges[node.name] = Edge(node.name, 1.0)
            if node.op == "add" or (node.op == "linear" and len(node.inputs) > 1):
                residual.add(node.name)
                residual.update(edges[n].group for n in node.inputs[node.op == "linear" :])
            if node.op == "layernorm":
                normalized.add(edges[node.inputs[0]].group)

    narrow = {edges[n].group for node in graph if node.op in _NARROW for n in _codes_read(node)}
    made = {edges[node.name].group for node in graph if node.op in ("attention", "gelu")}
    residual = (residual | (normalized - narrow)) - made
    return edges, residual


def _codes_read(node: Node) -> tuple[str, ...]:
    """The inputs of an operator of `_NARROW` that must be 8-bit codes."""
    return node.inputs[:1] if node.op == "linear" else node.inputs
