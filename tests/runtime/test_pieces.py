import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper
from runtime_tiny import Tiny

from mnq.runtime.modelfile import ModelFile
from mnq.runtime.pieces import Pieces, image_name
from mnq.runtime.place import Arrays, Place


@pytest.fixture
def right(tiny: Tiny) -> Arrays:
    return {"image": tiny.images, **tiny.reference(tiny.images)}


@pytest.fixture
def pieces(model: ModelFile, right: Arrays) -> Pieces:
    return Pieces(model.proto, right, right)


def test_known_tensors_are_in_the_order_of_execution(pieces: Pieces, model: ModelFile) -> None:
    assert pieces.known[0] == "input.codes"
    assert pieces.known[1:] == list(model.tensors)


def test_every_piece_alone_makes_its_tensor_from_right_inputs(
    pieces: Pieces, right: Arrays
) -> None:
    for name in pieces.known:
        piece = pieces.cut(name)
        onnx.checker.check_model(piece.model)
        found = Place("reference").run(piece.model, {key: right[key] for key in piece.inputs})
        np.testing.assert_array_equal(found[name], right[name])


def test_a_piece_holds_one_operator_with_its_constants_and_functions(pieces: Pieces) -> None:
    piece = pieces.cut("blocks.0.attn.qkv")
    assert [node.op_type for node in piece.nodes] == ["QLinear"]
    assert piece.inputs == ("blocks.0.norm1",)
    assert piece.constants == [
        f"blocks.0.attn.qkv.{n}" for n in ("w", "bias", "m", "e", "lo", "hi")
    ]
    assert {f.name for f in piece.model.functions} == {"QLinear", "Requantize"}
    assert [output.name for output in piece.model.graph.output] == ["blocks.0.attn.qkv"]


def test_tensors_without_a_name_of_ours_are_inside(pieces: Pieces) -> None:
    """Three standard nodes make the class token of every image."""
    piece = pieces.cut("expand")
    assert [node.op_type for node in piece.nodes] == ["Shape", "Concat", "Expand"]
    assert piece.inputs == ("input.codes",)


def test_a_window_computes_what_is_before_its_tensor_too(pieces: Pieces) -> None:
    assert pieces.window("blocks.0.norm1", 1) == pieces.cut("blocks.0.norm1")
    piece = pieces.window("blocks.0.attn.qkv", 3)
    assert [n.op_type for n in piece.nodes] == ["RequantizeAdd", "IBertLayerNorm", "QLinear"]
    whole = pieces.window("head", len(pieces.ancestors("head")) + 1)
    assert whole.inputs == ("image",)


def test_ancestors_are_only_what_a_tensor_depends_on(pieces: Pieces) -> None:
    assert pieces.ancestors("input.codes") == []
    assert "expand" not in pieces.ancestors("patch_embed.reshape")
    assert pieces.ancestors("patch_embed.reshape") == ["input.codes", "patch_embed.proj"]


def test_inputs_have_the_types_that_the_graph_declares(pieces: Pieces, proto: ModelProto) -> None:
    (source,) = pieces.cut("blocks.0.norm1").model.graph.input
    (declared,) = [value for value in proto.graph.value_info if value.name == "add"]
    assert source == declared
    assert source.type.tensor_type.shape.dim[0].dim_param


def test_where_the_graph_declares_nothing_or_another_type_values_say_it(
    proto: ModelProto, right: Arrays
) -> None:
    del proto.graph.value_info[:]
    (value,) = Pieces(proto, right, right).cut("blocks.0.norm1").model.graph.input
    proto.graph.value_info.append(helper.make_tensor_value_info("add", TensorProto.FLOAT, [1]))
    assert Pieces(proto, right, right).cut("blocks.0.norm1").model.graph.input[0] == value
    dims = value.type.tensor_type.shape.dim
    assert (value.type.tensor_type.elem_type, dims[1].dim_value) == (TensorProto.INT16, 5)
    assert not dims[0].HasField("dim_value")


def test_the_image_is_the_input_that_is_no_constant(proto: ModelProto) -> None:
    proto.graph.input.insert(0, helper.make_tensor_value_info("head.w", TensorProto.INT8, [16, 5]))
    assert image_name(proto.graph) == "image"
    del proto.graph.input[:]
    assert image_name(proto.graph) == ""
