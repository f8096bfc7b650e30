"""Build: a calibrated graph and a resolved map to the integer program, constants included."""

from __future__ import annotations

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
from mnq.ops.qlinear.op import qlinear, qlinear_add
from mnq.ops.qmatmul.op import qmatmul
from mnq.ops.registry import ATTENTION, GELU, LAYERNORM, SOFTMAX
from mnq.ops.requantize.op import Constants
from mnq.ops.requantize.op import constants as requantize_constants
from mnq.ops.requantize.op import requantize as requantize_operator
from mnq.ops.requantize_add.op import constants as requantize_add_constants
from mnq.ops.requantize_add.op import requantize_add
from mnq.toolchain.edges import Edges
from mnq.toolchain.fuse import fuse
from mnq.toolchain.graph import Graph, Node
from mnq.toolchain.image import ImageInput
from mnq.toolchain.map import Choice, Map
from mnq.toolchain.program import Codes, Inputs, Program, Step
from mnq.toolchain.quantizers import quantize, weight_scale
from mnq.toolchain.views import VIEWS

# Finer scores would change no weight by more than 1 part in 500, and leave the softmaxes' range.
_FINEST_SCORES = 2.0**-8
_MOST_TOKENS = 1 << 16  # of 16-bit codes
_LARGEST_BIAS = 2.0**30  # accumulator and bias together stay in int32


class UnusableMethod(InputError):
    """A method cannot work at a site; the message is the operator's own reason."""

    def __init__(self, site: str, reason: str) -> None:
        super().__init__(reason)
        self.site = site


def build(
    graph: Graph,
    edges: Edges,
    scales: dict[str, np.float32],
    mapping: Map,
    choices: dict[str, Choice],
    image: ImageInput,
    form: str = "ivit",
) -> Program:
    """The integer program of a calibrated graph, views fused into operators where they fit.

    scales: per quantizer group (calibrate.scales); `image` replaces the input group's scale.
    form: how a weight's range becomes its scale (quantizers.RANGES).
    """
    return fuse(assemble(graph, edges, scales, mapping, choices, image, form))


def assemble(
    graph: Graph,
    edges: Edges,
    scales: dict[str, np.float32],
    mapping: Map,
    choices: dict[str, Choice],
    image: ImageInput,
    form: str = "ivit",
) -> Program:
    """`build` before the fusion of views: every node of the graph makes a tensor of its name."""
    return _Builder(graph, edges, {**scales}, mapping, choices, image, form).build()


@dataclass
class _Builder:
    graph: Graph
    edges: Edges
    scales: dict[str, np.float32]
    mapping: Map
    choices: dict[str, Choice]
    image: ImageInput
    form: str
    steps: list[Step] = field(default_factory=list)
    constants: dict[str, NDArray[np.generic]] = field(default_factory=dict)
    weight_scales: dict[str, NDArray[np.float32]] = field(default_factory=dict)
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
            self._scale(output),
            self.weight_scales,
            {self.tensor[name]: self._scale(name) for name in self.graph.features},
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

    def _scale(self, name: str) -> float:
        edge = self.edges.edges[name]
        return float(self.scales[edge.group]) * edge.factor

    def _bits(self, name: str) -> int:
        return self.edges.bits(self.edges.edges[name].group, self.mapping.activation_bits)

    def _codes(self, node: Node) -> Codes:
        return Codes(self._scale(node.inputs[0]), self._bits(node.inputs[0]))

    def _element_type(self, name: str) -> int:
        bits = self._bits(name)
        return INT8 if bits <= 8 else INT16 if bits <= 16 else INT32

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
        scale = self._scale(node.name)
        self.steps.append(
            Step(
                node.name,
                operator,
                names,
                constants,
                settings,
                node.shape,
                scale,
                node.module,
                node.site,
                reads,
            )
        )

    def _operator(
        self, node: Node, operator: Operator, constants: Inputs, reads: Codes | None = None
    ) -> None:
        """A step of an operator whose element type is that of its codes."""
        to = {"to": self._element_type(node.name)}
        self._step(node, operator.name, node.inputs, constants, to, reads)

    def _constant(self, node: Node) -> None:
        value = node.parameters["value"].detach()
        bits = self._bits(node.name)
        codes = quantize(value, self._scale(node.name), bits).cpu().numpy()
        self.constants[node.name] = codes.astype(np.int8 if bits <= 8 else np.int16)
        self.tensor[node.name] = node.name

    def _linear(self, node: Node) -> None:
        weight = node.parameters["weight"].detach()  # (O, K), and stays where it is
        bias = _numpy(node.parameters["bias"]).astype(np.float64)
        if self.edges.edges[node.inputs[0]].group == self.graph.input:
            weight, bias = self.image.fold(self.graph, node.inputs[0], weight, bias)
        input_scale = self._scale(node.inputs[0])
        per_channel = weight_scale(weight, self.mapping.weight_bits, self.form)
        # A channel with a large bias and tiny weights gets coarser weights, not an overflow.
        per_channel = np.maximum(per_channel, np.abs(bias) / (input_scale * _LARGEST_BIAS))
        per_channel = self.weight_scales[node.name] = per_channel.astype(np.float32)
        codes = quantize(weight, per_channel[:, None], self.mapping.weight_bits)
        accumulator_scale = per_channel.astype(np.float64) * input_scale
        constants: Constants = {"bias": np.rint(bias / accumulator_scale).astype(np.int32)}
        if self.edges.kinds.get(node.name) == "logits":
            self.scales[node.name] = np.float32(accumulator_scale.max())
        out_scale, bits = self._scale(node.name), self._bits(node.name)
        ratio = accumulator_scale / out_scale
        operator = qlinear
        if len(node.inputs) > 1:
            operator = qlinear_add
            residual = self._scale(node.inputs[1]) / out_scale
            constants |= requantize_add_constants(ratio, residual, bits)
        else:
            constants |= requantize_constants(ratio, bits)
        inputs: Inputs = {"w": codes.t().contiguous().to(torch.int8), **constants}
        self._operator(node, operator, inputs)

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
        constants = l2_constants(self._scale(node.name), self._bits(node.name))
        self._operator(node, l2_normalize, constants)

    def _mean(self, node: Node) -> None:
        tokens = self.graph.nodes[node.inputs[0]].shape[1]
        if tokens > _MOST_TOKENS:
            raise InputError(
                f"export: expected a mean over at most {_MOST_TOKENS} tokens, found {tokens} in "
                f"module {node.module or '(top)'!r}; its sum would not fit 32 bits"
            )
        ratio = self._scale(node.inputs[0]) / self._scale(node.name)
        constants = mean_constants(ratio, tokens, self._bits(node.name))
        self._operator(node, mean_tokens, constants)

    def _layernorm(self, node: Node) -> None:
        method = LAYERNORM[self.choices[node.site].method]
        weight, bias = (_numpy(node.parameters[key]) for key in ("weight", "bias"))
        constants = method.constants(weight, bias, self._scale(node.name), self._bits(node.name))
        self._operator(node, method.operator, constants, self._codes(node))

    def _gelu(self, node: Node) -> None:
        method = GELU[self.choices[node.site].method]
        scales = self._scale(node.inputs[0]), self._scale(node.name)
        constants = method.constants(*scales, self._bits(node.name))
        self._operator(node, method.operator, constants, self._codes(node))

    def _attention(self, node: Node) -> None:
        choice = self.choices[node.site]
        q, k, v = (self._scale(name) for name in node.inputs)
        product = q * k
        per_head = _numpy(node.parameters.get("factor", torch.ones(()))).astype(np.float64)
        score_scale = np.float32(max(self._scale(node.scores), _FINEST_SCORES))
        constants = attention_constants(
            SOFTMAX[choice.method],
            choice.attention,
            product * node.settings["factor"] * per_head,
            score_scale,
            v,
            self._scale(node.name),
            self._bits(node.name),
        )
        bias = _numpy(node.parameters.get("bias", torch.zeros(1, 1, 1, 1))) / product
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


def _numpy(parameter: torch.Tensor) -> NDArray[np.float32]:
    result: NDArray[np.float32] = parameter.detach().cpu().numpy()
    return result
