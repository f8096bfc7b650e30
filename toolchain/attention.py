"""Attention: finds softmax(q k + constant) v in a captured graph and makes it one node."""

from __future__ import annotations

from dataclasses import replace

import torch

from mnq.toolchain.graph import Node
from mnq.toolchain.rewrite import Nodes, insert_before, of, substitute, users


def fuse_attention(nodes: Nodes) -> None:
    """matmul -> [+ constant bias] -> softmax -> matmul becomes one `attention` node.

    Multiplications by a number, or by one per head, before or after the first product, and the
    transposition of the keys, are absorbed. An attention node reads q (B, H, N, d), k and v
    (B, H, M, d).

    A mask may differ from window to window: then the scores (B * W, H, N, M) are reshaped to
    (B, W, H, N, M), the mask is added, and they are reshaped back. The windows become heads: q is
    reshaped to (B, W * H, N, d), and the bias is (1, W * H, N, M).
    """
    for softmax in of(nodes, "softmax"):
        followed = users(nodes, softmax.name)
        if [user.op for user in followed] == ["matmul"]:
            product = followed[0]
            if product.inputs[0] == softmax.name:
                _fuse(nodes, softmax, product)
    for attention in of(nodes, "attention"):
        bias = attention.parameters.get("bias")
        if bias is not None:
            parameters = {**attention.parameters, "bias": _four_axes(bias)}
            nodes[attention.name] = replace(attention, parameters=parameters)
            if parameters["bias"].shape[0] > 1:
                _windows_to_heads(nodes, nodes[attention.name])


def _fuse(nodes: Nodes, softmax: Node, product: Node) -> None:
    factor, bias, taken = 1.0, None, [softmax.name]
    per_head: torch.Tensor | None = None
    above = nodes[softmax.inputs[0]]
    while above.op in ("scale", "gain", "add", "reshape") and len(users(nodes, above.name)) == 1:
        if above.op == "reshape":
            if not _splits_first(nodes[above.inputs[0]].shape, above.shape):
                break
            bias = _across(bias, above.shape)
        elif above.op == "add":
            constants = [n for n in above.inputs if nodes[n].op == "constant"]
            if len(constants) != 1:
                break
            added = nodes[constants[0]].parameters["value"]
            bias = added if bias is None else bias + added
        else:
            times = _factor_of(above)
            if times is None:
                break
            if isinstance(times, float):
                factor *= times
            else:
                per_head = times if per_head is None else per_head * times
            bias = None if bias is None else bias / times
        taken.append(above.name)
        above = nodes[next(n for n in above.inputs if nodes[n].op != "constant")]
    keys = nodes[above.inputs[1]] if above.op == "matmul" else None
    if keys is None or len(users(nodes, above.name)) != 1 or len(above.shape) != 4:
        return
    factor_of_keys, keys = _through_scale(nodes, keys)
    factor_of_queries, queries = _through_scale(nodes, nodes[above.inputs[0]])
    if keys.op != "transpose" or keys.settings["perm"] != (0, 1, 3, 2):
        return
    factor_of_inner, inner = _through_scale(nodes, nodes[keys.inputs[0]])
    products = factor_of_keys * factor_of_queries * factor_of_inner
    site, prefix = softmax.name, softmax.module
    if site == prefix:  # a softmax module: name the tensor after its parent
        prefix = site.rpartition(".")[0]
    # The bias enters before the multiplication by the factors: (q k + bias) * factor.
    parameters = {} if bias is None else {"bias": bias / products}
    if per_head is not None:
        parameters["factor"] = per_head
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
    substitute(nodes, product.name, fused)
    for name in (*taken, above.name):
        del nodes[name]


def _factor_of(node: Node) -> float | torch.Tensor | None:
    """What a node multiplies (B, H, N, M) by: a number, or (H, 1, 1) positive ones."""
    if node.op == "scale":
        return float(node.settings["factor"])
    gain = node.parameters["gain"]
    per_head = gain.ndim >= 3 and gain.shape[-3] == gain.numel() and bool((gain > 0).all())
    return gain.reshape(-1, 1, 1) if per_head else None


def _through_scale(nodes: Nodes, node: Node) -> tuple[float, Node]:
    factor = 1.0
    while node.op == "scale":
        factor *= node.settings["factor"]
        node = nodes[node.inputs[0]]
    return factor, node


def _splits_first(before: tuple[int, ...], after: tuple[int, ...]) -> bool:
    """Whether a reshape splits the first of four axes in two, or joins two of five to one."""
    lengths = sorted((len(before), len(after)))
    return lengths == [4, 5] and before[-3:] == after[-3:] and before[0] == after[0] == -1


def _across(bias: torch.Tensor | None, shape: tuple[int, ...]) -> torch.Tensor | None:
    """A bias of a reshape's output (`shape`) as one of its input: (W, H, N, M), (1, W, H, N, M)."""
    if bias is None:
        return None
    if len(shape) == 5:  # what enters has four axes
        return bias[0] if bias.ndim == 5 else bias
    return _four_axes(bias)[None]


def _four_axes(bias: torch.Tensor) -> torch.Tensor:
    return bias.reshape((1,) * (4 - bias.ndim) + tuple(bias.shape))


def _windows_to_heads(nodes: Nodes, node: Node) -> None:
    bias, factor = node.parameters["bias"], node.parameters.get("factor")
    windows, heads = bias.shape[0], node.shape[1]
    module = node.name.rpartition(".")[0]
    names: list[str] = []
    for name in node.inputs:
        length, depth = nodes[name].shape[-2:]
        shape = (-1, windows * heads, length, depth)
        reshaped = Node(f"{node.name}.{len(names)}", "reshape", (name,), shape, module)
        insert_before(nodes, node.name, reshaped)
        names.append(reshaped.name)
    parameters = {"bias": bias.expand(-1, heads, -1, -1).reshape(1, -1, *bias.shape[2:])}
    if factor is not None:
        parameters["factor"] = factor.repeat(windows, 1, 1)
    full = (-1, windows * heads, *node.shape[2:])
    back = Node(f"{node.name}.back", "reshape", (node.name,), node.shape, module)
    substitute(nodes, node.name, back)
    made = replace(node, inputs=tuple(names), shape=full, parameters=parameters)
    insert_before(nodes, back.name, made)
