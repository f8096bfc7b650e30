"""Edits of a graph's nodes while it is prepared: find readers, replace, insert."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from mnq.toolchain.graph import Graph, Node

Nodes = dict[str, Node]
"""Nodes by name, in execution order. What the model returns is read by nodes of op `output`."""


def nodes_of(graph: Graph) -> Nodes:
    """The graph's nodes, and behind them one of op `output` for everything that it returns.

    A tensor that is returned thus has a reader, and is followed where it is replaced.
    """
    ends = (
        Node(f".output {i}", "output", (name,), graph.nodes[name].shape, "")
        for i, name in enumerate(graph.outputs)
    )
    return {**graph.nodes, **{node.name: node for node in ends}}


def graph_of(nodes: Nodes, given: str) -> Graph:
    """The graph of these nodes with `given` as input: all that what is returned depends on."""
    outputs = [node.inputs[0] for node in of(nodes, "output")]
    needed, stack = set(), [*outputs]
    while stack:
        name = stack.pop()
        if name not in needed:
            needed.add(name)
            stack.extend(nodes[name].inputs)
    kept = {name: node for name, node in nodes.items() if name in needed}
    return Graph(kept, given, outputs[-1], tuple(outputs[:-1]))


def of(nodes: Nodes, *ops: str) -> Iterator[Node]:
    """The nodes of these kinds, as they are when their turn comes: the loop may edit `nodes`."""
    for name in [n.name for n in nodes.values() if n.op in ops]:
        if name in nodes:
            yield nodes[name]


def users(nodes: Nodes, name: str) -> list[Node]:
    """The nodes that read a tensor."""
    return [node for node in nodes.values() if name in node.inputs]


def only_user(nodes: Nodes, name: str) -> Node | None:
    """The node that alone reads a tensor; None if there is no such node."""
    found = users(nodes, name)
    return found[0] if len(found) == 1 else None


def substitute(nodes: Nodes, old: str, new: Node) -> None:
    """Put `new` where `old` stood, and let all readers of `old` read `new`."""
    rebuilt = {}
    for name, node in nodes.items():
        if name == old:
            rebuilt[new.name] = new
        else:
            inputs = tuple(new.name if n == old else n for n in node.inputs)
            rebuilt[name] = replace(node, inputs=inputs)
    nodes.clear()
    nodes.update(rebuilt)


def insert(nodes: Nodes, node: Node) -> None:
    """Add a node right behind the last of its inputs."""
    rebuilt = {}
    missing = set(node.inputs)
    for name, other in nodes.items():
        rebuilt[name] = other
        missing.discard(name)
        if not missing and node.name not in rebuilt:
            rebuilt[node.name] = node
    nodes.clear()
    nodes.update(rebuilt)


def insert_before(nodes: Nodes, place: str, node: Node) -> None:
    """Add a node right before another one."""
    rebuilt: Nodes = {}
    for name, other in nodes.items():
        if name == place:
            rebuilt[node.name] = node
        rebuilt[name] = other
    nodes.clear()
    nodes.update(rebuilt)
