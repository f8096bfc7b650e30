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
from numpy.typing import NDArray

from mnq.ops.errors import InputError
from mnq.ops.requantize.op import code_range
from mnq.ops.ste import straight_through
from mnq.toolchain.build import assemble, build
from mnq.toolchain.checkpoint import check_tensors
from mnq.toolchain.edges import assign_edges
from mnq.toolchain.graph import Graph, Node
from mnq.toolchain.heads import softmax_of, weight_of
from mnq.toolchain.image import ImageInput
from mnq.toolchain.map import Map
from mnq.toolchain.program import Program, Step
from mnq.toolchain.ranges import Quantizer, Ranges
from mnq.toolchain.surrogate import Call, Exact, LearnedWeight, Read
from mnq.toolchain.tensor_codes import Scales
from mnq.toolchain.views import VIEWS
from mnq.toolchain.widths import Widths

Scale = NDArray[np.float64] | np.float64

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

    def scales(self) -> dict[str, Scale]:
        """The present scale of every quantizer but the logits', or one for each of its parts."""
        return self._with_input(self.ranges.scales())

    def widths(self) -> Widths:
        """The present bits of every quantizer."""
        return self.ranges.bit_widths(self.mapping.widths())

    def _with_input(self, found: Scales) -> dict[str, Scale]:
        scales = {group: np.asarray(scale, np.float64) for group, scale in found.items()}
        return {**scales, self.graph.input: np.float64(self.image.scale)}

    def program(self) -> Program:
        """The integer program of the present weights and scales, as it is exported."""
        return build(*self._source(self.ranges.scales()))

    def _source(self, found: Scales) -> tuple[Any, ...]:
        """The arguments of `build` and `assemble` for the scales of `ranges`."""
        return self.graph, self.edges, found, self.widths(), self.choices, self.image, self.form

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
        widths, output = self.widths(), self.edges.edges[self.graph.output].group
        scales.setdefault(output, np.float64(program.output_scale))
        steps, pending = {step.output: step for step in program.steps}, iter(program.steps)
        codes = program.start(images)
        codes[self.graph.input] = codes[program.image.name]
        learned = self.ranges.inputs()
        # Autograd sees the nodes and the shapes of their outputs, no values: those are codes.
        floats: dict[str, torch.Tensor] = {}
        for node in self.graph:
            inputs = [floats[name] for name in node.inputs]
            step = steps.get(node.name)
            made = None if step is None else node.name
            while made not in (None, *codes):  # a node may be several steps
                part = next(pending)
                read = [codes[name] for name in part.inputs]
                codes[part.output] = part.run(read, len(images), self.kernels)
            if node.op == "input":
                floats[node.name] = self.image.values(images)
            elif node.op == "scale":
                codes[node.name] = codes[node.inputs[0]]
                floats[node.name] = inputs[0] * node.settings["factor"]
            elif node.op in VIEWS:
                settings = {"shape": node.shape, **node.settings}
                floats[node.name] = VIEWS[node.op].run(inputs, len(images), settings)
            else:
                call = self._call(node, step, program, scales, widths, codes, inputs)
                trained = [x for group in call.groups() for x in learned.get(group, [])]
                floats[node.name] = Exact.apply(call, *inputs, *node.parameters.values(), *trained)
        units = {self.graph.output: program.output_scale}
        for name in names:
            edge = self.edges.edges[name]
            units[name] = float(scales[edge.group]) * edge.factor
        return [
            straight_through(floats[name], codes[name].to(torch.float32) * unit)
            for name, unit in units.items()
        ]

    def _call(
        self,
        node: Node,
        step: Step | None,
        program: Program,
        scales: dict[str, Scale],
        widths: Widths,
        codes: dict[str, torch.Tensor],
        floats: list[torch.Tensor],
    ) -> Call:
        """What the gradient of an arithmetic node or a constant will be computed from."""
        edges, reads = self.edges.edges, []
        for name, value in zip(node.inputs, floats, strict=True):
            pixels = edges[name].group == self.graph.input  # their values depend on the channel
            scale = None if pixels else self._scale(name, scales, widths)
            reads.append(Read(value if pixels else codes[name], scale))
        weight = learned_weight = scores = softmax = None
        if step is not None and node.op == "linear":
            learned_weight = self._learned_weight(node, program)
            if reads[0].scale is not None or learned_weight is not None:
                weight = program.weights[node.name]
        if step is not None and step.reads is not None and node.op == "attention":
            limits = code_range(step.reads.bits)
            scores = Quantizer(node.scores, step.reads.scale, limits, node.scores)
            bits = widths.bits.get(softmax_of(node.name))
            if bits is not None:
                index = widths.parts.at(softmax_of(node.name))
                softmax = torch.as_tensor(np.asarray(bits[index], np.float32)).to(self._device())
        group = edges[node.name].group
        lo, hi = widths.limits(group, self.edges)
        limits = int(lo.min()), int(hi.max())
        output = Quantizer(group, self._scale(node.name, scales, widths), limits, node.name)
        return Call(
            node,
            codes[node.name],
            reads,
            weight,
            output,
            scores,
            self.ranges,
            self.precision,
            learned_weight,
            softmax,
        )

    def _scale(self, name: str, scales: dict[str, Scale], widths: Widths) -> float | torch.Tensor:
        """Of a tensor's codes; for each of its features where parts have their own."""
        edge = self.edges.edges[name]
        scale = np.asarray(scales[edge.group]) * edge.factor
        if scale.ndim == 0:
            return float(scale)
        index = widths.parts.at(name)
        return torch.from_numpy(scale[index].astype(np.float32)).to(self._device())

    def _learned_weight(self, node: Node, program: Program) -> LearnedWeight | None:
        """The quantizer of a layer's weight, if it is learned: that of the pixels' layer sees it
        folded.
        """
        name = weight_of(node.name)
        if name not in self.ranges.learned:
            return None
        scale = torch.from_numpy(program.weights[node.name].scale)
        fold: float | torch.Tensor = 1.0
        if self.edges.edges[node.inputs[0]].group == self.graph.input:
            ones = torch.ones_like(node.parameters["weight"][:1])
            fold, _ = self.image.fold(self.graph, node.inputs[0], ones, np.zeros(1))
        return LearnedWeight(Quantizer(name, scale, (0, 0), name, batched=False), fold)

    def _device(self) -> torch.device:
        return next(iter(self._weights.values())).device
