import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper
from runtime_tiny import Tiny, add_node

from mnq.ops.errors import InputError
from mnq.runtime.purity import float_tensors

NOT_INTEGERS = [
    name
    for name, _ in TensorProto.DataType.items()
    if name.startswith(("FLOAT", "DOUBLE", "BFLOAT", "COMPLEX", "STRING"))
]


def add_function(proto: ModelProto, name: str, nodes: list[object]) -> None:
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("mnq", 1)]
    proto.functions.append(helper.make_function("mnq", name, ["x"], ["y"], nodes, opsets))


def test_an_exported_model_has_integers_only(proto: ModelProto) -> None:
    assert float_tensors(proto) == []


def test_one_quantizer_on_a_float_image_is_allowed(tiny_float: Tiny) -> None:
    proto = tiny_float.copy()
    kinds = [node.op_type for node in proto.graph.node]
    assert kinds.count("QuantizeLinear") == 1
    assert proto.graph.input[0].type.tensor_type.elem_type == TensorProto.FLOAT
    assert float_tensors(proto) == []


def test_a_second_reader_of_the_float_image_is_named(tiny_float: Tiny) -> None:
    proto = tiny_float.copy()
    add_node(proto, "Cast", ["image"], "codes", to=TensorProto.INT8)
    assert float_tensors(proto) == ["image", "input.codes.scale"]


def test_a_scale_that_is_computed_is_named(tiny_float: Tiny) -> None:
    proto = tiny_float.copy()
    (quantizer,) = [node for node in proto.graph.node if node.op_type == "QuantizeLinear"]
    add_node(proto, "Sqrt", [quantizer.input[1]], "root")
    quantizer.input[1] = "root"
    assert set(float_tensors(proto)) == {"image", "input.codes.scale", "root"}


def test_an_image_that_is_a_scale_is_named(tiny_float: Tiny) -> None:
    proto = tiny_float.copy()
    (quantizer,) = [node for node in proto.graph.node if node.op_type == "QuantizeLinear"]
    quantizer.input[0], quantizer.input[1] = quantizer.input[1], quantizer.input[0]
    assert float_tensors(proto)[:2] == ["image", "input.codes.scale"]


def test_inserted_floats_are_named_in_order(proto: ModelProto) -> None:
    norm = next(node for node in proto.graph.node if node.output[0] == "norm")
    norm.output[0] = "norm.codes"
    position = [node.output[0] for node in proto.graph.node].index("norm.codes") + 1
    for node in (
        helper.make_node("Cast", ["norm.float"], ["norm"], to=TensorProto.INT8),
        helper.make_node("Cast", ["norm.codes"], ["norm.float"], to=TensorProto.FLOAT),
    ):
        proto.graph.node.insert(position, node)
    assert float_tensors(proto) == ["norm.float"]


def test_an_unused_float_weight_is_named(proto: ModelProto) -> None:
    proto.graph.initializer.append(numpy_helper.from_array(np.zeros(2, np.float32), "extra"))
    assert float_tensors(proto) == ["extra"]


@pytest.mark.parametrize("kind", NOT_INTEGERS)
def test_every_type_that_is_no_integer_is_named(proto: ModelProto, kind: str) -> None:
    number = TensorProto.DataType.Value(kind)
    proto.graph.initializer.append(TensorProto(name="extra", data_type=number, dims=[0]))
    assert float_tensors(proto) == ["extra"]


def test_a_sparse_float_weight_is_named(proto: ModelProto) -> None:
    values = numpy_helper.from_array(np.ones(1, np.float32), "extra")
    indices = numpy_helper.from_array(np.array([0]))
    proto.graph.sparse_initializer.append(helper.make_sparse_tensor(values, indices, [4]))
    assert float_tensors(proto) == ["extra"]


def test_what_the_file_says_about_a_tensor_does_not_hide_it(proto: ModelProto) -> None:
    add_node(proto, "Cast", ["image"], "hidden", to=TensorProto.FLOAT)
    info = helper.make_tensor_value_info("hidden", TensorProto.INT32, None)
    proto.graph.value_info.append(info)
    assert float_tensors(proto) == ["hidden"]


def test_a_float_output_that_says_it_is_an_integer_is_named(proto: ModelProto) -> None:
    last = proto.graph.node[-1]
    last.CopyFrom(helper.make_node("Cast", list(last.input), ["logits"], to=TensorProto.FLOAT))
    assert proto.graph.output[0].type.tensor_type.elem_type == TensorProto.INT32
    assert float_tensors(proto) == ["logits"]


def test_floats_inside_a_function_are_named(proto: ModelProto) -> None:
    there = helper.make_node("Cast", ["x"], ["inside"], to=TensorProto.FLOAT)
    back = helper.make_node("Cast", ["inside"], ["y"], to=TensorProto.INT8)
    add_function(proto, "Hidden", [there, back])
    add_node(proto, "Hidden", ["image"], "extra", "mnq")
    (found,) = float_tensors(proto)
    assert found.startswith("inside")


def test_floats_inside_a_branch_are_named(proto: ModelProto) -> None:
    there = helper.make_node("Cast", ["image"], ["inside"], to=TensorProto.FLOAT)
    back = helper.make_node("Cast", ["inside"], ["end"], to=TensorProto.UINT8)
    output = helper.make_tensor_value_info("end", TensorProto.UINT8, None)
    branch = helper.make_graph([there, back], "branch", [], [output])
    proto.graph.initializer.append(numpy_helper.from_array(np.array(True), "yes"))
    add_node(proto, "If", ["yes"], "chosen", then_branch=branch, else_branch=branch)
    assert "inside" in float_tensors(proto)


@pytest.mark.parametrize("domain", ["", "mnq", "com.microsoft"])
def test_the_output_of_an_unknown_operator_is_named(proto: ModelProto, domain: str) -> None:
    proto.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    add_node(proto, "NoSuchOperator", ["image"], "extra", domain)
    assert float_tensors(proto) == ["extra"]


def test_a_function_that_calls_itself_is_refused(proto: ModelProto) -> None:
    add_function(proto, "Endless", [helper.make_node("Endless", ["x"], ["y"], domain="mnq")])
    add_node(proto, "Endless", ["image"], "extra", "mnq")
    with pytest.raises(InputError, match=r"^model: expected a graph whose functions can") as caught:
        float_tensors(proto)
    assert "\n" not in str(caught.value)


def test_the_model_is_left_as_it_was(tiny: Tiny, proto: ModelProto) -> None:
    float_tensors(proto)
    assert proto == tiny.copy()
