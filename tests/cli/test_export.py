import json
import os
import re
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from cli_runs import Digits, mnq, payload, refused, start

from mnq.ops.registry import UNIFORM
from mnq.runtime import verify
from mnq.runtime.modelfile import ModelFile, metadata
from mnq.toolchain import export as exports
from mnq.toolchain import map as maps
from mnq.toolchain.program import Program

pytestmark = pytest.mark.onnxruntime

BASE = ("export", "--model", "digits", "--images", 16)


def test_result_names_file_size_calibration_and_tensors(digits: Digits, tmp_path: Path) -> None:
    output = tmp_path / "m.onnx"
    found = payload(mnq(*BASE, "--calib", digits.train, "--output", output, "--json"))
    assert found["output"] == str(output)
    assert found["bytes"] == output.stat().st_size
    assert found["bits"] == {"activations": 8, "weights": 8}
    assert found["skipped_images"] == found["differing_tensors"] == 0
    assert found["verified_tensors"] == 46  # 45, and the logits once more as deployed
    limits = {kind: place["bits"] for kind, place in found["overflow"].items()}
    assert limits == {"int64": 64, "sum": 54, "int32": 32}
    assert all(place["spare"] >= 1 for place in found["overflow"].values())
    calibration = found["calibration"]
    assert (calibration["source"], calibration["images"]) == ("train", 16)
    assert list(tmp_path.iterdir()) == [output]


def test_quiet_prints_one_line_for_people(exported: Digits, tmp_path: Path) -> None:
    output = tmp_path / "m.onnx"
    result = mnq(*BASE, "--calib", exported.calib, "--output", output, "--quiet")
    assert result.exit_code == 0
    assert result.stderr == ""
    assert result.stdout == f"{output}: 0.3 MB, integers only, 46 tensors equal to PyTorch's\n"


def test_what_goes_on_is_told_on_stderr(exported: Digits, tmp_path: Path) -> None:
    output = tmp_path / "m.onnx"
    result = mnq(*BASE, "--calib", exported.calib, "--output", output)
    assert result.stdout.count("\n") == 1
    lines = result.stderr.splitlines()
    proof = lines.pop(4)
    assert lines == [
        "loading digits",
        "capturing",
        "lowering and certifying",
        "verifying",
        f"next: mnq-eval {output} --images DIR",
    ]
    assert re.fullmatch(
        r"no integer can overflow; bits to spare: \d of 64 \(\S+\), \d+ of 54 in sums \(\S+\), "
        r"\d+ of 32 in accumulators \(\S+\)",
        proof,
    )


def test_the_same_export_gives_the_same_bytes_in_any_process(
    exported: Digits, tmp_path: Path
) -> None:
    """Images or their saved statistics, whatever the hash seed, the folder and the language."""
    again, fresh = tmp_path / "a.onnx", tmp_path / "b.onnx"
    calibrated = mnq(*BASE, "--calib", exported.calib, "--output", again)
    assert calibrated.exit_code == 0
    process = start(
        *(*BASE, "--calib", exported.train, "--output", fresh, "--json"),
        PYTHONHASHSEED="7",
        LC_ALL="C",
    )
    out, err = process.communicate(timeout=100)
    assert process.returncode == 0, err
    assert json.loads(out)["output"] == str(fresh)
    assert err == ""
    assert again.read_bytes() == fresh.read_bytes() == exported.onnx.read_bytes()


def test_options_reach_the_model(exported: Digits, tmp_path: Path) -> None:
    output = tmp_path / "m.onnx"
    result = mnq(
        *(*BASE, "--calib", exported.calib, "--output", output),
        *("--assign", "uniform:ivit", "--bits", 6, "--input", "float"),
        *("--calib-method", "minmax", "--range-form", "paper"),
    )
    assert result.exit_code == 0, result.output
    entries = metadata(onnx.load(output))
    quantization = json.loads(entries["mnq.quantization"])
    assert json.loads(entries["mnq.map"])["bits"] == {"activations": 6, "weights": 6}
    assert json.loads(entries["mnq.map"])["defaults"]["softmax"] == "ivit"
    assert (quantization["method"], quantization["form"]) == ("minmax", "paper")
    assert entries["mnq.input"] == "float"


def test_a_corrupt_image_is_named_skipped_and_counted(digits: Digits, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for number, path in enumerate(sorted(digits.train.glob("3/*.png"))[:12]):
        data = path.read_bytes()
        (folder / f"{number:02}.png").write_bytes(data[:50] if number == 5 else data)
    output = tmp_path / "m.onnx"
    result = mnq(*BASE, "--calib", folder, "--output", output, "--json")
    found = payload(result)
    calibration = found["calibration"]
    assert (found["skipped_images"], calibration["images"]) == (1, 11)
    assert len(result.stderr.splitlines()) == 1
    assert result.stderr.startswith("warning: skipped image 05.png: ")
    shown = mnq(*BASE, "--calib", folder, "--output", output)
    assert shown.stdout.endswith("equal to PyTorch's; 1 images skipped\n")


@pytest.mark.parametrize("flag", [[], ["--json"], ["--quiet"]])
def test_dry_run_prints_the_resolved_map_and_writes_nothing(
    flag: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    given = {
        "format": "mnq-map/1",
        "model": "digits",
        "bits": {"activations": 7},
        "defaults": {**UNIFORM["ibert"], "softmax": "fqvit", "attention": "normalized"},
        "sites": {"blocks.1.attn.softmax": {"method": "lut", "attention": "deferred"}},
    }
    Path("map.json").write_text(json.dumps(given))
    result = mnq("export", "--model", "digits", "--assign", "map.json", "--dry-run", *flag)
    resolved = payload(result)
    assert [path.name for path in tmp_path.iterdir()] == ["map.json"]
    sites = resolved["sites"]
    assert len(sites) == 17
    assert sites["blocks.0.attn.softmax"] == {"method": "fqvit", "attention": "normalized"}
    assert sites["blocks.1.attn.softmax"] == {"method": "lut", "attention": "deferred"}
    assert sites["norm"] == {"method": "ibert"}
    assert resolved["bits"] == {"activations": 7, "weights": 8}
    # What was printed is a map itself, and resolves to the same.
    kinds = {name: kind for name, kind in _kinds(sites)}
    again = maps.from_json(resolved, "digits", "stdout").resolve(kinds)
    assert {name: choice.method for name, choice in again.items()} == {
        name: entry["method"] for name, entry in sites.items()
    }


def _kinds(sites: dict[str, dict[str, str]]) -> list[tuple[str, str]]:
    return [
        (name, "softmax" if "attention" in entry else "gelu" if "mlp" in name else "layernorm")
        for name, entry in sites.items()
    ]


def test_ctrl_c_in_calibration_leaves_everything_as_it_was(digits: Digits, tmp_path: Path) -> None:
    output = tmp_path / "good.onnx"
    output.write_bytes(b"a good model")
    # The first batch is announced, the second never comes.
    before = """
import time
import mnq.cli.calibration as calibration
real = calibration.batches
def stuck(*arguments, **options):
    for batch in real(*arguments, **options):
        yield batch
        print("first batch done", flush=True)
        time.sleep(600)
calibration.batches = stuck
"""
    process = start(
        *(*BASE, "--calib", digits.train, "--output", output),
        *("--save-calib", tmp_path / "calib.safetensors"),
        before=before,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "first batch done\n"
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.endswith("mnq-export: interrupted; no file was left half-written\n")
    assert "Traceback" not in err
    assert [path.name for path in tmp_path.iterdir()] == ["good.onnx"]
    assert output.read_bytes() == b"a good model"


def test_ctrl_c_while_writing_leaves_the_old_file(
    exported: Digits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "good.onnx"
    output.write_bytes(b"a good model")

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupted)
    result = mnq(*BASE, "--calib", exported.calib, "--output", output)
    assert result.exit_code == 130
    assert [path.name for path in tmp_path.iterdir()] == ["good.onnx"]
    assert output.read_bytes() == b"a good model"


def test_no_file_is_written_if_an_integer_may_overflow(
    exported: Digits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = exports.quantize

    def spoiled(*arguments: Any) -> Program:
        program = real(*arguments)
        *steps, head = program.steps
        bias = np.full_like(head.constants["bias"], 2**31 - 1)
        head = replace(head, constants={**head.constants, "bias": bias})
        return replace(program, steps=[*steps, head])

    monkeypatch.setattr(exports, "quantize", spoiled)
    output = tmp_path / "m.onnx"
    line = refused(*BASE, "--calib", exported.calib, "--output", output, status=1)
    assert "found tensor 'head' of module 'head', where QLinear needs 33 bits of 32" in line
    assert "because of bias[" in line
    assert not output.exists()


def test_no_file_is_written_if_the_integers_differ(
    exported: Digits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def differing(model: ModelFile, level: str, kernels: bool) -> verify.Run:
        first = verify.Divergence("blocks.0.mlp.act", "blocks.0.mlp.act")
        return verify.Run(level, images=2, tensors=50, differing_tensors=1, first=first)

    monkeypatch.setattr(verify, "check_certificate", differing)
    output = tmp_path / "m.onnx"
    line = refused(*BASE, "--calib", exported.calib, "--output", output, status=1)
    assert "expected the integers of PyTorch, found a difference: tensor 'blocks.0.mlp.act'" in line
    assert not list(tmp_path.iterdir())
