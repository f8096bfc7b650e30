"""mnq-verify in every way that this machine can run a model, and what it does when one is wrong."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cli_runs import Digits, faulty_library, mnq, payload, refused, start

from mnq.runtime import matrix
from mnq.runtime.place import Place

pytestmark = pytest.mark.onnxruntime

FUNCTIONS = Place("functions", "disabled", threads=1)


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three places, one of which is not here."""
    places = [
        (FUNCTIONS, ""),
        (Place("functions", "disabled", "cuda"), "this onnxruntime has no GPU"),
        (Place("reference"), ""),
    ]
    monkeypatch.setattr(matrix, "rows", lambda threads: places)


def test_the_matrix_has_a_row_for_every_place(exported: Digits, few: None) -> None:
    result = mnq("verify", exported.onnx, "--matrix", "--quiet")
    assert (result.exit_code, result.stderr) == (0, "")
    assert [line.split() for line in result.stdout.splitlines()] == [
        ["check", "images", "tensors", "differing", "result"],
        ["integers", "only", "0", "float", "ok"],
        ["the", "file", "as", "certified", "0", "ok"],
        ["what", "runs", "threads", "disabled", "basic", "extended", "all"],
        ["functions,", "cpu", "1", "ok", "ok", "ok", "ok"],
        ["functions,", "cuda", *["not", "run"] * 4],
        ["onnx.reference", "ok"],
        ["not", "run:", "functions,", "cuda:", "this", "onnxruntime", "has", "no", "GPU"],
    ]


def test_the_matrix_as_json_has_every_cell(
    exported: Digits, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def rows(threads: int) -> list[tuple[Place, str]]:
        asked.append(threads)
        return [(Place("functions", "disabled", "cuda"), "no GPU"), (Place("reference"), "")]

    monkeypatch.setattr(matrix, "rows", rows)
    found = payload(mnq("verify", exported.onnx, "--matrix", "--json"))
    assert [cell["verdict"] for cell in found["matrix"]] == [*["not run"] * 4, "equal"]
    assert found["matrix"][1]["reason"] == "no GPU"
    assert found["matrix"][1]["place"] == {
        **{"engine": "functions", "level": "basic", "provider": "cuda", "threads": 0, "path": ""}
    }
    assert (len(found["runs"]), found["passed"], found["finding"]) == (1, True, None)
    mnq("verify", exported.onnx, "--matrix", "--threads", 5)
    assert asked[0] >= 2 and asked[1] == 5  # beside one thread


@pytest.mark.parametrize(
    "option",
    [["--level", "all"], ["--provider", "cpu"], ["--kernels"], ["--images", "x"], ["--count", 3]],
)
def test_the_matrix_takes_no_options_of_single_runs(exported: Digits, option: list[Any]) -> None:
    line = refused("verify", exported.onnx, "--matrix", *option)
    assert f"--matrix: expected no {option[0]} beside it, found one" in line


def test_a_folder_in_use_is_refused_before_anything_runs(exported: Digits, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    line = refused("verify", exported.onnx, "--repro", tmp_path)
    assert "expected a new or an empty folder" in line


def test_without_a_difference_there_is_no_folder(exported: Digits, tmp_path: Path) -> None:
    result = mnq("verify", exported.onnx, "--level", "all", "--repro", tmp_path / "wrong")
    assert result.exit_code == 0
    assert not (tmp_path / "wrong").exists()
    assert result.stderr.splitlines()[-1] == "nothing differs: no folder was written"


# --- a wrong kernel ---


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return faulty_library(tmp_path_factory.mktemp("fault"))


def verify(faulty: Path, fault: str, *arguments: object) -> tuple[int, str, str]:
    """mnq-verify in a process of its own, with a fault in a kernel."""
    process = start("verify", *arguments, MNQ_OPS_LIBRARY=str(faulty), MNQ_FAULT=fault)
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


@pytest.mark.native
def test_a_library_without_a_fault_passes(exported: Digits, faulty: Path) -> None:
    status, _, err = verify(faulty, "", exported.onnx, "--kernels", "--level", "all", "--quiet")
    assert (status, err) == (0, "")


@pytest.mark.native
def test_a_wrong_kernel_is_caught_found_and_reproduced(
    exported: Digits, faulty: Path, tmp_path: Path
) -> None:
    options = ("--level", "all", "--repro", tmp_path / "wrong", "--json")
    status, out, err = verify(faulty, "QLinearLut", exported.onnx, *options)
    assert status == 1
    report = json.loads(out)
    functions, kernels = report["runs"]
    assert functions["differing_tensors"] == 0 < kernels["differing_tensors"]
    found = report["finding"]
    assert (found["kind"], found["tensor"]) == ("alone", "blocks.0.mlp.act")
    assert found["nodes"] == ["QLinearLut 'blocks.0.mlp.act'"]
    assert found["expected"] ^ 1 == found["found"] and found["differing_integers"] == 1
    assert err.endswith(f"; the smallest wrong part is in {tmp_path / 'wrong'}\n")
    assert "tensor 'blocks.0.mlp.act' of torch module 'blocks.0.mlp.fc1, blocks.0.mlp.act'" in err

    script = [sys.executable, str(tmp_path / "wrong/run.py"), str(faulty)]
    environment = {"MNQ_FAULT": "QLinearLut"}
    again = subprocess.run(script, capture_output=True, text=True, env=environment, timeout=60)
    assert again.returncode == 0, again.stderr
    at, expected, wrong = found["index"], found["expected"], found["found"]
    assert f"index {at}: expected {expected}, found {wrong}" in again.stdout
    mended = subprocess.run(script, capture_output=True, text=True, env={}, timeout=60)
    assert mended.returncode == 1
    assert mended.stdout.startswith("0 of ")


@pytest.mark.native
def test_a_kernel_that_is_wrong_on_one_path_is_named_with_the_path(
    exported: Digits, faulty: Path
) -> None:
    options = ("--kernels", "--level", "all")
    process = start(
        *("verify", exported.onnx, *options, "--quiet"),
        **{"MNQ_OPS_LIBRARY": str(faulty), "MNQ_FAULT": "QLinearAdd portable"},
        MNQ_CPU_PATH="portable",
    )
    out, err = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "likely cause: the kernel of QLinearAdd 'blocks.0.attn.proj' is wrong on" in out
    assert "--repro DIR puts the smallest wrong part into a folder" in err


@pytest.mark.native
def test_a_wrong_kernel_is_found_with_pytorch(exported: Digits, faulty: Path) -> None:
    options = ("--images", exported.test, "--count", 4, "--batch", 2, "--kernels", "--json")
    status, out, _ = verify(faulty, "IBertLayerNorm", exported.onnx, *options)
    assert status == 1
    found = json.loads(out)["finding"]
    assert (found["tensor"], found["kind"]) == ("blocks.0.norm1", "alone")
    assert found["index"][0] == 1  # of the first batch


@pytest.mark.native
def test_a_wrong_kernel_is_red_in_the_matrix(exported: Digits, faulty: Path) -> None:
    before = """
from mnq.runtime import matrix
from mnq.runtime.place import Place
matrix.rows = lambda threads: [(Place("kernels", "disabled", threads=1, path="portable"), "")]
"""
    process = start(
        *("verify", exported.onnx, "--matrix", "--quiet"),
        before=before,
        **{"MNQ_OPS_LIBRARY": str(faulty), "MNQ_FAULT": "QLinearLut"},
    )
    out, err = process.communicate(timeout=120)
    assert process.returncode == 1
    cells = ["FAILED", "blocks.0.mlp.act"] * 4
    assert ["kernels,", "portable", "1", *cells] in [line.split() for line in out.splitlines()]
    assert "smallest wrong part: QLinearLut 'blocks.0.mlp.act' alone" in out
    assert err.count("\n") == 1


def test_a_wrong_constant_is_reproduced_from_a_file_that_was_certified_anew(
    exported: Digits, tmp_path: Path
) -> None:
    """Nothing computes the certified integers: the constants of the first such node are named."""
    import onnx
    from onnx import numpy_helper

    from mnq.runtime import certificate, contents

    model = onnx.load(exported.onnx)
    (tensor,) = [t for t in model.graph.initializer if t.name == "blocks.1.mlp.act.bias"]
    values = numpy_helper.to_array(tensor) + 10_000
    tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    (entry,) = [p for p in model.metadata_props if p.key == certificate.KEY]
    made = {**json.loads(entry.value), **contents.digests(model)}
    entry.value = json.dumps(certificate.seal(made))
    onnx.save(model, tmp_path / "forged.onnx")
    options = ("--level", "disabled", "--no-kernels", "--repro", tmp_path / "wrong", "--quiet")
    result = mnq("verify", tmp_path / "forged.onnx", *options)
    assert result.exit_code == 1
    assert "likely cause: the file is another than certified" in result.stdout
    assert "blocks.1.mlp.act.bias" in result.stdout
    report = json.loads((tmp_path / "wrong/report.json").read_text())
    assert (report["kind"], report["tensor"]) == ("file", "blocks.1.mlp.act")
