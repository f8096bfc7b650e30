"""Build: a calibrated graph and a resolved map to the integer program, constants included."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mnq.ops.errors import InputError
from mnq.ops.integer import INT8, INT16, INT32
from mnq.toolchain.arithmetic import arithmetic, to_numpy
from mnq.toolchain.edges import Edges
from mnq.toolchain.fuse import fuse
from mnq.toolchain.graph import Graph, Node
from mnq.toolchain.heads import weight_of
from mnq.toolchain.image import ImageInput
from mnq.toolchain.linear import Layer, runs
from mnq.toolchain.map import Choice
from mnq.toolchain.program import Codes, Inputs, Program, Step, Weight
from mnq.toolchain.quantizers import quantize, weight_scale
from mnq.toolchain.tensor_codes import Scales, TensorCodes
from mnq.toolchain.views import VIEWS
from mnq.toolchain.widths import Widths


class UnusableMethod(InputError):
    """A method cannot work at a site; the message is the operator's own reason."""

    def __init__(self, site: str, reason: str) -> None:
        super().__init__(reason)
        self.site = site


def build(
    graph: Graph,
    edges: Edges,
    scales: Scales,
    widths: Widths,
    choices: dict[str, Choice],
    image: ImageInput,
    form: str = "ivit",
) -> Program:
    """The integer program of a calibrated graph, its operators fused where they fit.

    scales: per quantizer group (calibrate.scales); `image` replaces the input group's scale.
    Weights without a scale of their own get one per output channel, by `form`
    (quantizers.RANGES).
    """
    return fuse(assemble(graph, edges, scales, widths, choices, image, form))


def assemble(
    graph: Graph,
    edges: Edges,
    scales: Scales,
    widths: Widths,
    choices: dict[str, Choice],
    image: ImageInput,
    form: str = "ivit",
) -> Program:
    """`build` before any fusion: every node of the graph makes a tensor of its name."""
    own = {**scales, graph.input: np.float32(image.scale)}
    codes = TensorCodes(edges, own, widths)
    return _Builder(graph, codes, own, choices, image, form).build()


@dataclass
class _Builder:
    graph: Graph
    codes: TensorCodes
    scales: dict[str, NDArray[np.float32] | np.float32]  # of `codes`: logits get theirs here
    choices: dict[str, Choice]
    image: ImageInput
    form: str
    steps: list[Step] = field(default_factory=list)
    constants: dict[str, NDArray[np.generic]] = field(default_factory=dict)
    weights: dict[str, Weight] = field(default_factory=dict)
    tensor: dict[str, str] = field(default_factory=dict)  # graph tensor -> program tensor

    def build(self) -> Program:
        self.tensor[self.graph.input] = self.image.name
        for node in self.graph:
            if node.op == "constant":
                self._constant(node)
            elif node.op == "scale":
                self.tensor[node.name] = self.tensor[node.inputs[0]]
            elif node.op in VIEWS:
                settings = {"shape": node.shape, **node.settings}
                self._step(node, node.op, node.inputs, {}, settings)
            elif node.op != "input":
                self._check_pixels(node)
                self._arithmetic(node)
        output = self.graph.output
        return Program(
            self.image,
            self.steps,
            self.constants,
            self.tensor[output],
            float(self.codes.scale(output)),
            self.weights,
            {self.tensor[name]: float(self.codes.scale(name)) for name in self.graph.features},
        )

    def _arithmetic(self, node: Node) -> None:
        if node.op == "linear":
            self._linear(node)
            return
        choice = self.choices[node.site] if node.site else None
        try:
            made = arithmetic(node, self.graph, self.codes, choice)
        except InputError as error:
            if not node.site:
                raise
            raise UnusableMethod(node.site, str(error)) from error
        # Of operators without an attribute, codes are always of 8 bits.
        typed = "to" in made.operator.attributes
        to = {"to": _element_type(self.codes.bits(node.name))} if typed else {}
        self._step(node, made.operator.name, node.inputs, made.constants, to, made.reads)

    def _check_pixels(self, node: Node) -> None:
        """Mean and std are folded into linear layers; nothing else may read raw pixels."""
        others = node.inputs[1:] if node.op == "linear" else node.inputs
        groups = {self.codes.edges.edges[name].group for name in others}
        if self.image.kind == "uint8" and self.graph.input in groups:
            raise InputError(
                f"input: expected a linear layer or patch embedding on the raw image, found "
                f"{node.op} in module {node.module or '(top)'!r}; export with --input float"
            )

    def _step(
        self,
        node: Node,
        operator: str,
        inputs: tuple[str, ...],
        constants: Inputs,
        settings: dict[str, Any],
        reads: Codes | None = None,
    ) -> None:
        names = tuple(self.tensor[name] for name in inputs)
        self.tensor[node.name] = node.name
        scale = self.codes.by_part(node.name)
        self._append(
            node, node.name, operator, names, constants, settings, node.shape, scale, reads
        )

    def _append(
        self,
        node: Node,
        output: str,
        operator: str,
        inputs: tuple[str, ...],
        constants: Inputs,
        settings: dict[str, Any],
        shape: tuple[int, ...],
        scale: NDArray[np.float64],
        reads: Codes | None = None,
    ) -> None:
        """A step of a node; of what it reads and writes, names in the program."""
        value = float(scale) if scale.ndim == 0 else tuple(scale.tolist())
        made = (output, operator, inputs, constants, settings, shape, value)
        self.steps.append(Step(*made, node.module, node.site, reads))

    def _constant(self, node: Node) -> None:
        value = node.parameters["value"].detach()
        bits = self.codes.bits(node.name)
        codes = quantize(value, float(self.codes.scale(node.name)), bits).cpu().numpy()
        self.constants[node.name] = codes.astype(np.int8 if bits <= 8 else np.int16)
        self.tensor[node.name] = node.name

    def _linear(self, node: Node) -> None:
        weight = node.parameters["weight"].detach()  # (O, K), and stays where it is
        bias = to_numpy(node.parameters["bias"]).astype(np.float64)
        read, *others = node.inputs
        if self.codes.edges.edges[read].group == self.graph.input:
            weight, bias = self.image.fold(self.graph, read, weight, bias)
        parts, quantizer = self.codes.widths.parts, weight_of(node.name)
        input_scale = self.codes.scale(read)
        scale, bits = self._of_weight(quantizer, weight)
        layer = Layer(weight, bias, scale, bits, input_scale)
        made = self.weights[node.name] = layer.quantized()
        if self.codes.edges.kinds.get(node.name) == "logits":
            accumulators = made.scale[:, 0].astype(np.float64) * input_scale.flat[0]
            self.scales[node.name] = np.float32(accumulators.max())
        changing = [parts.at(read)] if input_scale.ndim else []
        changing += [*parts.at(quantizer)] if parts.at(quantizer).ndim == 2 else []
        columns = runs(changing, weight.shape[1])
        out = self.codes.scale(node.name), self.codes.bits(node.name), self.codes.limits(node.name)
        residual = self.codes.scale(others[0]) if others else None
        above = [self.tensor[name] for name in others]
        for number, product in enumerate(layer.products(made, columns, out, residual)):
            last = number == len(columns) - 1
            output = node.name if last else f"{node.name}.sum_{number}"
            whole = len(columns) == 1
            source = self.tensor[read] if whole else self._cut(node, product.columns, number)
            inputs = (source, *above) if product.above else (source,)
            to = {"to": _element_type(product.bits)}
            given = (output, product.operator.name, inputs, product.constants, to, node.shape)
            self._append(node, *given, self.codes.by_part(node.name) if last else product.scale)
            above = [output]
        self.tensor[node.name] = node.name

    def _of_weight(
        self, quantizer: str, weight: torch.Tensor
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Scales and bits of a linear layer's weight (O, K), as arrays that broadcast to it."""
        widths = self.codes.widths
        part, bits = widths.parts.at(quantizer), widths.weight(quantizer)
        if quantizer in self.scales:
            scale = np.asarray(self.scales[quantizer], np.float32)[part]
            return scale.reshape((1, 1) if scale.ndim == 0 else scale.shape), bits[part]
        return weight_scale(weight, int(bits[0]), self.form)[:, None], bits[0]

    def _cut(self, node: Node, part: slice, number: int) -> str:
        """The codes of one head, of all that a layer reads."""
        read, output = node.inputs[0], f"{node.name}.head_{number}"
        shape = self.graph.nodes[read].shape
        cut = {"axis": len(shape) - 1, "start": part.start, "stop": part.stop, "step": 1}
        scale = np.broadcast_to(self.codes.scale(read), shape[-1:])[part.start]
        shape = (*shape[:-1], part.stop - part.start)
        self._append(node, output, "slice", (self.tensor[read],), {}, cut, shape, scale)
        return output


def _element_type(bits: int) -> int:
    return INT8 if bits <= 8 else INT16 if bits <= 16 else INT32
