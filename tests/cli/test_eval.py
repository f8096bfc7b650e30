from pathlib import Path

import onnx
import pytest
from cli_runs import Digits, mnq, payload, refused
from onnx import TensorProto, helper

from mnq.models.digits.model import WEIGHTS
from mnq.runtime import session

pytestmark = pytest.mark.onnxruntime


def classifier(path: Path, shape: list[str | int], classes: int, inputs: int = 1) -> Path:
    """A float .onnx that answers with the first pixels of the image."""
    images = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in "xz"[:inputs]
    ]
    logits = helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", classes])
    tensors = [
        helper.make_tensor("start", TensorProto.INT64, [1], [0]),
        helper.make_tensor("stop", TensorProto.INT64, [1], [classes]),
        helper.make_tensor("axis", TensorProto.INT64, [1], [1]),
    ]
    nodes = [
        helper.make_node("Flatten", ["x"], ["flat"]),
        helper.make_node("Slice", ["flat", "start", "stop", "axis"], ["y"]),
    ]
    graph = helper.make_graph(nodes, "classifier", images, [logits], tensors)
    opsets = [helper.make_opsetid("", 21)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), path)
    return path


def test_float_and_integer_model_side_by_side(exported: Digits) -> None:
    found = payload(
        mnq("eval", exported.onnx, "--float", "--images", exported.test, "--batch", 64, "--json")
    )
    assert (found["images"], found["skipped_images"]) == (str(exported.test), 0)
    reference, integers = found["models"]
    assert (reference["name"], reference["images"]) == ("digits (float)", 355)
    assert reference["agreement"] is None
    assert integers["name"] == str(exported.onnx)
    # Float 98.6 %; with exact tables at 8 bits one or two of the 355 answers may change.
    assert reference["top1"] > 97
    assert integers["agreement"] > 99
    assert integers["logit_sqnr_db"] > 30
    assert abs(integers["top1"] - reference["top1"]) < 1
    assert integers["gained"] <= 2
    assert integers["lost"] <= 2


@pytest.mark.native
def test_kernels_judge_as_functions_do(exported: Digits) -> None:
    options = ("--float", "--images", exported.test, "--limit", 50, "--json")
    with_kernels, without = (
        payload(mnq("eval", exported.onnx, *options, form))
        for form in ("--kernels", "--no-kernels")
    )
    assert with_kernels == without


def test_kernels_that_are_not_there(exported: Digits, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "library_path", lambda: None)
    images = ("--images", exported.test, "--limit", 10)
    assert mnq("eval", exported.onnx, *images).exit_code == 0
    line = refused("eval", exported.onnx, *images, "--kernels", status=3)
    assert "kernels: expected libmnq_ops.so, found none: " in line


def test_table_for_people(exported: Digits) -> None:
    options = ("--float-weights", WEIGHTS, "--images", exported.test, "--limit", 30, "--quiet")
    result = mnq("eval", exported.onnx, *options)
    assert result.exit_code == 0
    assert result.stderr == ""
    head, reference, integers = result.stdout.splitlines()
    heads = ("model", "images", "top-1 %", "top-5 %", "agree %", "SQNR dB", "won", "lost")
    assert head.split() == " ".join(heads).split(" ")
    assert reference.split()[:3] == ["digits", "(float)", "30"]
    assert reference.split()[-4:] == ["-"] * 4
    assert integers.split()[:2] == [str(exported.onnx), "30"]


def test_any_float_onnx_can_be_judged(exported: Digits, tmp_path: Path) -> None:
    path = classifier(tmp_path / "m.onnx", ["batch", 1, 8, 8], 10)
    batch_of_7 = classifier(tmp_path / "fixed.onnx", [7, 1, 8, 8], 10)
    options = ("--images", exported.test, "--limit", 30, "--json")
    for arguments in ([path, batch_of_7, "--model", "digits"], [path, batch_of_7, exported.onnx]):
        free, fixed, *_ = payload(mnq("eval", *arguments, *options))["models"]
        assert free["images"] == 30
        assert free["top1"] < 50
        assert {**fixed, "name": free["name"]} == free


def test_images_without_labels_have_agreement_only(exported: Digits, tmp_path: Path) -> None:
    for path in sorted(exported.test.glob("3/*.png"))[:9]:
        (tmp_path / path.name).write_bytes(path.read_bytes())
    options = ("--float", "--images", tmp_path, "--json")
    _, integers = payload(mnq("eval", exported.onnx, *options))["models"]
    assert (integers["images"], integers["top1"], integers["lost"]) == (9, None, None)
    assert integers["agreement"] > 80


def test_a_corrupt_image_is_named_skipped_and_counted(exported: Digits, tmp_path: Path) -> None:
    folder = tmp_path / "3"
    folder.mkdir()
    for number, path in enumerate(sorted(exported.test.glob("3/*.png"))[:4]):
        data = path.read_bytes()
        (folder / f"{number}.png").write_bytes(data[:50] if number == 1 else data)
    result = mnq("eval", exported.onnx, "--images", tmp_path, "--json")
    found = payload(result)
    assert (found["skipped_images"], found["models"][0]["images"]) == (1, 3)
    assert result.stderr.startswith("warning: skipped image 3/1.png: ")
    assert len(result.stderr.splitlines()) == 1


def test_bad_use(exported: Digits, tmp_path: Path) -> None:
    images = ("--images", exported.test)
    assert "Missing option '--images'" in refused("eval", exported.onnx)
    assert "expected an .onnx or --float, found neither" in refused("eval", *images)
    assert "expected cpu or cuda" in refused("eval", exported.onnx, *images, "--provider", "tpu")
    assert "found nothing there" in refused("eval", exported.onnx, "--images", tmp_path / "no")
    assert "found 0; " in refused("eval", exported.onnx, "--images", tmp_path)
    for option in ("--limit", "--batch"):
        assert "0 is not in the range" in refused("eval", exported.onnx, *images, option, 0)
    foreign = classifier(tmp_path / "m.onnx", ["batch", 1, 8, 8], 10)
    assert "expected --model for an .onnx that is not ours" in refused("eval", foreign, *images)
    assert "check the path" in refused("eval", tmp_path / "no.onnx", *images)


def test_models_that_do_not_fit(exported: Digits, tmp_path: Path) -> None:
    images = ("--images", exported.test, "--limit", 10)
    colours = classifier(tmp_path / "colours.onnx", ["batch", 3, 8, 8], 10)
    assert "expected to run the model on float32 [8, 1, 8, 8]" in refused(
        "eval", colours, "--model", "digits", *images
    )
    two_inputs = classifier(tmp_path / "two.onnx", ["batch", 1, 8, 8], 10, inputs=2)
    assert "one input and logits (N, classes), found 2 inputs" in refused(
        "eval", two_inputs, "--model", "digits", *images
    )
    other_classes = classifier(tmp_path / "other.onnx", ["batch", 1, 8, 8], 12)
    assert "found (10, 12) of " in refused("eval", exported.onnx, other_classes, *images)


def test_folders_that_are_no_classes(exported: Digits, tmp_path: Path) -> None:
    (tmp_path / "three").mkdir()
    image = next(exported.test.glob("3/*.png"))
    (tmp_path / "three" / "a.png").write_bytes(image.read_bytes())
    line = refused("eval", exported.onnx, "--images", tmp_path)
    assert "found 1 of 1 unknown: three; " in line


def test_a_float_model_that_is_not_that_of_the_file(exported: Digits, shared_data: Path) -> None:
    weights = shared_data / "deit_tiny_patch16_224.safetensors"
    if not weights.is_file():
        pytest.skip(f"missing data: {weights}")
    options = ("--model", "deit_t", "--float-weights", weights, "--images", exported.test)
    assert "expected models with one preprocessing and one class list" in refused(
        "eval", exported.onnx, *options
    )
