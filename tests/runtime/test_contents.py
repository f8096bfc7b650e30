import json
import random
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from google.protobuf.message import DecodeError
from onnx import AttributeProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper
from runtime_tiny import Tiny, edit_json, flip_bit, initializer, recertified, set_metadata

from mnq.ops.errors import CheckFailed, InputError, MnqError
from mnq.runtime import certificate, contents
from mnq.runtime.contents import Change, changes
from mnq.runtime.modelfile import ModelFile, metadata, parse
from mnq.runtime.verify import check_certificate

KINDS = {
    "weights": (".w", 40),
    "multipliers": (".m", 25),
    "shifts": (".e", 25),
    "biases": (".bias", 25),
    "layernorm biases": (".bq", 15),
    "tables": (".table", 25),
    "saturation": (".hi", 10),
    "any constant": ("", 35),
}


def only(proto: ModelProto) -> Change:
    (change,) = changes(parse(proto, "tiny.onnx"))
    return change


def readers(proto: ModelProto, name: str) -> tuple[str, ...]:
    return tuple(node.output[0] for node in proto.graph.node if name in node.input)


def test_an_untouched_model_has_no_changes(model: ModelFile, tiny_float: Tiny) -> None:
    assert changes(model) == []
    assert changes(parse(tiny_float.copy(), "float.onnx")) == []


def test_reading_and_writing_changes_nothing(proto: ModelProto) -> None:
    """Another encoding of the same values, comments and names of nodes decide no integer."""
    for tensor in proto.graph.initializer:
        array = numpy_helper.to_array(tensor)
        if tensor.data_type == TensorProto.INT32 and array.ndim:
            values = array.ravel().tolist()
            tensor.CopyFrom(helper.make_tensor(tensor.name, TensorProto.INT32, array.shape, values))
    for node in proto.graph.node:
        node.doc_string, node.name = "a comment", f"renamed {node.name}"
        node.attribute.sort(key=lambda attribute: attribute.name, reverse=True)
    proto.functions[0].doc_string = "a comment"
    del proto.graph.value_info[:]
    assert changes(parse(proto, "tiny.onnx")) == []


@pytest.mark.parametrize("kind", KINDS)
def test_every_flipped_bit_of_a_constant_is_caught_and_named(tiny: Tiny, kind: str) -> None:
    """200 random bits, of every kind of constant that the operators have."""
    ending, count = KINDS[kind]
    draw = random.Random(kind)
    names = [t.name for t in tiny.copy().graph.initializer if t.name.endswith(ending)]
    assert names
    for _ in range(count):
        proto = tiny.copy()
        name = draw.choice(names)
        array = numpy_helper.to_array(initializer(proto, name))
        flipped = bytearray(array.tobytes())
        bit = draw.randrange(8 * len(flipped))
        flipped[bit // 8] ^= 1 << bit % 8
        values = np.frombuffer(bytes(flipped), array.dtype).reshape(array.shape)
        initializer(proto, name).CopyFrom(numpy_helper.from_array(values, name))
        wanted = Change("constant", name, readers(proto, name), "other values than certified")
        assert only(proto) == wanted


def integers(node: NodeProto) -> list[AttributeProto]:
    """Attributes that hold integers, in themselves or in a tensor."""
    kinds = (AttributeProto.INT, AttributeProto.INTS, AttributeProto.TENSOR)
    return [a for a in node.attribute if a.type in kinds and not a.ref_attr_name]


def flip_attribute(attribute: AttributeProto, draw: random.Random) -> None:
    bit = 1 << draw.randrange(62)
    if attribute.type == AttributeProto.INT:
        attribute.i ^= bit
    elif attribute.type == AttributeProto.INTS:
        attribute.ints[draw.randrange(len(attribute.ints))] ^= bit
    else:
        values = numpy_helper.to_array(attribute.t).copy()
        values.flat[draw.randrange(values.size)] ^= bit
        attribute.t.CopyFrom(numpy_helper.from_array(values, attribute.t.name))


def test_every_flipped_bit_of_an_attribute_is_caught_and_its_node_named(tiny: Tiny) -> None:
    draw = random.Random(1)
    for _ in range(30):
        proto = tiny.copy()
        node = draw.choice([node for node in proto.graph.node if integers(node)])
        flip_attribute(draw.choice(integers(node)), draw)
        output = node.output[0]
        found = "another operator, inputs or attributes than certified"
        assert only(proto) == Change("node", output, (output,), found)


def test_every_flipped_bit_in_a_function_is_caught_and_its_node_named(tiny: Tiny) -> None:
    """Constants and attributes of bodies, which kernels never read."""
    draw = random.Random(2)
    for _ in range(40):
        proto = tiny.copy()
        function = draw.choice(proto.functions)
        number = draw.choice([i for i, node in enumerate(function.node) if integers(node)])
        node = function.node[number]
        flip_attribute(draw.choice(integers(node)), draw)
        change = only(proto)
        assert (change.kind, change.name) == ("function", function.name)
        place = f"at node {number} ({node.op_type} {node.output[0]!r})"
        assert change.found == f"another body than certified, {place}"
        assert change.nodes  # those of the graph that call it


def test_every_flipped_bit_of_the_certificate_is_caught(tiny: Tiny) -> None:
    draw = random.Random(3)
    for _ in range(40):
        proto = tiny.copy()
        text = bytearray(metadata(proto)[certificate.KEY].encode())
        text[draw.randrange(len(text))] ^= 1 << draw.randrange(7)
        set_metadata(proto, certificate.KEY, text.decode())
        with pytest.raises(MnqError) as caught:
            changes(parse(proto, "tiny.onnx"))
        assert "certificate" in str(caught.value) or "metadata" in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_flipped_bit_of_other_metadata_is_caught_and_named(proto: ModelProto) -> None:
    edit_json(proto, "mnq.output", scales=[1.0])
    assert str(only(proto)) == "metadata 'mnq.output': another text than certified"


@pytest.mark.onnxruntime
def test_any_flipped_bit_of_the_file_is_caught_or_harmless(tiny: Tiny) -> None:
    """Of the whole file, names and comments included. Harmless: every integer is as certified."""
    draw, harmless = random.Random(4), 0
    for _ in range(120):
        data = bytearray(tiny.data)
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)
        proto = ModelProto()
        try:
            proto.ParseFromString(bytes(data))
            model = parse(proto, "tiny.onnx")
            if changes(model):
                continue
        except (DecodeError, MnqError):
            continue
        harmless += 1
        try:
            assert check_certificate(model, "disabled").passed
        except InputError:  # onnxruntime refuses it: a name, or a declared type
            continue
    assert 0 < harmless < 20  # comments and the like


def spoil_names(proto: ModelProto) -> Iterator[tuple[str, Callable[[], Any], str]]:
    graph = proto.graph
    weights = initializer(proto, "head.w")
    yield "extra constant", lambda: graph.initializer.add(name="x"), "constant 'x': not certified"
    yield (
        "constant twice",
        lambda: graph.initializer.append(weights),
        "constant 'head.w' of node 'head': there more than once",
    )
    yield (
        "constant gone",
        lambda: graph.initializer.remove(weights),
        "constant 'head.w' of node 'head': missing",
    )
    yield "node gone", lambda: graph.node.pop(), "node 'logits': missing"
    yield (
        "operator set",
        lambda: setattr(proto.opset_import[0], "version", 20),
        "graph: other inputs, outputs or operator sets than certified",
    )
    yield (
        "function gone",
        lambda: proto.functions.remove(next(f for f in proto.functions if f.name == "LutGelu")),
        "function 'LutGelu' of node 'blocks.0.mlp.act': missing",
    )


@pytest.mark.parametrize("number", range(6))
def test_what_is_missing_or_too_much_is_named(proto: ModelProto, number: int) -> None:
    _, spoil, text = list(spoil_names(proto))[number]
    spoil()
    assert str(only(proto)) == text


def test_a_body_with_another_number_of_nodes_is_a_change(proto: ModelProto) -> None:
    (function,) = [f for f in proto.functions if f.name == "LutGelu"]
    count = len(function.node)
    function.node.add(op_type="Identity", output=["more"])
    assert only(proto).found.endswith(f", {count + 1} nodes in place of {count}")


def test_other_inputs_of_a_function_are_a_change(proto: ModelProto) -> None:
    (function,) = [f for f in proto.functions if f.name == "LutGelu"]
    function.input[:] = reversed(function.input)
    assert only(proto).found.endswith(", at its inputs, outputs or attributes")


def test_a_function_that_others_call_reaches_their_nodes(proto: ModelProto) -> None:
    (function,) = [f for f in proto.functions if f.name == "Requantize"]
    function.node[0].op_type += "X"
    change = only(proto)
    assert {"head", "blocks.0.attn.context"} <= {*change.nodes}  # at two levels of calls
    assert f"of node 'patch_embed.proj' and {len(change.nodes) - 1} more" in str(change)


def test_a_tensor_that_cannot_be_read_is_a_change(proto: ModelProto) -> None:
    initializer(proto, "head.w").dims[0] += 1
    assert only(proto).name == "head.w"


def test_names_that_are_no_text_are_changes_and_no_errors(tiny: Tiny) -> None:
    data = tiny.data.replace(b"head.bias", b"head\xffbias")
    proto = ModelProto()
    proto.ParseFromString(data)
    set_metadata(proto, certificate.KEY, metadata(tiny.copy())[certificate.KEY])
    set_metadata(proto, "mnq.tensors", metadata(tiny.copy())["mnq.tensors"])
    found = {(change.kind, change.name) for change in changes(parse(proto, "tiny.onnx"))}
    assert {("constant", "head.bias"), ("node", "head")} <= found


def test_a_file_with_two_changes_names_both_and_constants_first(proto: ModelProto) -> None:
    proto.graph.node[-1].op_type = "Neg"
    flip_bit(proto, "norm.bq", 0, 0)
    found = changes(parse(proto, "tiny.onnx"))
    assert [(change.kind, change.name) for change in found] == [
        ("constant", "norm.bq"),
        ("node", "logits"),
    ]


def test_a_damaged_certificate_says_so(model: ModelFile) -> None:
    model.certificate["seed"] += 1
    with pytest.raises(CheckFailed, match=r"its own digest differs"):
        changes(model)


def test_a_certificate_of_other_contents_is_refused_in_form(model: ModelFile) -> None:
    with pytest.raises(InputError, match=r"^certificate: expected mnq-certificate/2"):
        changes(recertified(model, constants={}, nodes=[]))


def test_the_digests_are_small(model: ModelFile) -> None:
    """One digest for equal constants, and a few digits for each node of a function."""
    found = contents.digests(model.proto)
    assert len(found["constants"]) < len(model.proto.graph.initializer)
    assert sum(map(len, found["constants"].values())) == len(model.proto.graph.initializer)
    assert len(json.dumps(found)) < 20_000
