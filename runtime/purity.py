"""Integer purity: no float tensor between the quantized input and the output."""

from __future__ import annotations

from collections.abc import Iterator

from onnx import GraphProto, ModelProto, NodeProto, TensorProto, shape_inference
from onnx.inliner import inline_local_functions, inline_selected_functions

from mnq.ops.errors import InputError

# What is not an integer counts as float: new float formats are added to ONNX every year.
_INTEGERS = {
    number
    for name, number in TensorProto.DataType.items()
    if name.startswith(("INT", "UINT")) or name == "BOOL"
}


def float_tensors(model: ModelProto) -> list[str]:
    """Names of float tensors, and of tensors of unknown type, in the fully inlined graph.

    Types are inferred anew; what the file says about inner tensors counts for nothing. Inner
    tensors of branches and loops are of unknown type: we export neither. Allowed and not
    listed: a float image that one QuantizeLinear reads (and Shape, which reads no values), and
    that node's constant scale.

    Raises InputError if the functions of the model cannot be inlined.
    """
    return float_names(inferred(model))


def float_names(graph: GraphProto) -> list[str]:
    """`float_tensors` of a graph from `inferred`."""
    nodes, types = list(nodes_of(graph)), element_types(graph)
    constants = {tensor.name for tensor in graph.initializer}
    allowed: set[str] = set()
    for value in graph.input:
        readers = [n for n in nodes if value.name in n.input and n.op_type != "Shape"]
        if len(readers) == 1 and readers[0].op_type == "QuantizeLinear":
            image, scale = readers[0].input[:2]
            if image == value.name and scale in constants:
                allowed |= {image, scale}
    names = [value.name for value in graph.input]
    names += [tensor.name for tensor in graph.initializer]
    names += [sparse.values.name for sparse in graph.sparse_initializer]
    names += [name for node in nodes for name in node.output if name]
    return [
        name
        for name in names
        if name not in allowed and types.get(name, TensorProto.UNDEFINED) not in _INTEGERS
    ]


def element_types(graph: GraphProto) -> dict[str, int]:
    """By tensor of a graph from `inferred` its element type, where it is known."""
    values = (*graph.input, *graph.value_info, *graph.output)
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    types.update({tensor.name: tensor.data_type for tensor in graph.initializer})
    types.update({s.values.name: s.values.data_type for s in graph.sparse_initializer})
    return types


def inferred(model: ModelProto, keep: str | None = None) -> GraphProto:
    """The graph without functions, with the types that ONNX infers from inputs and weights.

    keep: a domain whose functions stay as they are. Raises InputError if they cannot be inlined.
    """
    kept = [(f.domain, f.name) for f in model.functions if f.domain == keep]
    try:
        if kept:
            inlined = inline_selected_functions(model, kept, exclude=True)
        else:
            inlined = inline_local_functions(model)
        del inlined.graph.value_info[:]
        for value in inlined.graph.output:
            value.ClearField("type")
        return shape_inference.infer_shapes(inlined, data_prop=False).graph
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(
            f"model: expected a graph whose functions can be inlined, found: {reason}; export it "
            "again"
        ) from error


def nodes_of(graph: GraphProto) -> Iterator[NodeProto]:
    """The nodes of a graph and of the graphs inside them."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            for inner in (*attribute.graphs, *([attribute.g] if attribute.HasField("g") else ())):
                yield from nodes_of(inner)
