"""Moves: views in a captured graph, simplified and brought to where operators can absorb them."""

from __future__ import annotations

import math
from dataclasses import replace

import torch

from mnq.toolchain.graph import Node
from mnq.toolchain.rewrite import Nodes, insert, of, only_user, users
from mnq.toolchain.views import VIEWS

_MOVES = ("reshape", "transpose", "gather")


def settle_moves(nodes: Nodes) -> None:
    """Moves of whole tokens go through linear layers, which work token by token.

    Down where a linear layer reads moved tokens, up where an addition reads moved ones: what
    partitions tokens into windows then stands next to attention, and the addition next to the
    layer that it belongs to.
    """
    for linear in of(nodes, "linear"):
        chain = _chain_above(nodes, linear)
        if any(move.op != "reshape" for move in chain):
            _hop(nodes, linear, chain, down=True)
    for linear in of(nodes, "linear"):
        chain = _chain_below(nodes, linear)
        reader = only_user(nodes, chain[-1].name) if chain else None
        if reader is not None and reader.op == "add":
            _hop(nodes, linear, chain, down=False)


def _chain_above(nodes: Nodes, linear: Node) -> list[Node]:
    """The moves of whole tokens right before a layer that nothing else reads, in order."""
    chain: list[Node] = []
    node = nodes[linear.inputs[0]]
    while node.op in _MOVES and only_user(nodes, node.name) and _moves_tokens(nodes, node):
        chain.insert(0, node)
        node = nodes[node.inputs[0]]
    return chain


def _chain_below(nodes: Nodes, linear: Node) -> list[Node]:
    """The moves and cuts of whole tokens right behind a layer that nothing else reads."""
    chain: list[Node] = []
    node = only_user(nodes, linear.name)
    while node and node.op in (*_MOVES, "slice") and _moves_tokens(nodes, node):
        chain.append(node)
        node = only_user(nodes, node.name)
    return chain


def _moves_tokens(nodes: Nodes, move: Node) -> bool:
    """Whether a view leaves the last axis alone."""
    before, last = nodes[move.inputs[0]].shape, len(move.shape) - 1
    if move.op == "reshape":
        return before[-1] == move.shape[-1] != -1
    if move.op == "transpose":
        return bool(move.settings["perm"][-1] == last)
    return bool(move.settings["axis"] != last)


def _hop(nodes: Nodes, linear: Node, chain: list[Node], down: bool) -> None:
    """Exchange a linear layer and the moves next to it."""
    first, last = chain[0], chain[-1]
    length = linear.shape[-1] if down else nodes[linear.inputs[0]].shape[-1]
    source = first.inputs[0] if down else linear.inputs[0]
    top = linear.name if down else source
    moved: list[Node] = []
    for move in chain:
        shape = (*move.shape[:-1], length)
        moved.append(replace(move, inputs=(moved[-1].name if moved else top,), shape=shape))
    outer = nodes[source].shape if down else last.shape
    inputs = (source if down else last.name,)
    layer = replace(linear, inputs=inputs, shape=(*outer[:-1], linear.shape[-1]))
    made = [layer, *moved] if down else [*moved, layer]
    # What read the lower end of the old order reads that of the new one.
    old, new = (linear.name, last.name) if down else (last.name, linear.name)
    place = linear.name if down else last.name
    names = {node.name for node in made}
    rebuilt: Nodes = {}
    for name, node in nodes.items():
        if name == place:
            rebuilt.update({node.name: node for node in made})
        elif name not in names:
            read = tuple(new if n == old else n for n in node.inputs)
            rebuilt[name] = replace(node, inputs=read)
    nodes.clear()
    nodes.update(rebuilt)


def simplify_moves(nodes: Nodes) -> None:
    """A chain of moves that keeps the order becomes one reshape."""
    for last in of(nodes, *_MOVES):
        if any(u.op in _MOVES for u in users(nodes, last.name)):
            continue
        chain = [nodes[last.name]]
        while (above := nodes[chain[0].inputs[0]]).op in _MOVES and len(
            users(nodes, above.name)
        ) == 1:
            chain.insert(0, above)
        for start in range(len(chain) - 1):
            rest = chain[start:]
            if _keeps_order(nodes[rest[0].inputs[0]].shape, rest):
                for node in rest:
                    del nodes[node.name]
                # `last` was deleted; its replacement keeps its name and place in the order.
                insert(nodes, replace(rest[-1], op="reshape", inputs=rest[0].inputs, settings={}))
                break


def _keeps_order(shape: tuple[int, ...], chain: list[Node]) -> bool:
    order = torch.arange(_some_rows(shape, chain) * _row(shape))
    order = order.reshape(-1, *shape[1:]) if shape[0] == -1 else order.reshape(shape)
    moved = order
    for node in chain:
        moved = VIEWS[node.op].run([moved], 1, {"shape": node.shape, **node.settings})
    return bool((moved.reshape(-1) == order.reshape(-1)).all())


def _row(shape: tuple[int, ...]) -> int:
    """Elements that a tensor has for every one along the axis that grows."""
    return math.prod(size for size in shape if size != -1)


def _some_rows(shape: tuple[int, ...], chain: list[Node]) -> int:
    """A length of the axis that grows, above 1, for which all shapes are whole."""
    if -1 not in shape:
        return 1
    rows = 2
    for node in chain:
        row = _row(node.shape)
        rows = math.lcm(rows, row // math.gcd(row, _row(shape)))
    return rows
