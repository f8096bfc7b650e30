"""Prepare: fuse a captured graph into the operators that mnq has, and name its sites."""

from __future__ import annotations

from dataclasses import replace

from mnq.ops.errors import InputError
from mnq.toolchain.attention import fuse_attention
from mnq.toolchain.edges import narrow
from mnq.toolchain.graph import SITE_KINDS, Graph, Node
from mnq.toolchain.moves import settle_moves, simplify_moves
from mnq.toolchain.rewrite import Nodes, graph_of, nodes_of, of, substitute, users
from mnq.toolchain.views import VIEWS


def prepare(graph: Graph) -> Graph:
    """The graph with attention and residual additions fused, moves simplified, sites named.

    Raises InputError where a captured operator has no integer form, naming its module.
    """
    nodes = nodes_of(graph)
    _fold_gains(nodes)
    fuse_attention(nodes)
    settle_moves(nodes)
    _fuse_residuals(nodes)
    simplify_moves(nodes)
    _order_constants(nodes)
    reachable = graph_of(nodes, graph.input)
    _check(reachable)
    prepared = narrow(_rename(reachable))
    for node in prepared:
        if node.op in SITE_KINDS:
            settings = {**node.settings}
            node.site = settings.pop("site", node.name)
            node.settings = settings
    return prepared


def _fold_gains(nodes: Nodes) -> None:
    """A multiplication of every channel by a number goes into the layer before it (LayerScale)."""
    for gain in of(nodes, "gain"):
        layer, factors = nodes[gain.inputs[0]], gain.parameters["gain"]
        channels = factors.shape[-1:].numel()
        alone = layer.op in ("linear", "layernorm") and len(users(nodes, layer.name)) == 1
        same = gain.shape == layer.shape and channels == factors.numel() == layer.shape[-1]
        if alone and same:
            factors = factors.reshape(-1)
            weight, bias = layer.parameters["weight"], layer.parameters["bias"]
            by_channel = factors.reshape(-1, *[1] * (weight.ndim - 1))
            parameters = {"weight": weight * by_channel, "bias": bias * factors}
            del nodes[layer.name]
            substitute(nodes, gain.name, replace(layer, parameters=parameters))


def _fuse_residuals(nodes: Nodes) -> None:
    """add(r, linear) becomes a linear node with a second input, if nothing else reads it."""
    for add in of(nodes, "add"):
        for index in (1, 0):
            linear, rest = nodes[add.inputs[index]], nodes[add.inputs[1 - index]]
            alone = linear.op == "linear" and len(users(nodes, linear.name)) == 1
            if alone and len(linear.inputs) == 1 and rest.op != "constant":
                del nodes[linear.name]
                fused = replace(linear, inputs=(*linear.inputs, rest.name), shape=add.shape)
                substitute(nodes, add.name, fused)
                break


def _order_constants(nodes: Nodes) -> None:
    """Constants first; the order of everything else stays."""
    ordered = sorted(nodes.values(), key=lambda n: n.op != "constant")
    nodes.clear()
    nodes.update({node.name: node for node in ordered})


def _rename(graph: Graph) -> Graph:
    """Views, scales and constants numbered anew, so that names do not tell what was fused."""
    numbered = (*VIEWS, "scale", "constant")
    taken = {node.name for node in graph if node.op not in numbered}
    names: dict[str, str] = {}
    for node in graph:
        unique = stem = f"{node.module}.{node.op}".lstrip(".")
        count = 1
        while node.op in numbered and unique in taken:
            unique, count = f"{stem}_{count}", count + 1
        names[node.name] = unique if node.op in numbered else node.name
        taken.add(names[node.name])
    renamed = (
        replace(node, name=names[node.name], inputs=tuple(names[n] for n in node.inputs))
        for node in graph
    )
    return Graph(
        {node.name: node for node in renamed},
        names[graph.input],
        names[graph.output],
        tuple(names[name] for name in graph.features),
    )


def _check(graph: Graph) -> None:
    for node in graph:
        fault = ""
        if node.op == "matmul" and any(graph.nodes[n].op == "constant" for n in node.inputs):
            fault = "a product of two activations, found a constant factor"
        elif node.op == "add" and any(_per_window(graph.nodes[n], node) for n in node.inputs):
            fault = "a sum with what is the same everywhere, found a constant for every window"
        elif node.op == "gain":
            fault = "a product with a number per channel behind a layer, found another product"
        elif node.op == "norm":
            fault = "a norm inside functional.normalize, found one that is used otherwise"
        elif node.op == "softmax":
            fault = "softmax(q k + constant) v on (B, heads, N, d), found another softmax"
        elif node.op == "attention" and len(node.shape) != 4:
            fault = f"attention on (B, heads, N, d), found {len(node.shape)} axes"
        if fault:
            raise InputError(
                f"prepare: expected {fault} in module {node.module or '(top)'!r}; it has no "
                "integer operator"
            )
    tensors = [_without(graph, name, ("scale",)) for name in graph.outputs]
    if len({*tensors}) < len(tensors):
        raise InputError(
            "prepare: expected outputs that are different tensors, found one twice, but for a "
            "number that it is multiplied by; return it once"
        )
    if any(_without(graph, name, ("scale", *VIEWS)) == graph.input for name in tensors):
        raise InputError(
            "prepare: expected outputs that layers make, found a model that returns its input; "
            "check the model"
        )


def _per_window(term: Node, total: Node) -> bool:
    """Whether a term has several entries along the axis that grows with the batch."""
    if term.op != "constant" or -1 not in total.shape:
        return False
    shape = (1,) * (len(total.shape) - len(term.shape)) + term.shape
    return shape[total.shape.index(-1)] != 1


def _without(graph: Graph, name: str, ops: tuple[str, ...]) -> str:
    """The tensor that a chain of nodes of these kinds leads back to, by its first inputs."""
    while graph.nodes[name].op in ops:
        name = graph.nodes[name].inputs[0]
    return name
