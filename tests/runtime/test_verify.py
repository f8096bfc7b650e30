import json
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from onnx import ModelProto, numpy_helper
from runtime_tiny import Tiny, edit_json, flip_bit, recertified

from mnq.ops.errors import EnvironmentLack, InputError
from mnq.ops.integer import INT8
from mnq.ops.qlinear.op import qlinear
from mnq.runtime.contents import changes
from mnq.runtime.modelfile import ModelFile, parse
from mnq.runtime.session import LEVELS, infer, open_session, with_all_outputs
from mnq.runtime.verify import Divergence, Report, Run, check_certificate, check_purity, compare

pytestmark = pytest.mark.onnxruntime

# Initializer, flat index, bit -> the first tensor that can differ, and its torch module.
FLIPS = [
    ("patch_embed.proj.w", 5, 6, "patch_embed.proj", "patch_embed.proj"),
    ("blocks.0.attn.qkv.w", 100, 6, "blocks.0.attn.qkv", "blocks.0.attn.qkv"),
    ("blocks.0.attn.qkv.bias", 3, 12, "blocks.0.attn.qkv", "blocks.0.attn.qkv"),
    ("blocks.0.mlp.act.m", 7, 29, "blocks.0.mlp.act", "blocks.0.mlp.fc1, blocks.0.mlp.act"),
    ("blocks.0.mlp.fc2.e", 0, 0, "blocks.0.mlp.fc2", "blocks.0.mlp.fc2"),
    ("norm.shift", 0, 1, "norm", "norm"),
    ("blocks.0.attn.context.table", 0, 7, "blocks.0.attn.context", "blocks.0.attn"),
    ("constant", 2, 9, "expand", ""),
]


def batches(tiny: Tiny) -> list[NDArray[Any]]:
    return [tiny.images[:2], tiny.images[2:4], tiny.images[4:]]


def run_all(proto: ModelProto, names: list[str], images: NDArray[Any]) -> list[NDArray[Any]]:
    return infer(open_session(with_all_outputs(proto, names)), images)


@pytest.mark.parametrize("level", LEVELS)
def test_an_untouched_model_passes_at_every_level(model: ModelFile, level: str) -> None:
    run = check_certificate(model, level)
    assert run.passed
    assert (run.images, run.tensors) == (2, len(model.tensors) + 2)  # input codes, plain output
    assert run.name == f"certificate, cpu, level {level}"


@pytest.mark.native
def test_an_untouched_model_passes_with_kernels(tiny: Tiny, model: ModelFile) -> None:
    run = check_certificate(model, "all", kernels=True)
    assert run.passed
    assert run.name == "certificate, cpu kernels, level all"
    run = compare(model, tiny.reference, batches(tiny), kernels=True)
    assert run.passed
    assert run.name == "reference, cpu kernels, level all"


@pytest.mark.native
def test_a_flipped_bit_is_found_with_kernels(tiny: Tiny, model: ModelFile) -> None:
    flip_bit(model.proto, "blocks.0.attn.qkv.w", 100, 6)
    run = compare(model, tiny.reference, [tiny.images], kernels=True)
    assert run.first is not None
    assert run.first.tensor == "blocks.0.attn.qkv"
    functions = compare(model, tiny.reference, [tiny.images])
    assert (run.first, run.differing_integers) == (functions.first, functions.differing_integers)


def test_an_untouched_model_equals_its_reference(tiny: Tiny, model: ModelFile) -> None:
    report = check_purity(model)
    assert not report.passed  # nothing compared yet
    report.runs.append(compare(model, tiny.reference, batches(tiny), "basic"))
    assert report.passed
    (run,) = report.runs
    assert (run.images, run.tensors, run.differing_integers) == (5, len(model.tensors) + 1, 0)
    assert run.name == "reference, cpu, level basic"
    assert json.loads(json.dumps(report.to_json()))["passed"] is True


def test_an_untouched_model_with_float_input_passes(tiny_float: Tiny) -> None:
    model = parse(tiny_float.copy(), "float.onnx")
    report = check_purity(model)
    report.runs = [check_certificate(model, "all")]
    report.runs.append(compare(model, tiny_float.reference, batches(tiny_float)))
    assert report.passed


@pytest.mark.parametrize(("initializer", "index", "bit", "tensor", "module"), FLIPS)
def test_a_flipped_bit_is_traced_to_the_first_tensor(
    tiny: Tiny, model: ModelFile, initializer: str, index: int, bit: int, tensor: str, module: str
) -> None:
    flip_bit(model.proto, initializer, index, bit)
    right = tiny.reference(tiny.images)
    found = dict(zip(right, run_all(model.proto, list(right), tiny.images), strict=True))
    wrong = {name: np.argwhere(found[name] != values) for name, values in right.items()}
    at = tuple(int(i) for i in wrong[tensor][0])

    run = compare(model, tiny.reference, [tiny.images])
    assert not run.passed
    expected = Divergence(tensor, module, list(at), int(right[tensor][at]), int(found[tensor][at]))
    assert run.first == expected
    assert run.differing_integers == sum(len(indices) for indices in wrong.values())
    assert run.differing_tensors == sum(len(indices) > 0 for indices in wrong.values())
    assert f"index {list(at)}: expected {expected.expected}, found" in str(run.first)


@pytest.mark.parametrize(("initializer", "index", "bit", "tensor", "module"), FLIPS[:4])
def test_the_certificate_names_the_first_tensor(
    model: ModelFile, initializer: str, index: int, bit: int, tensor: str, module: str
) -> None:
    flip_bit(model.proto, initializer, index, bit)
    run = check_certificate(model, "all")
    assert not run.passed
    assert run.first == Divergence(tensor, module)
    assert str(run.first).endswith(f"of torch module '{module}': other integers than certified")


def test_a_changed_code_of_the_gelu_table_is_found(tiny: Tiny, model: ModelFile) -> None:
    given = {t.name: numpy_helper.to_array(t) for t in model.proto.graph.initializer}
    fixed = [torch.tensor(given[f"blocks.0.mlp.act.{name}"]) for name in qlinear.inputs[1:]]
    x = torch.from_numpy(tiny.reference(tiny.images)["blocks.0.norm2"])
    used = int(qlinear(x, *fixed, to=INT8).flatten()[0])
    flip_bit(model.proto, "blocks.0.mlp.act.table", used + 128, 0)
    run = compare(model, tiny.reference, [tiny.images])
    assert run.first is not None
    assert (run.first.tensor, run.first.module) == (
        "blocks.0.mlp.act",
        "blocks.0.mlp.fc1, blocks.0.mlp.act",
    )
    assert abs(int(run.first.expected or 0) - int(run.first.found or 0)) == 1


def test_one_wrong_integer_counts_as_one(tiny: Tiny, model: ModelFile) -> None:
    def reference(images: NDArray[Any]) -> dict[str, NDArray[Any]]:
        results = tiny.reference(images)
        if len(images) == 1:  # the last batch
            results["norm"][0, 4, 15] += 1
        return results

    seen: list[int] = []
    run = compare(model, reference, batches(tiny), advance=seen.append)
    assert (run.differing_tensors, run.differing_integers, run.images) == (1, 1, 5)
    assert run.first is not None
    assert (run.first.tensor, run.first.index) == ("norm", [0, 4, 15])
    assert run.first.expected == int(run.first.found or 0) + 1
    assert seen == [2, 2, 1]


def test_a_tensor_that_differs_in_every_batch_is_one_tensor(tiny: Tiny, model: ModelFile) -> None:
    def reference(images: NDArray[Any]) -> dict[str, NDArray[Any]]:
        return {name: values + (name == "head") for name, values in tiny.reference(images).items()}

    run = compare(model, reference, batches(tiny))
    assert (run.differing_tensors, run.differing_integers) == (1, 5 * 5)
    assert run.first is not None
    assert run.first.index == [0, 0]


def test_equal_values_of_another_dtype_are_a_failure(tiny: Tiny, model: ModelFile) -> None:
    def reference(images: NDArray[Any]) -> dict[str, NDArray[Any]]:
        results = tiny.reference(images)
        return {**results, "norm": results["norm"].astype(np.int16)}

    run = compare(model, reference, [tiny.images])
    assert not run.passed
    assert (run.differing_tensors, run.differing_integers) == (1, 5 * 5 * 16)
    assert run.first == Divergence("norm", "norm", None, "int16 [5, 5, 16]", "int8 [5, 5, 16]")
    assert str(run.first).endswith(
        "module 'norm': expected int16 [5, 5, 16], found int8 [5, 5, 16]"
    )


def test_equal_values_of_another_shape_are_a_failure(tiny: Tiny, model: ModelFile) -> None:
    def reference(images: NDArray[Any]) -> dict[str, NDArray[Any]]:
        results = tiny.reference(images)
        return {**results, "head": results["head"][None]}

    run = compare(model, reference, [tiny.images])
    assert run.differing_integers == 5 * 5
    assert run.first == Divergence("head", "head", None, "int32 [1, 5, 5]", "int32 [5, 5]")


def test_comparing_nothing_proves_nothing(tiny: Tiny, model: ModelFile) -> None:
    assert not compare(model, tiny.reference, []).passed
    assert not Report("m", [], []).passed
    assert not Report("m", ["float"], [Run("r", 1, 1)]).passed
    assert Report("m", [], [Run("r", 1, 1)]).passed


def test_an_unknown_level_or_provider_is_refused(
    tiny: Tiny, model: ModelFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"])
    with pytest.raises(InputError, match=r"^verify: expected a level of disabled, basic, .*'most'"):
        compare(model, tiny.reference, [tiny.images], "most")
    with pytest.raises(EnvironmentLack, match=r"^onnxruntime: expected CUDAExecutionProvider"):
        check_certificate(model, "all", provider="cuda")


@pytest.mark.parametrize("tensor", ["input.codes", "blocks.0.norm1", "head"])
def test_a_wrong_digest_is_found(model: ModelFile, tensor: str) -> None:
    digests = {**model.certificate["tensors"], tensor: "0" * 64}
    changed = recertified(model, tensors=digests)
    run = check_certificate(changed, "basic")
    assert run.first is not None
    assert run.first.tensor == tensor
    assert run.differing_tensors == (2 if tensor == "head" else 1)  # head: the plain output too


def test_an_output_that_is_no_certified_tensor_is_refused(model: ModelFile) -> None:
    # Every certified tensor is right, but the file returns another one.
    model.proto.graph.node[-1].input[0] = "head.bias"
    with pytest.raises(InputError, match=r"^verify: expected outputs that are certified tensors"):
        check_certificate(model, "all")
    assert [str(change.kind) for change in changes(model)] == ["node"]


@pytest.mark.parametrize("change", [{"input": "0" * 64}, {"seed": 1}, {"images": 3}])
def test_other_images_than_certified_are_refused(model: ModelFile, change: dict[str, Any]) -> None:
    changed = recertified(model, **change)
    with pytest.raises(InputError, match=r"^certificate: expected the images of its seed, found"):
        check_certificate(changed, "all")


def test_a_certified_tensor_that_the_model_lacks_is_refused(model: ModelFile) -> None:
    digests = {**model.certificate["tensors"], "blocks.1.norm1": "0" * 64, "x": "0" * 64}
    changed = recertified(model, tensors=digests)
    with pytest.raises(InputError, match=r"^verify: .*found no 'blocks.1.norm1' \(2 missing\)"):
        check_certificate(changed, "all")


def test_a_tensor_that_is_not_certified_is_refused(model: ModelFile) -> None:
    digests = {**model.certificate["tensors"]}
    del digests["blocks.0.norm1"]
    changed = recertified(model, tensors=digests)
    with pytest.raises(InputError, match=r"^certificate: .*found none of 'blocks.0.norm1'"):
        check_certificate(changed, "all")


def test_a_reference_with_an_unknown_tensor_is_refused(tiny: Tiny, model: ModelFile) -> None:
    def reference(images: NDArray[Any]) -> dict[str, NDArray[Any]]:
        return {**tiny.reference(images), "blocks.7": images}

    with pytest.raises(InputError, match=r"^verify: expected \d+ named tensors .* 'blocks.7'"):
        compare(model, reference, [tiny.images])


def test_a_certificate_for_another_image_size_is_refused(proto: ModelProto) -> None:
    edit_json(proto, "mnq.preprocess", size=32, resize=32)
    with pytest.raises(InputError, match=r"^certificate: expected the images of its seed"):
        check_certificate(parse(proto, "m.onnx"), "all")
