"""The first scales and offsets of learned quantizers, by MSE (Q-ViT, section 4.1; spec 6.4)."""

from __future__ import annotations

import math

import numpy as np
import torch

from mnq.toolchain.evaluate import evaluate, hidden_scores
from mnq.toolchain.graph import Graph
from mnq.toolchain.heads import weight_of
from mnq.toolchain.image import ImageInput
from mnq.toolchain.learned import LearnedQuantizers
from mnq.toolchain.lsq import least_square_scale
from mnq.toolchain.ranges import SMALLEST_LOG
from mnq.toolchain.views import VIEWS
from mnq.toolchain.widths import LARGEST, SMALLEST

_SAMPLES = 1 << 15  # of a tensor


def initialize(
    quantizers: LearnedQuantizers, graph: Graph, image: ImageInput, normalized: torch.Tensor
) -> None:
    """Give every width of every quantizer its scale.

    normalized: calibration images (B, C, H, W), never those that the model is judged on.
    """
    edges = quantizers.edges.edges
    masks = {n.scores: hidden_scores(n) for n in graph if n.op == "attention"}
    done: set[str] = set()

    def observe(name: str, values: torch.Tensor) -> None:
        group = edges[name].group
        made = name not in graph.nodes or graph.nodes[name].op not in (*VIEWS, "scale")
        if group in quantizers.slots and group not in done and made:
            done.add(group)
            mask = masks.get(name)
            hidden = values if mask is None else values.masked_fill(mask, 0)
            _start(quantizers, group, name, hidden)

    with torch.no_grad():
        evaluate(graph, normalized, observe)
        for node in graph:
            if node.op == "linear":
                weight = node.parameters["weight"].detach()
                if edges[node.inputs[0]].group == graph.input:
                    weight, _ = image.fold(graph, node.inputs[0], weight, np.zeros(len(weight)))
                name = weight_of(node.name)
                _start(quantizers, name, name, weight)


def _start(
    quantizers: LearnedQuantizers, quantizer: str, tensor: str, values: torch.Tensor
) -> None:
    """The first scales of a quantizer, from float values of the tensor or weight."""
    slot, scales = quantizers.slots[quantizer], quantizers.log_scale
    assert slot.rows is not None, "of softmax weights, which have no scale"
    index = torch.as_tensor(quantizers.parts.at(tensor))
    spread = slot.rows[index].expand(values.shape).reshape(-1)
    flat = values.detach().cpu().reshape(-1)
    first = int(quantizers.bits_of(slot)[0])
    for row in slot.rows.unique().tolist():
        own = flat[spread == row]
        own = own[:: max(1, len(own) // _SAMPLES)]
        for column in range(scales.shape[1]):
            bits = first if scales.shape[1] == 1 else column + SMALLEST
            offset = slot.offset is not None and bits < LARGEST
            scale, beta = least_square_scale(own, bits, offset, offset)
            scales[row, column] = math.log2(max(scale, 2.0**SMALLEST_LOG))
            if offset and bits == min(first, LARGEST - 1):
                assert slot.offset is not None
                quantizers.offset[slot.offset] = min(beta, 0.0)
