"""Lower: the integer program to one ONNX model, whose `mnq` operators are model-local functions."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from numpy.typing import NDArray
from onnx import ModelProto, helper, numpy_helper

from mnq.ops.body import BATCH, DOMAIN, DOMAIN_VERSION, IR_VERSION, OPSET
from mnq.ops.integer import INT8, INT16, INT32
from mnq.ops.patches.op import patches
from mnq.ops.registry import OPERATORS, with_calls
from mnq.runtime.packed import pack
from mnq.toolchain.program import Program, Step
from mnq.toolchain.views import VIEWS

PRODUCER = "mnq"
INPUT = "image"
OUTPUT = "logits"
FEATURES = "features"
"""Outputs are `features_0`, `features_1`, ... where there are several."""

_LONG = 128
"""Elements from which on a vector of one number is worth sharing."""


def lower(program: Program, metadata: dict[str, str]) -> ModelProto:
    """The ONNX model of a program: opset 21, IR version 10, dynamic batch, `metadata` attached.

    Tensors keep the program's names; the same program gives the same bytes.
    """
    graph = gs.Graph(name=PRODUCER, opset=OPSET)
    graph.import_domains = [
        helper.make_opsetid("", OPSET),
        helper.make_opsetid(DOMAIN, DOMAIN_VERSION),
    ]
    _Writer(graph, program).write()
    model: ModelProto = gs.export_onnx(graph)
    names = {node.op_type for node in model.graph.node if node.domain == DOMAIN}
    model.functions.extend(operator.function for operator in with_calls(names))
    model.ir_version = IR_VERSION
    model.producer_name = PRODUCER
    pack(model)
    # Without the shapes of inner tensors onnxruntime takes ten times as long to start.
    model = onnx.shape_inference.infer_shapes(model)
    for key in sorted(metadata):
        entry = model.metadata_props.add()
        entry.key, entry.value = key, metadata[key]
    onnx.checker.check_model(model)
    return model


def lower_step(step: Step, inputs: list[NDArray[Any]]) -> ModelProto:
    """One operator alone: a model whose inputs have the operator's own names and are codes like
    `inputs`; its output is `y`.
    """
    operator = OPERATORS[step.operator]
    names, constants = operator.inputs[: len(inputs)], operator.inputs[len(inputs) :]
    node = helper.make_node(operator.name, [*names, *constants], ["y"], domain=DOMAIN)
    node.attribute.extend(helper.make_attribute(key, v) for key, v in step.settings.items())
    graph = helper.make_graph(
        [node],
        step.output,
        [
            helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(x.dtype), x.shape)
            for n, x in zip(names, inputs, strict=True)
        ],
        [
            helper.make_tensor_value_info(
                "y", step.settings.get("to", INT8), [None if n == -1 else n for n in step.shape]
            )
        ],
        [numpy_helper.from_array(np.asarray(step.constants[name]), name) for name in constants],
    )
    imports = [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, DOMAIN_VERSION)]
    functions = [called.function for called in with_calls([operator.name])]
    return helper.make_model(
        graph, functions=functions, opset_imports=imports, ir_version=IR_VERSION
    )


class _Writer:
    """Adds the nodes of a program to an empty graph."""

    def __init__(self, graph: gs.Graph, program: Program) -> None:
        self.graph = graph
        self.program = program
        self.named = {program.image.name, *program.constants, *(s.output for s in program.steps)}
        self.tensors: dict[str, Any] = {
            name: gs.Constant(name, np.ascontiguousarray(value))
            for name, value in program.constants.items()
        }
        self.shared: dict[str, gs.Constant] = {}

    def write(self) -> None:
        self._input()
        for step in self.program.steps:
            inputs = [self.tensors[name] for name in step.inputs]
            if step.operator not in VIEWS:
                operator = OPERATORS[step.operator]
                names = operator.inputs[len(inputs) :]
                constants = [self._constant(step.output, n, step.constants[n]) for n in names]
                attributes = dict(step.settings)
                self._node(operator.name, [*inputs, *constants], step.output, attributes, DOMAIN)
            elif step.operator == "expand":
                self._expand(step, inputs[0])
            elif step.operator == "pad" and self._element_type(step.output) == INT16:
                self._pad(step, inputs[0])
            else:
                kind, values, attributes = VIEWS[step.operator].emit(step.settings)
                constants = [self._constant(step.output, n, v) for n, v in values.items()]
                self._node(kind, [*inputs, *constants], step.output, attributes)
        self._outputs()

    def _outputs(self) -> None:
        """Graph outputs are copies: verification reads the tensors themselves."""
        shapes = {step.output: step.shape for step in self.program.steps}
        names = [*self.program.outputs]
        for index, name in enumerate(names):
            given = OUTPUT if len(names) == 1 else f"{FEATURES}_{index}"
            output = self._node("Identity", [self.tensors[name]], self._free(given))
            output.dtype = helper.tensor_dtype_to_np_dtype(self._element_type(name))
            output.shape = [BATCH, *shapes[name][1:]]
            self.graph.outputs.append(output)

    def _free(self, name: str) -> str:
        """A name for an input or output of the graph: another one if a tensor has it."""
        while name in self.named:
            name += "_"
        return name

    def _node(
        self,
        kind: str,
        inputs: list[Any],
        output: str,
        attributes: dict[str, Any] | None = None,
        domain: str | None = None,
    ) -> gs.Variable:
        variable = gs.Variable(output)
        self.tensors[output] = variable
        self.graph.nodes.append(gs.Node(kind, output, attributes or {}, inputs, [variable], domain))
        return variable

    def _constant(self, owner: str, name: str, value: Any) -> gs.Constant:
        """A constant. A long vector of one number, as shifts are, exists once, named after it."""
        array = np.ascontiguousarray(value).reshape(np.shape(value))
        if array.ndim != 1 or array.size < _LONG or (array != array[0]).any():
            return gs.Constant(f"{owner}.{name}", array)
        shared = f"all.{array[0]}.{array.dtype}.{array.size}"
        return self.shared.setdefault(shared, gs.Constant(shared, array))

    def _element_type(self, name: str) -> int:
        """Of a tensor of the program: a view's is that of what it moves."""
        steps = {step.output: step for step in self.program.steps}
        while name in steps and steps[name].operator in VIEWS:
            name = steps[name].inputs[0]
        if name in self.program.constants:
            return int(helper.np_dtype_to_tensor_dtype(self.program.constants[name].dtype))
        return int(steps[name].settings.get("to", INT8)) if name in steps else INT8

    def _input(self) -> None:
        """The graph input and its int8 codes: p - 128, or one QuantizeLinear; then patches."""
        source = self.program.image
        floats = source.kind == "float"
        image = gs.Variable(
            self._free(INPUT), np.float32 if floats else np.uint8, [BATCH, *source.shape]
        )
        self.graph.inputs = [image]
        if floats:
            scale = self._constant(source.name, "scale", np.float32(source.scale))
            zero = self._constant(source.name, "zero_point", np.int8(0))
            name = source.name if source.patch is None else f"{source.name}.whole"
            image = self._node("QuantizeLinear", [image, scale, zero], name)
        if source.patch is not None:
            values = source.constants().items()
            constants = [self._constant(source.name, name, value) for name, value in values]
            self._node(patches.name, [image, *constants], source.name, {}, DOMAIN)
        elif not floats:
            wide = self._node("Cast", [image], f"{source.name}.wide", {"to": INT32})
            offset = self._constant(source.name, "offset", np.int32(source.offset))
            centred = self._node("Sub", [wide, offset], f"{source.name}.centred")
            self._node("Cast", [centred], source.name, {"to": INT8})

    def _pad(self, step: Step, value: Any) -> None:
        """By way of int32: onnxruntime has no Pad of int16."""
        kind, values, attributes = VIEWS["pad"].emit(step.settings)
        constants = [self._constant(step.output, name, v) for name, v in values.items()]
        wide = self._node("Cast", [value], f"{step.output}.wide", {"to": INT32})
        padded = self._node(kind, [wide, *constants], f"{step.output}.padded", attributes)
        self._node("Cast", [padded], step.output, {"to": INT16})

    def _expand(self, step: Step, value: Any) -> None:
        """Repeat a constant for every image: the batch is the first size of the input."""
        codes = self.tensors[self.program.image.name]
        batch = self._node("Shape", [codes], f"{step.output}.batch", {"start": 0, "end": 1})
        rest = self._constant(step.output, "rest", np.array(step.shape[1:], np.int64))
        shape = self._node("Concat", [batch, rest], f"{step.output}.shape", {"axis": 0})
        self._node("Expand", [value, shape], step.output)
