"""Prepare: fuse a captured graph into the operators that mnq has, and name its sites."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch

from mnq.ops.errors import InputError
from mnq.toolchain.graph import SITE_KINDS, VIEWS, Graph, Node

_MOVES = ("reshape", "transpose")


def prepare(graph: Graph) -> Graph:
    """The graph with attention and residual additions fused, moves simplified, sites named.

    Raises InputError where a captured operator has no integer form, naming its module.
    """
    nodes = dict(graph.nodes)
    _fuse_attention(nodes)
    _fuse_residuals(nodes)
    _simplify_moves(nodes)
    _order_constants(nodes)
    prepared = _rename(Graph(_reachable(nodes, graph.output), graph.input, graph.output))
    for node in prepared:
        if node.op in SITE_KINDS:
            settings = {**node.settings}
            node.site = settings.pop("site", node.name)
            node.settings = settings
    _check(prepared)
    return prepared


def _of(nodes: dict[str, Node], *ops: str) -> Iterator[Node]:
    """The nodes of these kinds, as they are when their turn comes: the loop may edit `nodes`."""
    for name in [n.name for n in nodes.values() if n.op in ops]:
        if name in nodes:
            yield nodes[name]


def _users(nodes: dict[str, Node], name: str) -> list[Node]:
    return [node for node in nodes.values() if name in node.inputs]


def _fuse_attention(nodes: dict[str, Node]) -> None:
    """matmul -> [+ constant bias] -> softmax -> matmul becomes one `attention` node.

    A `scale` node before or after the first product, and the transposition of the keys, are
    absorbed. An attention node reads q (B, H, N, d), k and v (B, H, M, d).
    """
    for softmax in _of(nodes, "softmax"):
        users = _users(nodes, softmax.name)
        followed = len(users) == 1 and users[0].op == "matmul"
        if not followed or users[0].inputs[0] != softmax.name:
            continue
        factor, bias, above = 1.0, None, nodes[softmax.inputs[0]]
        taken = [softmax.name]
        while above.op in ("scale", "add") and len(_users(nodes, above.name)) == 1:
            if above.op == "scale":
                factor *= above.settings["factor"]
                bias = None if bias is None else bias / above.settings["factor"]
            else:
                constants = [n for n in above.inputs if nodes[n].op == "constant"]
                if len(constants) != 1:
                    break
                added = nodes[constants[0]].parameters["value"]
                bias = added if bias is None else bias + added
            taken.append(above.name)
            above = nodes[next(n for n in above.inputs if nodes[n].op != "constant")]
        keys = nodes[above.inputs[1]] if above.op == "matmul" else None
        if keys is None or len(_users(nodes, above.name)) != 1:
            continue
        factor_of_keys, keys = _through_scale(nodes, keys)
        factor_of_queries, queries = _through_scale(nodes, nodes[above.inputs[0]])
        if keys.op != "transpose" or keys.settings["perm"] != (0, 1, 3, 2):
            continue
        factor_of_inner, inner = _through_scale(nodes, nodes[keys.inputs[0]])
        products = factor_of_keys * factor_of_queries * factor_of_inner
        product = users[0]
        site, prefix = softmax.name, softmax.module
        if site == prefix:  # a softmax module: name the tensor after its parent
            prefix = site.rpartition(".")[0]
        # The bias enters before the multiplication by the factors: (q k + bias) * factor.
        parameters = {} if bias is None else {"bias": bias / products}
        name = f"{prefix}.context".lstrip(".")
        fused = Node(
            name if name not in nodes else f"{site}.context",
            "attention",
            (queries.name, inner.name, product.inputs[1]),
            product.shape,
            softmax.module,
            parameters,
            {"factor": factor * products, "site": site},
        )
        _replace(nodes, product.name, fused)
        for name in (*taken, above.name):
            del nodes[name]


def _through_scale(nodes: dict[str, Node], node: Node) -> tuple[float, Node]:
    factor = 1.0
    while node.op == "scale":
        factor *= node.settings["factor"]
        node = nodes[node.inputs[0]]
    return factor, node


def _replace(nodes: dict[str, Node], old: str, new: Node) -> None:
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


def _fuse_residuals(nodes: dict[str, Node]) -> None:
    """add(r, linear) becomes a linear node with a second input, if nothing else reads it."""
    for add in _of(nodes, "add"):
        for index in (1, 0):
            linear, rest = nodes[add.inputs[index]], nodes[add.inputs[1 - index]]
            alone = linear.op == "linear" and len(_users(nodes, linear.name)) == 1
            if alone and len(linear.inputs) == 1 and rest.op != "constant":
                del nodes[linear.name]
                fused = replace(linear, inputs=(*linear.inputs, rest.name), shape=add.shape)
                _replace(nodes, add.name, fused)
                break


def _simplify_moves(nodes: dict[str, Node]) -> None:
    """A chain of reshapes and transpositions that keeps the order becomes one reshape."""
    for last in _of(nodes, *_MOVES):
        if any(u.op in _MOVES for u in _users(nodes, last.name)):
            continue
        chain = [nodes[last.name]]
        while (above := nodes[chain[0].inputs[0]]).op in _MOVES and len(
            _users(nodes, above.name)
        ) == 1:
            chain.insert(0, above)
        for start in range(len(chain) - 1):
            if _keeps_order(nodes[chain[start].inputs[0]].shape, chain[start:]):
                for node in chain[start:]:
                    del nodes[node.name]
                # `last` was deleted; its replacement keeps its name and place in the order.
                _insert(nodes, replace(chain[-1], op="reshape", inputs=chain[start].inputs))
                break


def _keeps_order(shape: tuple[int, ...], chain: list[Node]) -> bool:
    sizes = [2 if size == -1 else size for size in shape]
    order = torch.arange(int(torch.tensor(sizes).prod())).reshape(sizes)
    moved = order
    for node in chain:
        if node.op == "transpose":
            moved = moved.permute(node.settings["perm"])
        else:
            moved = moved.reshape(node.shape)
    return bool((moved.reshape(-1) == order.reshape(-1)).all())


def _insert(nodes: dict[str, Node], node: Node) -> None:
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


def _order_constants(nodes: dict[str, Node]) -> None:
    """Constants first; the order of everything else stays."""
    ordered = sorted(nodes.values(), key=lambda n: n.op != "constant")
    nodes.clear()
    nodes.update({node.name: node for node in ordered})


def _reachable(nodes: dict[str, Node], output: str) -> dict[str, Node]:
    needed, stack = set(), [output]
    while stack:
        name = stack.pop()
        if name not in needed:
            needed.add(name)
            stack.extend(nodes[name].inputs)
    return {name: node for name, node in nodes.items() if name in needed}


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
    return Graph({node.name: node for node in renamed}, names[graph.input], names[graph.output])


def _check(graph: Graph) -> None:
    for node in graph:
        fault = ""
        if node.op == "matmul" and any(graph.nodes[n].op == "constant" for n in node.inputs):
            fault = "a product of two activations, found a constant factor"
        elif node.op == "softmax":
            fault = "softmax(q k + constant) v on (B, heads, N, d), found another softmax"
        elif node.op == "attention" and len(node.shape) != 4:
            fault = f"attention on (B, heads, N, d), found {len(node.shape)} axes"
        if fault:
            raise InputError(
                f"prepare: expected {fault} in module {node.module or '(top)'!r}; it has no "
                "integer operator"
            )
    if all(node.op in ("input", "constant", "scale") for node in graph):
        raise InputError(
            "prepare: expected a model with layers, found one that returns its input; check the "
            "model"
        )
