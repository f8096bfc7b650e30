"""Runs a prepared graph in float, as the captured model computes it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn import functional

from mnq.ops.l2_normalize.op import reference as normalize
from mnq.toolchain.graph import Graph, Node
from mnq.toolchain.views import VIEWS

HIDDEN = 30.0
"""A score this far below others of its row is one that a mask hides; masks are -100 or less."""

Observe = Callable[[str, torch.Tensor], None]
"""Called with the name and value of every tensor, inner attention scores included."""


def evaluate(graph: Graph, images: torch.Tensor, observe: Observe | None = None) -> torch.Tensor:
    """Float output of `graph` for normalized images (B, C, H, W).

    `observe` sees each tensor as it is made; a tensor is dropped after its last reader, so
    memory does not grow with depth.
    """
    last_reader = {name: node.name for node in graph for name in node.inputs}
    values: dict[str, torch.Tensor] = {}
    for node in graph:
        inputs = [values[name] for name in node.inputs]
        value = compute(node, inputs, images, observe)
        values[node.name] = value
        if observe is not None:
            observe(node.name, value)
        for name in set(node.inputs):
            if last_reader[name] == node.name and name not in graph.outputs:
                del values[name]
    return values[graph.output]


def compute(
    node: Node,
    inputs: list[torch.Tensor],
    images: torch.Tensor,
    observe: Observe | None = None,
) -> torch.Tensor:
    """The float tensor that one node makes of its inputs; `images` are those of the graph."""
    parameters, settings = node.parameters, node.settings
    if node.op in VIEWS:
        return VIEWS[node.op].run(inputs, images.shape[0], {"shape": node.shape, **settings})
    if node.op == "input":
        return images
    if node.op == "constant":
        return parameters["value"]
    if node.op == "scale":
        return inputs[0] * settings["factor"]
    if node.op == "linear":
        y = functional.linear(inputs[0], parameters["weight"], parameters["bias"])
        return y + inputs[1] if len(inputs) > 1 else y
    if node.op == "layernorm":
        weight, bias = parameters["weight"], parameters["bias"]
        return functional.layer_norm(inputs[0], weight.shape, weight, bias, settings["epsilon"])
    if node.op == "gelu":
        return functional.gelu(inputs[0], approximate=settings["approximate"])
    if node.op == "softmax":
        return inputs[0].softmax(-1)
    if node.op == "matmul":
        return inputs[0] @ inputs[1]
    if node.op == "add":
        return inputs[0] + inputs[1]
    if node.op == "normalize":
        return normalize(inputs[0])
    if node.op == "mean":
        return inputs[0].mean(1)
    if node.op == "requantize":  # to fewer bits: the same values
        return inputs[0]
    if node.op == "attention":
        q, k, v = inputs
        scores = attention_scores(node, q, k)
        if observe is not None:
            observe(node.scores, scores)
        return scores.softmax(-1) @ v
    raise AssertionError(f"unknown node {node.op}")


def hidden_scores(node: Node) -> torch.Tensor | None:
    """Which scores of an attention node a mask hides, (1, H, N, M); None if it hides none.

    Their weight is below exp(-HIDDEN) of the row's largest, however they are quantized: no scale
    has to reach them.
    """
    bias = node.parameters.get("bias")
    if bias is None:
        return None
    scaled = bias.detach() * node.settings["factor"] * node.parameters.get("factor", 1.0)
    found = scaled < scaled.amax(-1, keepdim=True) - HIDDEN
    return found if bool(found.any()) else None


def attention_scores(node: Node, q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
    """What the softmax of an attention node reads, (B, H, N, M)."""
    scores = q @ k.transpose(-1, -2)
    if "bias" in node.parameters:
        scores = scores + node.parameters["bias"]
    if "factor" in node.parameters:  # one per head
        scores = scores * node.parameters["factor"]
    result: torch.Tensor = scores * node.settings["factor"]
    return result
