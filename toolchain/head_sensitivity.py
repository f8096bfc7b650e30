"""What a head costs if it alone has few bits (Q-ViT, section 3.2 and Figure 2b)."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from mnq.toolchain.graph import Graph, Node
from mnq.toolchain.heads import softmax_of, weight_of
from mnq.toolchain.learned import LearnedQuantizers
from mnq.toolchain.program import Program

FEW_BITS = 2


def head_sensitivity(
    quantizers: LearnedQuantizers,
    graph: Graph,
    build: Callable[[], Program],
    judge: Callable[[Program], float],
) -> Iterator[tuple[str, int, float]]:
    """Module, head and the points that `judge` gives less if that head has FEW_BITS.

    quantizers: with a scale for every width and heads of their own; all bits are 8 meanwhile and
    afterwards. build: the program of the bits in use.
    """
    bits = quantizers.bits
    assert bits is not None, "quantizers whose bits can be set"
    with torch.no_grad():
        bits.fill_(8)
        reference = judge(build())
        for node in graph:
            for head, places in enumerate(_places(quantizers, graph, node)):
                bits[places] = FEW_BITS
                yield node.module or node.name, head, reference - judge(build())
                bits[places] = 8


def _places(quantizers: LearnedQuantizers, graph: Graph, node: Node) -> list[list[int]]:
    """Where the learned bits of each head of an attention node are."""
    if node.op != "attention":
        return []
    parts, edges = quantizers.parts, quantizers.edges.edges
    count = parts.count(softmax_of(node.name))
    places: list[list[int]] = [[] for _ in range(count)]
    groups = [edges[name].group for name in node.inputs]
    named = {*groups, *(weight_of(group) for group in groups), node.name, softmax_of(node.name)}
    named |= {weight_of(reader) for reader in _readers(graph, node)}
    for name in sorted(named & set(quantizers.slots)):
        slot = quantizers.slots[name]
        if slot.bits is None or slot.parts % count:
            continue
        for part in range(slot.parts):
            places[part % count].append(slot.bits + part)
    return places if count > 1 else []


def _readers(graph: Graph, node: Node) -> list[str]:
    """The layers that read what attention makes, behind the views."""
    found, waiting = [], graph.consumers(node.name)
    while waiting:
        reader = waiting.pop()
        if reader.op == "linear":
            found.append(reader.name)
        elif reader.op in ("reshape", "transpose", "gather", "slice", "select"):
            waiting += graph.consumers(reader.name)
    return found
