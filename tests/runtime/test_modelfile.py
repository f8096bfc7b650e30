import json
import os
from pathlib import Path

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper
from runtime_tiny import CLASSES, SIZE, Tiny, add_node, edit_json, initializer, set_metadata

from mnq.models.preprocess import Preprocess
from mnq.ops.errors import InputError
from mnq.runtime import modelfile
from mnq.runtime.modelfile import ModelFile, metadata, parse, read, read_proto

KEYS = "format model input preprocess classes output tensors map quantization overflow "
KEYS += "certificate versions"


def refused(proto: ModelProto, match: str) -> None:
    with pytest.raises(InputError, match=f"^model: expected {match}") as caught:
        parse(proto, "m.onnx")
    assert "\n" not in str(caught.value)
    assert "m.onnx" in str(caught.value)


def external(name: str) -> TensorProto:
    """A tensor that says its bytes are in another file."""
    tensor = TensorProto(name=name, data_type=TensorProto.INT8, dims=[4])
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../secret")
    return tensor


def test_read_gives_what_was_exported(tiny: Tiny, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(tiny.data)
    model = read(path)
    assert (model.name, model.input_kind, model.classes) == ("tiny", "uint8", CLASSES)
    assert model.preprocess == Preprocess(SIZE, SIZE, "bicubic", (0.5,) * 3, (0.5,) * 3, 3)
    assert model.map["defaults"]["softmax"] == "lut"
    assert model.tensors["blocks.0.mlp.act"]["module"] == "blocks.0.mlp.fc1, blocks.0.mlp.act"
    assert model.tensors["blocks.0.attn.context"]["site"] == "blocks.0.attn.softmax"
    assert model.output_scale == model.tensors["head"]["scale"] > 0
    assert set(model.certificate["tensors"]) == {"input.codes", *model.tensors}
    assert model.proto == tiny.copy()


def test_metadata_has_only_our_entries(proto: ModelProto) -> None:
    proto.metadata_props.add(key="author", value="somebody")
    assert set(metadata(proto)) == {f"mnq.{key}" for key in KEYS.split()}
    assert parse(proto, "m.onnx").name == "tiny"


def test_a_key_that_is_no_text_is_none_of_ours(tiny: Tiny) -> None:
    proto = ModelProto()
    proto.ParseFromString(tiny.data.replace(b"\x09mnq.model\x12", b"\x09mnq.mod\xe5l\x12"))
    refused(proto, "complete metadata, found KeyError 'mnq.model'")


@pytest.mark.parametrize("key", KEYS.split())
def test_missing_metadata_is_refused(proto: ModelProto, key: str) -> None:
    set_metadata(proto, f"mnq.{key}", None)
    refused(proto, "mnq-model/1, found 'no mnq" if key == "format" else "complete metadata")


@pytest.mark.parametrize("value", ["", "{", "3", "[1]", '"text"', "[" * 100_000])
@pytest.mark.parametrize("key", [key for key in KEYS.split() if key not in ("format", "model")])
def test_garbled_metadata_is_refused(proto: ModelProto, key: str, value: str) -> None:
    set_metadata(proto, f"mnq.{key}", value)
    with pytest.raises(InputError, match=r"expected .*, found .*; .*export") as caught:
        parse(proto, "m.onnx")
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 500


BAD_SCALES = ["0", "-1", "NaN", "Infinity", "1e999", "9" * 400, "null", "[]", "true", '"1"']


@pytest.mark.parametrize("scale", BAD_SCALES)
def test_output_scale_is_positive_and_finite(proto: ModelProto, scale: str) -> None:
    set_metadata(proto, "mnq.output", f'{{"scales": [{scale}]}}')
    refused(proto, "complete metadata")


@pytest.mark.parametrize("scales", ["", "0.5, 0.5", "0.5, -1", "[0.5]", "0.5," * 10**5 + "1"])
def test_every_output_has_one_scale(proto: ModelProto, scales: str) -> None:
    set_metadata(proto, "mnq.output", f'{{"scales": [{scales}]}}')
    refused(proto, "complete metadata")


@pytest.mark.parametrize(
    "value", ["1", '"1"', "null", "true", '{"1": 0}', "[[1]]", "{}", '[0.5], "scales": 1']
)
def test_scales_are_a_list_of_numbers(proto: ModelProto, value: str) -> None:
    set_metadata(proto, "mnq.output", f'{{"scales": {value}}}')
    refused(proto, "complete metadata")


@pytest.mark.parametrize("bad", [None, *BAD_SCALES])
def test_each_of_several_scales_is_checked(proto: ModelProto, bad: str | None) -> None:
    """And kept in the order of the outputs; the last is that of the logits."""
    proto.graph.output.add().CopyFrom(proto.graph.output[0])
    set_metadata(proto, "mnq.output", f'{{"scales": [{bad or 0.25}, 0.5]}}')
    if bad is not None:
        refused(proto, "complete metadata")
    else:
        model = parse(proto, "m.onnx")
        assert (model.output_scales, model.output_scale) == ((0.25, 0.5), 0.5)


@pytest.mark.parametrize(
    ("key", "value"),
    [("classes", ["ant", 2]), ("classes", "ant"), ("tensors", {"head": "module"}), ("map", [])],
)
def test_metadata_of_another_kind_is_refused(proto: ModelProto, key: str, value: object) -> None:
    set_metadata(proto, f"mnq.{key}", json.dumps(value))
    refused(proto, "complete metadata, found ValueError a value of another kind")


def test_classes_may_be_unknown(proto: ModelProto) -> None:
    set_metadata(proto, "mnq.classes", "null")
    assert parse(proto, "m.onnx").classes is None


def test_unknown_input_kind_is_refused(proto: ModelProto) -> None:
    set_metadata(proto, "mnq.input", "int8")
    refused(proto, "complete metadata")


def test_other_formats_are_refused_with_advice(proto: ModelProto) -> None:
    set_metadata(proto, "mnq.format", "mnq-model/2")
    refused(proto, "mnq-model/1, found 'mnq-model/2' in m.onnx; export it with mnq-export")


def test_preprocessing_is_checked(proto: ModelProto) -> None:
    edit_json(proto, "mnq.preprocess", size=1_000_000)
    with pytest.raises(InputError, match=r"^preprocessing: expected size"):
        parse(proto, "m.onnx")


def test_oversized_metadata_is_refused(model: ModelFile, monkeypatch: pytest.MonkeyPatch) -> None:
    length = sum(len(value) for value in metadata(model.proto).values())
    monkeypatch.setattr(modelfile, "MAX_METADATA_BYTES", length)
    parse(model.proto, "m.onnx")
    monkeypatch.setattr(modelfile, "MAX_METADATA_BYTES", length - 1)
    refused(model.proto, "metadata below 64 MB, found more")


def test_a_name_that_is_no_text_is_refused(tiny: Tiny, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    assert tiny.data.count(b"mnq.model\x12\x04tiny") == 1
    path.write_bytes(tiny.data.replace(b"mnq.model\x12\x04tiny", b"mnq.model\x12\x04ti\xff\xfe"))
    with pytest.raises(InputError, match=r"^model: expected"):
        read(path)


@pytest.mark.parametrize("data", [b"text", b"PK\x03\x04", b"\x08\x0a\xff\xff", bytes(range(256))])
def test_other_files_are_refused(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(data)
    with pytest.raises(InputError, match=r"^model: expected an \.onnx file, found something else"):
        read_proto(path)


def test_a_truncated_model_is_refused(tiny: Tiny, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(tiny.data[:-50])
    with pytest.raises(InputError, match=r"^model: expected"):
        read_proto(path)


def test_a_file_that_is_not_there_or_no_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^model: expected an \.onnx file, found No such file"):
        read_proto(tmp_path / "m.onnx")
    with pytest.raises(InputError, match=r"^model: expected an \.onnx file, found no regular file"):
        read_proto(tmp_path)
    os.mkfifo(tmp_path / "pipe")  # reading it would wait for ever
    with pytest.raises(InputError, match=r"^model: expected an \.onnx file, found no regular file"):
        read_proto(tmp_path / "pipe")


def test_a_file_above_the_limit_is_not_read(
    tiny: Tiny, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(tiny.data)
    monkeypatch.setattr(modelfile, "MAX_BYTES", len(tiny.data))
    read_proto(path)
    monkeypatch.setattr(modelfile, "MAX_BYTES", len(tiny.data) - 1)
    with pytest.raises(InputError, match=r"^model: expected at most 2 GB, found more"):
        read_proto(path)


@pytest.mark.parametrize("part", ["node", "input", "output"])
def test_an_empty_graph_is_refused(proto: ModelProto, tmp_path: Path, part: str) -> None:
    proto.graph.ClearField(part)
    path = tmp_path / "m.onnx"
    path.write_bytes(proto.SerializeToString())
    with pytest.raises(InputError, match=r"^model: expected an \.onnx graph, found an empty one"):
        read_proto(path)


@pytest.mark.parametrize("place", ["weight", "constant", "function", "branch", "sparse"])
def test_data_in_other_files_is_refused(proto: ModelProto, tmp_path: Path, place: str) -> None:
    constant = helper.make_node("Constant", [], ["c"], value=external("c"))
    if place == "weight":
        initializer(proto, "head.w").CopyFrom(external("head.w"))
    elif place == "constant":
        proto.graph.node.insert(0, constant)
    elif place == "function":
        proto.functions[0].node.insert(0, constant)
    elif place == "branch":
        output = helper.make_tensor_value_info("c", TensorProto.INT8, [4])
        branch = helper.make_graph([constant], "branch", [], [output])
        proto.graph.initializer.append(numpy_helper.from_array(np.array(True), "yes"))
        add_node(proto, "If", ["yes"], "chosen", then_branch=branch, else_branch=branch)
    else:
        indices = numpy_helper.from_array(np.array([0, 1, 2, 3]))
        proto.graph.sparse_initializer.append(
            helper.make_sparse_tensor(external("sparse"), indices, [8])
        )
    path = tmp_path / "m.onnx"
    path.write_bytes(proto.SerializeToString())
    with pytest.raises(InputError, match=r"^model: expected weights inside the file, found ref"):
        read_proto(path)
