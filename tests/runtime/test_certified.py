import numpy as np
import pytest
from runtime_tiny import Tiny, flip_bit, recertified

from mnq.ops.errors import CheckFailed, EnvironmentLack, InputError
from mnq.runtime import certified
from mnq.runtime.modelfile import ModelFile
from mnq.runtime.place import Place

pytestmark = pytest.mark.onnxruntime


def test_digests_are_in_the_order_of_execution(model: ModelFile) -> None:
    shuffled = dict(reversed(model.certificate["tensors"].items()))
    found = certified.digests(recertified(model, tensors=shuffled))
    assert list(found) == ["input.codes", *model.tensors]


def test_outputs_are_copies_of_certified_tensors(model: ModelFile) -> None:
    assert certified.returned(model) == {"logits": "head"}
    model.proto.graph.node[-1].input[0] = "head.bias"
    with pytest.raises(InputError, match=r"^verify: expected outputs that are .* 'head.bias'; exp"):
        certified.returned(model)


def test_the_right_integers_are_those_of_pytorch(tiny: Tiny, model: ModelFile) -> None:
    right = certified.right(model)
    assert right.lost is None
    source = right.values.pop("image")
    expected = tiny.reference(source)
    assert list(right.values) == list(expected)
    for name, values in expected.items():
        np.testing.assert_array_equal(right.values[name], values)


def test_what_a_session_does_not_compute_right_onnx_reference_does(
    tiny: Tiny, model: ModelFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No session runs at all: operator by operator, from the image on."""

    def broken(*_: object, **__: object) -> None:
        raise EnvironmentLack("no sessions")

    monkeypatch.setattr("mnq.runtime.place.open_session", broken)
    notes: list[str] = []
    right = certified.right(model, notes.append)
    assert right.lost is None
    np.testing.assert_array_equal(
        right.values["head"], tiny.reference(right.values["image"])["head"]
    )
    assert notes[-1] == "looking for the certified integers: onnx.reference, head"


def test_a_tensor_that_nothing_computes_as_certified_is_lost(model: ModelFile) -> None:
    flip_bit(model.proto, "blocks.0.mlp.act.w", 3, 6)
    right = certified.right(model)
    assert right.lost == "blocks.0.mlp.act"
    assert list(right.values)[-1] == "blocks.0.norm2"


def test_a_body_that_cannot_run_loses_its_tensor(
    model: ModelFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mnq.runtime.session.library_path", lambda: None)  # kernels read none
    (function,) = [f for f in model.proto.functions if f.name == "LutGelu"]
    function.node[0].op_type = "Nothing"
    assert certified.right(model).lost == "blocks.0.mlp.act"


def test_images_of_a_damaged_certificate_are_refused(model: ModelFile) -> None:
    assert certified.images(model).shape == (2, 3, 16, 16)
    model.certificate["seed"] = 3
    with pytest.raises(CheckFailed, match="its own digest differs"):
        certified.images(model)


def test_the_certificate_holds_at_onnx_reference(model: ModelFile) -> None:
    from mnq.runtime.verify import check_at

    run = check_at(model, Place("reference"))
    assert run.passed
    assert (run.name, run.tensors) == ("certificate, onnx.reference", len(model.tensors) + 2)
