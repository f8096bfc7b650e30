import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, numpy_helper
from onnx.inliner import inline_local_functions
from runtime_tiny import Tiny, flip_bit, recertified

from mnq.runtime import certified, contents, replay
from mnq.runtime.bisect import Part
from mnq.runtime.certified import Right
from mnq.runtime.finding import Finding, find
from mnq.runtime.modelfile import ModelFile
from mnq.runtime.pieces import Pieces
from mnq.runtime.place import Place
from mnq.runtime.repro import write
from mnq.runtime.session import LEVELS, PROVIDERS

pytestmark = pytest.mark.onnxruntime

PLACE = Place("functions", "basic", threads=1)


@pytest.fixture
def found(tiny: Tiny, model: ModelFile) -> Finding:
    """Of a model with a wrong weight, beside PyTorch."""
    flip_bit(model.proto, "blocks.0.mlp.act.w", 3, 6)
    right = Right({"image": tiny.images, **tiny.reference(tiny.images)}, None)
    found = find(model, right, PLACE, lambda text: None)
    assert found is not None
    return found


@pytest.fixture
def folder(tmp_path: Path, model: ModelFile, found: Finding) -> Path:
    write(tmp_path, model, found, contents.changes(model), ["what is wrong", "and why"])
    return tmp_path


def tensor(path: Path) -> TensorProto:
    return TensorProto.FromString(path.read_bytes())


def test_the_folder_has_the_layout_of_onnx_backend_tests(folder: Path, found: Finding) -> None:
    names = sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())
    data = [f"test_data_set_0/{name}.pb" for name in ("found_0", "input_0", "output_0")]
    assert names == ["README.txt", "model.onnx", "report.json", "run.py", *data]
    model = onnx.load(folder / "model.onnx")
    onnx.checker.check_model(model, full_check=True)
    assert [node.op_type for node in model.graph.node] == ["QLinearLut"]
    source = tensor(folder / "test_data_set_0/input_0.pb")
    assert source.name == model.graph.input[0].name == "blocks.0.norm2"
    output = tensor(folder / "test_data_set_0/output_0.pb")
    assert output.name == model.graph.output[0].name == "blocks.0.mlp.act"
    expected, wrong = found.part.expected, found.part.found
    assert expected is not None
    np.testing.assert_array_equal(numpy_helper.to_array(output), expected)
    np.testing.assert_array_equal(
        numpy_helper.to_array(tensor(folder / "test_data_set_0/found_0.pb")), wrong
    )


def test_the_report_says_all_that_is_known(folder: Path, model: ModelFile) -> None:
    report = json.loads((folder / "report.json").read_text())
    assert (report["format"], report["model"]) == ("mnq-repro/1", "tiny")
    assert (report["tensor"], report["module"]) == (
        "blocks.0.mlp.act",
        "blocks.0.mlp.fc1, blocks.0.mlp.act",
    )
    assert len(report["index"]) == 3 and report["expected"] != report["found"]
    assert report["place"] == PLACE.to_json()
    assert report["certified_digest"] == model.certificate["tensors"]["blocks.0.mlp.act"]
    assert "constant 'blocks.0.mlp.act.w' of node 'blocks.0.mlp.act'" in report["causes"][0]
    assert report["changes"] and report["constants"][0] == "blocks.0.mlp.act.w"
    assert {"python", "onnx", "numpy", "file"} <= set(report["versions"])
    assert set(report["processor"]) == {"name", "features"}
    assert {"engine": "reference"} in [other["place"] for other in report["elsewhere"]]


def test_the_readme_says_what_is_wrong_and_how_to_run_it(folder: Path) -> None:
    text = (folder / "README.txt").read_text()
    assert "what is wrong\nand why\n" in text
    assert "python run.py\n" in text


def run(folder: Path) -> subprocess.CompletedProcess[str]:
    """As a stranger does: in a Python that finds no mnq."""
    code = "import runpy, sys; sys.modules['mnq'] = None; sys.argv = sys.argv[1:]; "
    code += "runpy.run_path(sys.argv[0], run_name='__main__')"
    command = [sys.executable, "-c", code, str(folder / "run.py")]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_the_folder_reproduces_it_without_mnq(folder: Path) -> None:
    done = run(folder)
    report = json.loads((folder / "report.json").read_text())
    assert done.returncode == 0, done.stderr
    first, second, third = done.stdout.splitlines()
    assert first == f"{report['differing_integers']} of 1600 integers differ from output_0.pb"
    at, expected, found = report["index"], report["expected"], report["found"]
    assert second == f"index {at}: expected {expected}, found {found}"
    assert third == "the same integers as in found_0.pb"


def test_integers_that_do_not_come_again_are_status_1(folder: Path) -> None:
    data = folder / "test_data_set_0"
    (data / "found_0.pb").write_bytes((data / "output_0.pb").read_bytes())
    done = run(folder)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (
        1,
        "other integers than in found_0.pb",
    )


def test_without_expected_integers_the_folder_says_so(model: ModelFile, tmp_path: Path) -> None:
    flip_bit(model.proto, "blocks.0.mlp.act.w", 3, 6)
    forged = recertified(model, **contents.digests(model.proto))
    place = Place("reference")
    found = find(forged, certified.right(forged), place, lambda text: None)
    assert found is not None
    write(tmp_path, forged, found, [], [])
    assert not (tmp_path / "test_data_set_0/output_0.pb").exists()
    assert "missing, only its digest is certified" in (tmp_path / "README.txt").read_text()
    assert replay.main(tmp_path, "") == 0


def test_a_part_inside_a_function_is_of_standard_operators(
    model: ModelFile, found: Finding, tmp_path: Path
) -> None:
    inner = Finding(found.kind, "m", found.place, found.part, _product(found), [])
    write(tmp_path, model, inner, [], [])
    assert [n.op_type for n in onnx.load(tmp_path / "model.onnx").graph.node] == ["MatMulInteger"]
    assert json.loads((tmp_path / "report.json").read_text())["standard_operators"] != []


def _product(found: Finding) -> Part:
    """The product inside the layer of a finding, with the right integers off by one."""
    inlined = inline_local_functions(found.part.piece.model)
    (name,) = [n.output[0] for n in inlined.graph.node if n.op_type == "MatMulInteger"]
    values = Place("reference").run(inlined, found.part.feeds, [name])
    piece = Pieces(inlined, [name], {**found.part.feeds, **values}).cut(name)
    return Part(piece, 1, found.part.feeds, values[name] + 1, values[name])


@pytest.mark.native
def test_kernels_need_the_library_to_be_named(
    model: ModelFile, found: Finding, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = Place("kernels", "all", path="portable")
    write(tmp_path, model, Finding(found.kind, "m", place, found.part, None, []), [], [])
    assert "python run.py libmnq_ops.so\n" in (tmp_path / "README.txt").read_text()
    assert replay.main(tmp_path, "") == 2
    assert capsys.readouterr().out.startswith("run: expected mnq's library, found none; python run")


def test_the_script_knows_the_levels_and_providers_of_mnq() -> None:
    assert (replay.LEVELS, replay.PROVIDERS) == (LEVELS, PROVIDERS)
