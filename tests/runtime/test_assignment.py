import onnxruntime
import pytest
from onnx import ModelProto, TensorProto, helper

from mnq.runtime.assignment import RECORDED, STRICT, moved, records

pytestmark = [
    pytest.mark.onnxruntime,
    pytest.mark.skipif(not records(onnxruntime), reason="this onnxruntime does not tell"),
]

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"


def model() -> ModelProto:
    """A row for every image, as a class token has it: its number comes from a shape."""
    nodes = [
        helper.make_node("Shape", ["x"], ["batch"], "shape", end=1),
        helper.make_node("Concat", ["batch", "width"], ["size"], "length", axis=0),
        helper.make_node("Expand", ["token", "size"], ["tokens"], "tokens"),
        helper.make_node("Concat", ["tokens", "x"], ["y"], "joined", axis=1),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.INT32, ["batch", 2])
    y = helper.make_tensor_value_info("y", TensorProto.INT32, ["batch", 3])
    constants = [
        helper.make_tensor("width", TensorProto.INT64, [1], [1]),
        helper.make_tensor("token", TensorProto.INT32, [1, 1], [7]),
    ]
    graph = helper.make_graph(nodes, "tokens", [x], [y], constants)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def session(proto: ModelProto) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    for key, value in RECORDED.items():
        options.add_session_config_entry(key, value)
    return onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=[CPU])


def test_nothing_moves_where_every_node_is_on_the_provider() -> None:
    assert moved(session(model()), model(), CPU) == []


def test_nodes_elsewhere_are_named_but_for_those_that_compute_shapes() -> None:
    assert sorted(moved(session(model()), model(), CUDA)) == ["joined", "tokens"]


def test_nodes_without_a_name_are_named_by_their_type() -> None:
    proto = model()
    for node in proto.graph.node:
        node.name = ""
    kinds = ["Concat", "Concat", "Expand", "Shape"]
    assert sorted(moved(session(proto), proto, CUDA)) == kinds


def test_the_settings_are_ones_that_onnxruntime_knows() -> None:
    """It refuses STRICT on a session of the CPU alone, and would ignore what it does not know."""
    options = onnxruntime.SessionOptions()
    for key, value in STRICT.items():
        options.add_session_config_entry(key, value)
    with pytest.raises(Exception, match="Conflicting session configuration"):
        onnxruntime.InferenceSession(model().SerializeToString(), options, providers=[CPU])
