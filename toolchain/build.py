"""Build: a calibrated graph and a resolved map to the integer program, constants included."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mnq.ops.attention.op import constants as attention_constants
from mnq.ops.errors import InputError
from mnq.ops.integer import INT8, INT16, INT32
from mnq.ops.l2_normalize.op import constants as l2_constants
from mnq.ops.l2_normalize.op import l2_normalize
from mnq.ops.mean_tokens.op import constants as mean_constants
from mnq.ops.mean_tokens.op import mean_tokens
from mnq.ops.operator import Operator
from mnq.ops.qmatmul.op import qmatmul
from mnq.ops.registry import ATTENTION, GELU, LAYERNORM, SOFTMAX
from mnq.ops.requantize.op import Constants
from mnq.ops.requantize.op import constants as requantize_constants
from mnq.ops.requantize.op import requantize as requantize_operator
from mnq.ops.requantize_add.op import constants as requantize_add_constants
from mnq.ops.requantize_add.op import requantize_add
from mnq.toolchain.edges import Edges
from mnq.toolchain.fuse import fuse, fuse_views
from mnq.toolchain.graph import Graph, Node
from mnq.toolchain.heads import softmax_of, weight_of
from mnq.toolchain.image import ImageInput
from mnq.toolchain.linear import Layer, runs
from mnq.toolchain.map import Choice
from mnq.toolchain.program import Codes, Inputs, Program, Step, Weight
from mnq.toolchain.quantizers import quantize, weight_scale
from mnq.toolchain.views import VIEWS
from mnq.toolchain.widths import Widths

# Finer scores would change no weight by more than 1 part in 500, and leave the softmaxes' range.
_FINEST_SCORES = 2.0**-8
_MOST_TOKENS = 1 << 16  # of 16-bit codes
_LARGEST_BIAS = 2.0**30  # of attention: accumulator and bias together stay in int32

Scales = Mapping[str, "NDArray[np.float32] | np.float32"]
"""Of a code, by quantizer group: one number, or one for each part; of a weight, by weight_of."""


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


def build_sites(
    graph: Graph,
    edges: Edges,
    scales: Scales,
    widths: Widths,
    choices: dict[str, Choice],
    image: ImageInput,
    form: str = "ivit",
) -> Program:
    """`build` with a step for every site alone: what measures or swaps methods needs one."""
    return fuse_views(assemble(graph, edges, scales, widths, choices, image, form))


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
    return _Builder(graph, edges, {**scales}, widths, choices, image, form).build()


@dataclass
class _Builder:
    graph: Graph
    edges: Edges
    scales: dict[str, NDArray[np.float32] | np.float32]
    widths: Widths
    choices: dict[str, Choice]
    image: ImageInput
    form: str
    steps: list[Step] = field(default_factory=list)
    constants: dict[str, NDArray[np.generic]] = field(default_factory=dict)
    weights: dict[str, Weight] = field(default_factory=dict)
    tensor: dict[str, str] = field(default_factory=dict)  # graph tensor -> program tensor

    def build(self) -> Program:
        self.scales[self.graph.input] = np.float32(self.image.scale)
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
            float(self._scale(output)),
            self.weights,
            {self.tensor[name]: float(self._scale(name)) for name in self.graph.features},
        )

    def _arithmetic(self, node: Node) -> None:
        try:
            getattr(self, f"_{node.op}")(node)
        except InputError as error:
            if not node.site:
                raise
            raise UnusableMethod(node.site, str(error)) from error

    def _check_pixels(self, node: Node) -> None:
        """Mean and std are folded into linear layers; nothing else may read raw pixels."""
        others = node.inputs[1:] if node.op == "linear" else node.inputs
        groups = {self.edges.edges[name].group for name in others}
        if self.image.kind == "uint8" and self.graph.input in groups:
            raise InputError(
                f"input: expected a linear layer or patch embedding on the raw image, found "
                f"{node.op} in module {node.module or '(top)'!r}; export with --input float"
            )

    def _scale(self, name: str) -> NDArray[np.float64]:
        """Of one code: one number, or one for each feature where parts have their own."""
        edge = self.edges.edges[name]
        scale = np.asarray(self.scales[edge.group], np.float64) * edge.factor
        return scale if scale.ndim == 0 else np.asarray(scale[self.widths.parts.at(name)])

    def _bits(self, name: str) -> int:
        """The width of a tensor: of its widest part."""
        return int(self.widths.tensor(self.edges.edges[name].group, self.edges).max())

    def _limits(self, name: str) -> Constants:
        """`lo` and `hi` of a tensor: one number each, or one for each feature."""
        group = self.edges.edges[name].group
        ends = self.widths.limits(group, self.edges)
        lo, hi = (end.astype(np.int32)[self.widths.parts.at(name)] for end in ends)
        same = (lo == lo.flat[0]).all() and (hi == hi.flat[0]).all()
        return {"lo": np.array(lo.min()) if same else lo, "hi": np.array(hi.max()) if same else hi}

    def _codes(self, node: Node) -> Codes:
        return Codes(float(self._scale(node.inputs[0])), self._bits(node.inputs[0]))

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
        edge = self.edges.edges[node.name]
        scale = np.asarray(self.scales[edge.group], np.float64) * edge.factor
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

    def _operator(
        self, node: Node, operator: Operator, constants: Inputs, reads: Codes | None = None
    ) -> None:
        """A step of an operator whose element type is that of its codes."""
        to = {"to": _element_type(self._bits(node.name))}
        self._step(node, operator.name, node.inputs, constants, to, reads)

    def _constant(self, node: Node) -> None:
        value = node.parameters["value"].detach()
        bits = self._bits(node.name)
        codes = quantize(value, float(self._scale(node.name)), bits).cpu().numpy()
        self.constants[node.name] = codes.astype(np.int8 if bits <= 8 else np.int16)
        self.tensor[node.name] = node.name

    def _linear(self, node: Node) -> None:
        weight = node.parameters["weight"].detach()  # (O, K), and stays where it is
        bias = _numpy(node.parameters["bias"]).astype(np.float64)
        read, *others = node.inputs
        if self.edges.edges[read].group == self.graph.input:
            weight, bias = self.image.fold(self.graph, read, weight, bias)
        parts, quantizer, input_scale = self.widths.parts, weight_of(node.name), self._scale(read)
        scale, bits = self._of_weight(quantizer, weight)
        layer = Layer(weight, bias, scale, bits, input_scale)
        made = self.weights[node.name] = layer.quantized()
        if self.edges.kinds.get(node.name) == "logits":
            accumulators = made.scale[:, 0].astype(np.float64) * input_scale.flat[0]
            self.scales[node.name] = np.float32(accumulators.max())
        changing = [parts.at(read)] if input_scale.ndim else []
        changing += [*parts.at(quantizer)] if parts.at(quantizer).ndim == 2 else []
        columns = runs(changing, weight.shape[1])
        out = self._scale(node.name), self._bits(node.name), self._limits(node.name)
        residual = self._scale(others[0]) if others else None
        above = [self.tensor[name] for name in others]
        for number, product in enumerate(layer.products(made, columns, out, residual)):
            last = number == len(columns) - 1
            output = node.name if last else f"{node.name}.sum_{number}"
            whole = len(columns) == 1
            source = self.tensor[read] if whole else self._cut(node, product.columns, number)
            inputs = (source, *above) if product.above else (source,)
            to = {"to": _element_type(product.bits)}
            given = (output, product.operator.name, inputs, product.constants, to, node.shape)
            self._append(node, *given, product.scale)
            above = [output]
        self.tensor[node.name] = node.name

    def _of_weight(
        self, quantizer: str, weight: torch.Tensor
    ) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Scales and bits of a linear layer's weight (O, K), as arrays that broadcast to it."""
        part, bits = self.widths.parts.at(quantizer), self.widths.weight(quantizer)
        if quantizer in self.scales:
            scale = np.asarray(self.scales[quantizer], np.float32)[part]
            return scale.reshape((1, 1) if scale.ndim == 0 else scale.shape), bits[part]
        return weight_scale(weight, int(bits[0]), self.form)[:, None], bits[0]

    def _cut(self, node: Node, part: slice, number: int) -> str:
        """The codes of one head, of all that a layer reads."""
        read, output = node.inputs[0], f"{node.name}.head_{number}"
        shape = self.graph.nodes[read].shape
        cut = {"axis": len(shape) - 1, "start": part.start, "stop": part.stop, "step": 1}
        scale = np.broadcast_to(self._scale(read), shape[-1:])[part.start]
        shape = (*shape[:-1], part.stop - part.start)
        self._append(node, output, "slice", (self.tensor[read],), {}, cut, shape, scale)
        return output

    def _add(self, node: Node) -> None:
        out_scale = self._scale(node.name)
        left, right = (self._scale(name) / out_scale for name in node.inputs)
        constants = requantize_add_constants(left, right, self._bits(node.name))
        self._operator(node, requantize_add, constants)

    def _matmul(self, node: Node) -> None:
        product = self._scale(node.inputs[0]) * self._scale(node.inputs[1])
        constants = requantize_constants(product / self._scale(node.name), self._bits(node.name))
        constants["bias"] = np.zeros((), np.int32)
        self._operator(node, qmatmul, constants)

    def _requantize(self, node: Node) -> None:
        ratio = self._scale(node.inputs[0]) / self._scale(node.name)
        constants = requantize_constants(ratio, self._bits(node.name))
        self._operator(node, requantize_operator, constants)

    def _normalize(self, node: Node) -> None:
        constants = l2_constants(float(self._scale(node.name)), self._bits(node.name))
        self._operator(node, l2_normalize, constants)

    def _mean(self, node: Node) -> None:
        tokens = self.graph.nodes[node.inputs[0]].shape[1]
        if tokens > _MOST_TOKENS:
            raise InputError(
                f"export: expected a mean over at most {_MOST_TOKENS} tokens, found {tokens} in "
                f"module {node.module or '(top)'!r}; its sum would not fit 32 bits"
            )
        ratio = self._scale(node.inputs[0]) / self._scale(node.name)
        constants = mean_constants(float(ratio), tokens, self._bits(node.name))
        self._operator(node, mean_tokens, constants)

    def _layernorm(self, node: Node) -> None:
        method = LAYERNORM[self.choices[node.site].method]
        weight, bias = (_numpy(node.parameters[key]) for key in ("weight", "bias"))
        scale, bits = float(self._scale(node.name)), self._bits(node.name)
        constants = method.constants(weight, bias, scale, bits)
        self._operator(node, method.operator, constants, self._codes(node))

    def _gelu(self, node: Node) -> None:
        method = GELU[self.choices[node.site].method]
        scales = float(self._scale(node.inputs[0])), float(self._scale(node.name))
        limits = self._limits(node.name)
        # With all codes of 8 bits before them, limits of any offset are those of the quantizer.
        constants = method.constants(*scales, 8)
        if "table" in constants:
            constants["table"] = constants["table"].clip(*limits.values()).astype(np.int8)
        else:
            constants |= limits
        self._operator(node, method.operator, constants, self._codes(node))

    def _attention(self, node: Node) -> None:
        choice = self.choices[node.site]
        q, k, v = (self._scale(name) for name in node.inputs)
        product, quantizer = q * k, softmax_of(node.name)
        per_head = _numpy(node.parameters.get("factor", torch.ones(()))).astype(np.float64)
        score_scale = np.float32(max(float(self._scale(node.scores)), _FINEST_SCORES))
        constants = attention_constants(
            SOFTMAX[choice.method],
            choice.attention,
            product * node.settings["factor"] * per_head,
            score_scale,
            v,
            self._scale(node.name),
            self._bits(node.scores),
            self.widths.softmax(quantizer)[self.widths.parts.at(quantizer)],
        )
        constants |= self._limits(node.name)
        bias = np.zeros((1, 1, 1, 1))
        if "bias" in node.parameters:
            bias = _numpy(node.parameters["bias"]) / product
        if not np.abs(bias).max() < _LARGEST_BIAS:  # nor NaN
            raise InputError(
                f"export: expected an attention bias below 2^30 accumulator steps, found "
                f"{float(np.abs(bias).max()):.3g} in module {node.module or '(top)'!r}; "
                "calibrate again"
            )
        constants["bias"] = np.rint(bias).astype(np.int32)
        operator = ATTENTION[choice.method][choice.attention]
        read = Codes(float(score_scale), self._bits(node.scores))
        self._step(node, operator.name, node.inputs, constants, {}, read)


def _element_type(bits: int) -> int:
    return INT8 if bits <= 8 else INT16 if bits <= 16 else INT32


def _numpy(parameter: torch.Tensor) -> NDArray[np.float32]:
    result: NDArray[np.float32] = parameter.detach().cpu().numpy()
    return result
