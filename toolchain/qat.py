"""QAT: the forward pass computes the deployed integers, the backward pass a float gradient.

Forward, every tensor is what `assemble` and the operators' definitions give for the present
weights and scales: the integers of the exported model. Backward, every node passes the gradient
of the float function that it approximates (surrogate.py; spec 1.8). Only codes are kept between
the two, so that a step needs less memory than one of float training.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch

from mnq.ops.errors import InputError
from mnq.ops.requantize.op import code_range
from mnq.ops.ste import straight_through
from mnq.toolchain.build import assemble, build
from mnq.toolchain.checkpoint import check_tensors
from mnq.toolchain.edges import assign_edges
from mnq.toolchain.graph import Graph, Node
from mnq.toolchain.image import ImageInput
from mnq.toolchain.map import Map
from mnq.toolchain.program import Program, Step
from mnq.toolchain.ranges import Ranges
from mnq.toolchain.surrogate import Call, Exact, Quantizer, Read
from mnq.toolchain.views import VIEWS

PRECISIONS = ("float32", "bfloat16")


def with_weights(graph: Graph, weights: dict[str, torch.Tensor]) -> Graph:
    """The graph with trained weights by "node.key" in the place of its own.

    Raises InputError if they are not the weights of this graph.
    """
    own = {f"{node.name}.{key}": value for node in graph for key, value in node.parameters.items()}
    check_tensors(own, weights, "give the model that was trained")
    nodes = {
        node.name: replace(
            node,
            parameters={k: weights.get(f"{node.name}.{k}", v) for k, v in node.parameters.items()},
        )
        for node in graph
    }
    return replace(graph, nodes=nodes)


def expect_logits(graph: Graph) -> None:
    """Raise InputError if a graph returns several tensors, and so no logits to train by."""
    if graph.features:
        raise InputError(
            "qat: expected a model that returns logits, found one that returns several tensors; "
            "train the classifier that they are part of"
        )


class QuantizedModel(torch.nn.Module):
    """A prepared (and equalized) graph that trains as the integer program that it deploys.

    graph: its weights become the module's parameters.
    mapping: methods and bits; image: how images enter; form: of weight ranges (quantizers).
    precision: of the matrix products of the backward pass; the forward pass is integers.
    kernels: compute with the native kernels, on the CPU; else with torch, on any device.

    Raises InputError if the map does not fit the graph, or the graph returns no logits alone.
    """

    def __init__(
        self,
        graph: Graph,
        mapping: Map,
        ranges: Ranges,
        image: ImageInput,
        form: str = "ivit",
        precision: str = "float32",
        kernels: bool = False,
    ) -> None:
        super().__init__()
        expect_logits(graph)
        self.mapping, self.ranges, self.image, self.form = mapping, ranges, image, form
        self.precision, self.kernels = precision, kernels
        self.edges = assign_edges(graph)
        self.choices = mapping.resolve(graph.sites())
        self.graph = Graph(dict(graph.nodes), graph.input, graph.output)
        self._weights: dict[str, torch.nn.Parameter] = {}
        for node in graph:
            made = {key: torch.nn.Parameter(v.clone()) for key, v in node.parameters.items()}
            self.graph.nodes[node.name] = replace(node, parameters={**made})
            self._weights |= {f"{node.name}.{key}": value for key, value in made.items()}
        for name, parameter in self._weights.items():
            self.register_parameter(name.replace(".", "/"), parameter)  # torch allows no dots

    def weights(self) -> dict[str, torch.nn.Parameter]:
        """The parameters of the graph by "node.key", without those of the ranges."""
        return {**self._weights}

    def scales(self) -> dict[str, float]:
        """The present scale of every quantizer group but the logits'."""
        return self._with_input(self.ranges.scales())

    def _with_input(self, found: dict[str, np.float32]) -> dict[str, float]:
        scales = {group: float(scale) for group, scale in found.items()}
        return {**scales, self.graph.input: self.image.scale}

    def program(self) -> Program:
        """The integer program of the present weights and scales, as it is exported."""
        return build(*self._source(self.ranges.scales()))

    def _source(self, found: dict[str, np.float32]) -> tuple[Any, ...]:
        """The arguments of `build` and `assemble` for the scales of `ranges`."""
        return self.graph, self.edges, found, self.mapping, self.choices, self.image, self.form

    def features(self) -> tuple[str, ...]:
        """The tensors of the residual stream that layers make: what a block leaves to the next."""
        made = (node for node in self.graph if node.op not in VIEWS and node.op != "constant")
        edges, kinds = self.edges.edges, self.edges.kinds
        return tuple(node.name for node in made if kinds[edges[node.name].group] == "residual")

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Logits (B, classes), float32, of images (B, C, H, W) as the program takes them."""
        return self.tensors(images)[0]

    def tensors(self, images: torch.Tensor, names: tuple[str, ...] = ()) -> list[torch.Tensor]:
        """The logits, as `forward`, and the values of the tensors `names`, float32."""
        with torch.autocast(images.device.type, enabled=False):  # it would round the products
            return self._tensors(images, names)

    def _tensors(self, images: torch.Tensor, names: tuple[str, ...]) -> list[torch.Tensor]:
        found = self.ranges.scales()
        program, scales = assemble(*self._source(found)), self._with_input(found)
        scales.setdefault(self.edges.edges[self.graph.output].group, program.output_scale)
        steps = {step.output: step for step in program.steps}
        codes = program.start(images)
        codes[self.graph.input] = codes[program.image.name]
        learned = self.ranges.learned_logs()
        # Autograd sees the nodes and the shapes of their outputs, no values: those are codes.
        floats: dict[str, torch.Tensor] = {}
        for node in self.graph:
            inputs = [floats[name] for name in node.inputs]
            step = steps.get(node.name)
            if step is not None:
                read = [codes[name] for name in node.inputs]
                codes[node.name] = step.run(read, len(images), self.kernels)
            if node.op == "input":
                floats[node.name] = self.image.values(images)
            elif node.op == "scale":
                codes[node.name] = codes[node.inputs[0]]
                floats[node.name] = inputs[0] * node.settings["factor"]
            elif node.op in VIEWS:
                settings = {"shape": node.shape, **node.settings}
                floats[node.name] = VIEWS[node.op].run(inputs, len(images), settings)
            else:
                call = self._call(node, step, program, scales, codes, inputs)
                logs = [learned[group] for group in call.groups() if group in learned]
                floats[node.name] = Exact.apply(call, *inputs, *node.parameters.values(), *logs)
        units = {self.graph.output: program.output_scale}
        for name in names:
            edge = self.edges.edges[name]
            units[name] = scales[edge.group] * edge.factor
        return [
            straight_through(floats[name], codes[name].to(torch.float32) * unit)
            for name, unit in units.items()
        ]

    def _call(
        self,
        node: Node,
        step: Step | None,
        program: Program,
        scales: dict[str, float],
        codes: dict[str, torch.Tensor],
        floats: list[torch.Tensor],
    ) -> Call:
        """What the gradient of an arithmetic node or a constant will be computed from."""
        edges = self.edges.edges
        reads = []
        for name, value in zip(node.inputs, floats, strict=True):
            edge = edges[name]
            pixels = edge.group == self.graph.input  # their values depend on the channel
            reads.append(
                Read(value) if pixels else Read(codes[name], scales[edge.group] * edge.factor)
            )
        weight = None
        if step is not None and node.op == "linear" and reads[0].scale is not None:
            per_channel = torch.from_numpy(program.weight_scales[node.name])
            weight = torch.as_tensor(step.constants["w"]), per_channel
        scores = None
        if step is not None and step.reads is not None and node.op == "attention":
            scores = Quantizer(node.scores, step.reads.scale, code_range(step.reads.bits))
        group = edges[node.name].group
        limits = code_range(self.edges.bits(group, self.mapping.activation_bits))
        output = Quantizer(group, scales[group], limits)
        return Call(
            node, codes[node.name], reads, weight, output, scores, self.ranges, self.precision
        )
