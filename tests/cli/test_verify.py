import json
from collections.abc import Callable
from importlib import metadata as packages
from pathlib import Path

import onnx
import pytest
from cli_runs import Digits, mnq, payload, refused, start
from onnx import ModelProto, TensorProto, helper, numpy_helper

from mnq.runtime import certificate, contents, session

pytestmark = pytest.mark.onnxruntime


def table_rows(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines()[1:]]


def test_the_certificate_holds_at_every_level(exported: Digits) -> None:
    result = mnq("verify", exported.onnx, "--no-kernels", "--quiet")
    assert result.exit_code == 0
    assert result.stderr == ""
    assert table_rows(result.stdout) == [
        ["integers", "only", "0", "float", "ok"],
        ["the", "file", "as", "certified", "0", "ok"],
        *(
            ["certificate,", "cpu,", "level", level, "2", "46", "0", "ok"]
            for level in ("disabled", "basic", "extended", "all")
        ),
    ]


@pytest.mark.native
def test_functions_and_kernels_are_both_verified(exported: Digits) -> None:
    options = ("--level", "all", "--quiet")
    functions = ["certificate,", "cpu,", "level", "all", "2", "46", "0", "ok"]
    kernels = ["certificate,", "cpu", "kernels,", "level", "all", "2", "46", "0", "ok"]
    both = mnq("verify", exported.onnx, *options)
    assert (both.exit_code, both.stderr) == (0, "")
    assert table_rows(both.stdout)[2:] == [functions, kernels]
    assert table_rows(mnq("verify", exported.onnx, "--kernels", *options).stdout)[2:] == [kernels]


@pytest.mark.native
def test_kernels_run_at_every_level_and_the_slow_functions_at_one(exported: Digits) -> None:
    found = payload(mnq("verify", exported.onnx, "--json"))
    assert [run["name"].removeprefix("certificate, ") for run in found["runs"]] == [
        "cpu kernels, level disabled",
        "cpu kernels, level basic",
        "cpu kernels, level extended",
        "cpu, level all",
        "cpu kernels, level all",
    ]


@pytest.mark.native
def test_kernels_are_compared_with_pytorch(exported: Digits) -> None:
    options = ("--images", exported.test, "--count", 20, "--kernels", "--json")
    (run,) = payload(mnq("verify", exported.onnx, *options))["runs"]
    assert run["name"] == "reference, cpu kernels, level all"
    assert (run["images"], run["tensors"], run["differing_integers"]) == (20, 45, 0)


def test_a_missing_library_is_said_plainly(
    exported: Digits, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "library_path", lambda: None)
    monkeypatch.setattr(session, "why_no_library", lambda: "expected g++, found none; install it")
    result = mnq("verify", exported.onnx, "--level", "all", "--quiet")
    assert result.exit_code == 0
    assert len(table_rows(result.stdout)) == 3
    assert result.stderr == (
        "warning: kernels are not verified: expected libmnq_ops.so, found none: expected g++, "
        "found none; install it\n"
    )
    assert "expected libmnq_ops.so, found none: expected g++, found none; install it" in refused(
        "verify", exported.onnx, "--kernels", status=3
    )


def test_pytorch_is_compared_integer_by_integer(exported: Digits) -> None:
    found = payload(
        mnq(
            *("verify", exported.onnx, "--images", exported.test, "--count", 20),
            *("--no-kernels", "--json"),
        )
    )
    assert found["passed"] is True
    assert (found["model"], found["float_tensors"], found["skipped_images"]) == ("digits", [], 0)
    (run,) = found["runs"]
    assert (run["images"], run["tensors"], run["differing_integers"]) == (20, 45, 0)


def test_levels_can_be_chosen(exported: Digits) -> None:
    levels = ("--level", "basic", "--level", "disabled")
    found = payload(mnq("verify", exported.onnx, *levels, "--threads", 1, "--no-kernels", "--json"))
    assert [run["name"] for run in found["runs"]] == [
        "certificate, cpu, 1 thread, level basic",
        "certificate, cpu, 1 thread, level disabled",
    ]


def test_a_corrupt_image_is_named_skipped_and_counted(exported: Digits, tmp_path: Path) -> None:
    for number, path in enumerate(sorted(exported.test.glob("3/*.png"))[:4]):
        data = path.read_bytes()
        (tmp_path / f"{number}.png").write_bytes(data[:50] if number == 1 else data)
    result = mnq("verify", exported.onnx, "--images", tmp_path, "--no-kernels", "--json")
    found = payload(result)
    assert (found["skipped_images"], found["runs"][0]["images"]) == (1, 3)
    assert result.stderr.startswith("warning: skipped image 1.png: ")
    assert len(result.stderr.splitlines()) == 1


@pytest.fixture
def tampered(exported: Digits, tmp_path: Path) -> Callable[[Callable[[ModelProto], None]], Path]:
    """A function from a change of the model to the file of the changed model."""

    def write(change: Callable[[ModelProto], None]) -> Path:
        model = onnx.load(exported.onnx)
        change(model)
        path = tmp_path / "tampered.onnx"
        onnx.save(model, path)
        return path

    return write


def other_integer(model: ModelProto) -> None:
    """Change one bias of the second block's first linear layer, by much more than a code."""
    names = [t.name for t in model.graph.initializer]
    tensor = model.graph.initializer[names.index("blocks.1.mlp.act.bias")]
    values = numpy_helper.to_array(tensor).copy()
    values.flat[0] += 10_000
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))


def float_detour(model: ModelProto) -> None:
    """Pass what the head reads through float; every integer stays the same."""
    at, head = next((i, n) for i, n in enumerate(model.graph.node) if n.output[0] == "head")
    source, head.input[0] = head.input[0], "back"
    for new in (
        helper.make_node("Cast", ["detour"], ["back"], to=TensorProto.INT8),
        helper.make_node("Cast", [source], ["detour"], to=TensorProto.DOUBLE),
    ):
        model.graph.node.insert(at, new)


Tampered = Callable[[Callable[[ModelProto], None]], Path]


def test_one_changed_integer_is_found_and_named(tampered: Tampered) -> None:
    path = tampered(other_integer)
    options = ("--level", "all", "--no-kernels")
    result = mnq("verify", path, *options, "--json")
    assert result.exit_code == 1
    report = json.loads(result.stdout)
    assert report["passed"] is False
    assert report["runs"][0]["first"]["module"] == "blocks.1.mlp.fc1, blocks.1.mlp.act"
    (change,) = report["changes"]
    assert (change["kind"], change["name"]) == ("constant", "blocks.1.mlp.act.bias")
    assert change["nodes"] == ["blocks.1.mlp.act"]
    assert result.stderr == (
        "mnq-verify: error: verify: expected the file that was certified, found a changed one: "
        "constant 'blocks.1.mlp.act.bias' of node 'blocks.1.mlp.act': other values than "
        "certified; get the file again, or export the model again\n"
    )
    shown = mnq("verify", path, *options, "--quiet")
    assert shown.exit_code == 1
    assert [row[-1] for row in table_rows(shown.stdout)] == ["ok", "FAILED", "FAILED"]


def test_one_changed_integer_is_located_with_pytorch(tampered: Tampered, exported: Digits) -> None:
    path = tampered(other_integer)
    result = mnq("verify", path, "--images", exported.test, "--count", 8, "--json")
    assert result.exit_code == 1
    first = json.loads(result.stdout)["runs"][0]["first"]
    assert first["module"] == "blocks.1.mlp.fc1, blocks.1.mlp.act"
    assert len(first["index"]) == 3
    assert first["expected"] != first["found"]


def test_a_changed_body_is_found_where_only_kernels_run(tampered: Tampered) -> None:
    def other_body(model: ModelProto) -> None:
        (function,) = [f for f in model.functions if f.name == "LutGelu"]
        function.node[0].attribute[0].i ^= 1

    result = mnq("verify", tampered(other_body), "--level", "all", "--json")
    assert result.exit_code == 1
    assert "function 'LutGelu' of node 'blocks.0.mlp.act' and" in result.stderr
    assert "another body than certified, at node 0 (Cast 't0')" in result.stderr


def test_a_file_that_does_not_run_any_more_is_a_changed_file(tampered: Tampered) -> None:
    def other_operator(model: ModelProto) -> None:
        model.graph.node[7].op_type = "Nothing"

    result = mnq("verify", tampered(other_operator), "--json")
    assert result.exit_code == 1
    report = json.loads(result.stdout)
    assert report["changes"][0]["kind"] == "node"
    assert report["runs"][0]["refused"]
    assert result.stderr.startswith("mnq-verify: error: verify: expected the file that was certif")


def test_a_damaged_certificate_is_a_changed_file(tampered: Tampered) -> None:
    def other_digit(model: ModelProto) -> None:
        (entry,) = [p for p in model.metadata_props if p.key == "mnq.certificate"]
        entry.value = entry.value.replace('"seed":2024', '"seed":2025')

    line = refused("verify", tampered(other_digit), status=1)
    assert "expected the certificate that was exported, found a changed one" in line


def test_a_float_tensor_is_found_and_named(tampered: Tampered) -> None:
    """In a file whose certificate was made after the change."""

    def certified(model: ModelProto) -> None:
        float_detour(model)
        (entry,) = [p for p in model.metadata_props if p.key == certificate.KEY]
        made = {**json.loads(entry.value), **contents.digests(model)}
        entry.value = json.dumps(certificate.seal(made))

    result = mnq("verify", tampered(certified), "--level", "all", "--json")
    assert result.exit_code == 1
    report = json.loads(result.stdout)
    assert (report["float_tensors"], report["changes"]) == (["detour"], [])
    assert report["runs"][0]["differing_tensors"] == 0
    assert "expected integers only, found 1 float tensors (detour)" in result.stderr


def foreign(path: Path) -> Path:
    shape: list[int | str | None] = ["batch", 3]
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in "xy")
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "g", [x], [y])
    onnx.save(helper.make_model(graph), path)
    return path


def test_a_file_that_is_no_model_of_ours(exported: Digits, tmp_path: Path) -> None:
    half = tmp_path / "half.onnx"
    half.write_bytes(exported.onnx.read_bytes()[:100_000])
    text = tmp_path / "text.onnx"
    text.write_text("no model")
    empty = tmp_path / "empty.onnx"
    empty.touch()
    assert "found 'no mnq metadata'" in refused("verify", foreign(tmp_path / "f.onnx"))
    assert "check the path" in refused("verify", tmp_path / "nothing.onnx")
    assert "check the path" in refused("verify", tmp_path)
    for path in (half, text):
        assert "expected an .onnx file, found something else" in refused("verify", path)
    assert "found an empty one" in refused("verify", empty)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--level", "full"], "expected one of disabled, basic, extended, all, found 'full'"),
        (["--provider", "npu"], "expected one of cpu, cuda, found 'npu'"),
        (["--count", 0], "0 is not in the range"),
        (["--threads", -1], "-1 is not in the range"),
        (["--random-weights", 1], "expected --images beside weights, found none"),
        (["--images", "nowhere"], "found nothing there"),
    ],
)
def test_bad_options(options: list[object], message: str, exported: Digits) -> None:
    assert message in refused("verify", exported.onnx, *options)


def test_weights_of_another_export(exported: Digits) -> None:
    line = refused("verify", exported.onnx, "--images", exported.test, "--random-weights", 1)
    assert "expected the weights that digits was exported from, found others" in line


def test_an_onnxruntime_that_is_too_old(exported: Digits, monkeypatch: pytest.MonkeyPatch) -> None:
    import onnxruntime

    monkeypatch.setattr(onnxruntime, "__version__", "1.20.1")
    line = refused("verify", exported.onnx, status=3)
    assert "expected 1.21 or newer, found 1.20.1; pip install" in line


def test_both_wheels_of_onnxruntime(exported: Digits, monkeypatch: pytest.MonkeyPatch) -> None:
    real = packages.version
    monkeypatch.setattr(
        packages, "version", lambda name: "1.31.1" if "onnxruntime" in name else real(name)
    )
    line = refused("verify", exported.onnx, status=3)
    assert "found onnxruntime and onnxruntime-gpu; pip uninstall" in line


def test_a_provider_that_is_not_there(exported: Digits) -> None:
    import onnxruntime

    if "CUDAExecutionProvider" in onnxruntime.get_available_providers():
        pytest.skip("missing absence: this onnxruntime has the CUDA provider")
    assert "expected CUDAExecutionProvider, found " in refused(
        "verify", exported.onnx, "--provider", "cuda", status=3
    )


def test_verify_needs_no_torch(exported: Digits) -> None:
    """The certificate is checked on machines that have the base install and a runtime only."""
    before = "sys.modules['torch'] = sys.modules['timm'] = None"
    process = start("verify", exported.onnx, "--level", "all", "--json", before=before)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert json.loads(out)["passed"] is True


def test_overflow_shows_the_range_of_every_tensor(exported: Digits) -> None:
    options = ("--no-kernels", "--level", "all", "--overflow")
    text = mnq("verify", exported.onnx, *options, "--quiet").stdout
    assert ["input.codes", "Patches", "-128..127", "8/8", "0", "int64", "56"] in table_rows(text)
    assert "no integer can overflow; bits to spare:" in text
    found = payload(mnq("verify", exported.onnx, *options, "--json"))["overflow"]
    assert set(found["tightest"]) == {"int64", "sum", "int32"}
    assert len(found["tensors"]) == 45
    assert all(entry["bits"][0] <= entry["bits"][1] for entry in found["tensors"].values())
