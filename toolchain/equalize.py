"""Equalize: even out the channels of LayerNorm outputs before they share one scale.

A few channels of a vision transformer's LayerNorm outputs are many times larger than the rest
and cost the others their bits. Dividing a LayerNorm's weight and bias by 2^k per channel and
multiplying the same input column of the linear layers that read it changes nothing in float;
the linear weights have a scale per output channel and hardly suffer. At 8 bits it lifts the SQNR
of the quantized LayerNorm outputs by more than 9 dB (docs/results.md).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import torch

from mnq.ops.errors import InputError
from mnq.toolchain.evaluate import evaluate
from mnq.toolchain.graph import Graph, Node

Exponents = dict[str, list[int]]
"""By LayerNorm node: k per channel; its output is divided by 2^k."""

LARGEST_EXPONENT = 20


def find_exponents(graph: Graph, batches: Iterable[torch.Tensor]) -> Exponents:
    """Exponents that bring every channel's largest magnitude within a factor of 2.

    batches: normalized images (B, C, H, W). Only LayerNorms that nothing but linear layers
    read are included. The exponents' mean is about 0, so that magnitudes stay where they were.
    """
    eligible = [node.name for node in graph if node.op == "layernorm" and _readers(graph, node)]
    largest: dict[str, torch.Tensor] = {}

    def observe(name: str, value: torch.Tensor) -> None:
        if name in eligible:
            top = value.abs().reshape(-1, value.shape[-1]).amax(dim=0)
            largest[name] = torch.maximum(largest[name], top) if name in largest else top

    with torch.no_grad():
        for batch in batches:
            evaluate(graph, batch, observe)
    result = {}
    for name, values in largest.items():
        logs = values.double().clamp_min(1e-30).log2()
        centred = (logs - logs.median()).nan_to_num(0.0)  # calibration names what is not finite
        centred = centred.round().clamp(-LARGEST_EXPONENT, LARGEST_EXPONENT)
        result[name] = [int(k) for k in centred]
    return result


def equalize(graph: Graph, exponents: Exponents) -> Graph:
    """The same function with LayerNorm outputs divided by 2^k per channel.

    Raises InputError if the exponents do not fit the graph.
    """
    nodes = dict(graph.nodes)
    for name, values in exponents.items():
        node = nodes.get(name)
        readers = _readers(graph, node) if node is not None and node.op == "layernorm" else []
        good = isinstance(values, list) and all(
            type(k) is int and abs(k) <= LARGEST_EXPONENT for k in values
        )
        if not readers or node is None or not good or len(values) != node.shape[-1]:
            raise InputError(
                f"equalization: expected exponents of this model's LayerNorms, found others at "
                f"{name!r}; calibrate again"
            )
        factors = torch.exp2(torch.tensor(values, dtype=torch.float32))
        scaled = {key: value / factors for key, value in node.parameters.items()}
        nodes[name] = replace(node, parameters=scaled)
        for reader in readers:
            linear = nodes[reader]
            weight = linear.parameters["weight"] * factors
            nodes[reader] = replace(linear, parameters={**linear.parameters, "weight": weight})
    return replace(graph, nodes=nodes)


def _readers(graph: Graph, node: Node) -> list[str]:
    """Linear layers that read the node's channels; empty if anything else reads them."""
    found: list[str] = []
    for consumer in graph.consumers(node.name):
        if consumer.op == "linear" and node.name not in consumer.inputs[1:]:
            found.append(consumer.name)
        elif consumer.op in ("reshape", "select", "slice") and _keeps_channels(node, consumer):
            below = _readers(graph, consumer)
            if not below:
                return []
            found.extend(below)
        else:
            return []
    return found


def _keeps_channels(node: Node, view: Node) -> bool:
    axis = view.settings.get("axis", 0)
    return node.shape[-1] == view.shape[-1] and axis != len(node.shape) - 1
