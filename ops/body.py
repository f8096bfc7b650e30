"""Writes the body of an ONNX function by running ordinary arithmetic on `Value` objects.

An operator's integer definition is one Python function (see `operator.py`). Fed torch
tensors it computes; fed `Value` objects it leaves a trace of standard ONNX nodes. Values are
int64 unless a function says otherwise; ONNX's integer Div truncates and there is no signed
BitShift, so floor division is `(x - Mod(x, d)) / d` (architecture.md, "Bodies").
"""

from __future__ import annotations

from dataclasses import dataclass

from onnx import AttributeProto, FunctionProto, NodeProto, TensorProto, helper

DOMAIN = "mnq"
DOMAIN_VERSION = 1
OPSET = 21
IR_VERSION = 10
BATCH = "batch"
"""Name of the free first dimension of a model's images."""


@dataclass(frozen=True)
class AttributeReference:
    """An attribute of the function being written, passed on to a node of its body."""

    name: str


class Value:
    """A tensor inside a function body: a name, and the operators of Python's integers."""

    def __init__(self, writer: Writer, name: str) -> None:
        self.writer = writer
        self.name = name

    def __add__(self, other: Value | int) -> Value:
        return self.writer.emit("Add", self, other)

    def __radd__(self, other: int) -> Value:
        return self.writer.emit("Add", other, self)

    def __sub__(self, other: Value | int) -> Value:
        return self.writer.emit("Sub", self, other)

    def __rsub__(self, other: int) -> Value:
        return self.writer.emit("Sub", other, self)

    def __mul__(self, other: Value | int) -> Value:
        return self.writer.emit("Mul", self, other)

    def __rmul__(self, other: int) -> Value:
        return self.writer.emit("Mul", other, self)

    def __neg__(self) -> Value:
        return self.writer.emit("Sub", 0, self)

    def __mod__(self, divisor: Value | int) -> Value:
        return self.writer.emit("Mod", self, divisor)

    def __lt__(self, other: Value | int) -> Value:
        return self.writer.emit("Less", self, other)

    def __ge__(self, other: Value | int) -> Value:
        return self.writer.emit("GreaterOrEqual", self, other)

    def __gt__(self, other: Value | int) -> Value:
        return self.writer.emit("Greater", self, other)

    def __bool__(self) -> bool:
        raise TypeError("a body cannot branch on a tensor; use where()")

    def __eq__(self, other: object) -> bool:
        raise TypeError("== on a tensor of a body is not defined; compare with < or >")

    __hash__ = None  # type: ignore[assignment]


class Writer:
    """Collects the nodes of one function body."""

    def __init__(self, inputs: tuple[str, ...]) -> None:
        self.nodes: list[NodeProto] = []
        self.calls: list[str] = []
        self._constants: dict[tuple[int, ...] | int, Value] = {}
        self.inputs = [Value(self, name) for name in inputs]

    def _name(self) -> str:
        return f"t{len(self.nodes)}"

    def emit(
        self,
        op_type: str,
        *arguments: Value | int,
        domain: str = "",
        **attributes: int | tuple[int, ...] | AttributeReference,
    ) -> Value:
        """Append one node with one output. Python integers become int64 scalars."""
        names = [
            (a if isinstance(a, Value) else self.constant(a)).name for a in arguments
        ]  # constants first: they append nodes of their own
        result = Value(self, self._name())
        # onnxruntime 1.21 names what it fuses after the nodes, and wants no name twice.
        node = helper.make_node(op_type, names, [result.name], name=result.name, domain=domain)
        for key, value in attributes.items():
            if isinstance(value, AttributeReference):
                reference = AttributeProto()
                reference.name = key
                reference.type = AttributeProto.INT
                reference.ref_attr_name = value.name
                node.attribute.append(reference)
            else:
                node.attribute.append(helper.make_attribute(key, value))
        self.nodes.append(node)
        if domain == DOMAIN and op_type not in self.calls:
            self.calls.append(op_type)
        return result

    def constant(self, value: int | tuple[int, ...]) -> Value:
        """An int64 scalar, or a vector if `value` is a tuple; each is written once."""
        if value not in self._constants:
            result = Value(self, self._name())
            shape = [len(value)] if isinstance(value, tuple) else []
            data = list(value) if isinstance(value, tuple) else [value]
            tensor = helper.make_tensor(result.name, TensorProto.INT64, shape, data)
            self.nodes.append(helper.make_node("Constant", [], [result.name], value=tensor))
            self._constants[value] = result
        return self._constants[value]

    def finish(
        self, name: str, output: Value, attributes: tuple[str, ...], doc: str
    ) -> FunctionProto:
        """The finished function, with `output` as its only output `y`."""
        nodes = [*self.nodes, helper.make_node("Identity", [output.name], ["y"])]
        imports = [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, DOMAIN_VERSION)]
        function = helper.make_function(
            DOMAIN,
            name,
            [value.name for value in self.inputs],
            ["y"],
            nodes,
            imports,
            list(attributes),
        )
        function.doc_string = doc
        return function
