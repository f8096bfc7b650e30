"""mnq-bench on the digits model: its tables, its JSON, its files, and what it refuses."""

from __future__ import annotations

import importlib.util
import json
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cli_runs import Digits, mnq, payload, refused, start
from fake_gpu import install

from mnq.models.digits.model import WEIGHTS
from mnq.runtime import footprint, gpu
from mnq.runtime.roofline import Ceilings

pytestmark = pytest.mark.onnxruntime

FAST = ("--peers", "fp32,dynamic", "--rounds", 2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Peers' models, built once for all tests."""
    return tmp_path_factory.mktemp("bench") / "peers"


@pytest.fixture(autouse=True)
def once(monkeypatch: pytest.MonkeyPatch) -> None:
    """One process per engine is enough here."""
    monkeypatch.setattr(footprint, "REPEATS", 1)


def lack(monkeypatch: pytest.MonkeyPatch, *modules: str) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util,
        "find_spec",
        lambda name, package=None: None if name in modules else find(name, package),
    )


def test_every_batch_and_number_of_threads_is_measured(
    exported: Digits, folder: Path, tmp_path: Path
) -> None:
    output = tmp_path / "bench.json"
    options = ("--batch", "1, 2", "--threads", "1", "--peers-dir", folder, "--output", output)
    found = payload(mnq("bench", exported.onnx, *FAST, *options, "--json"))
    assert json.loads(output.read_text()) == found
    assert found["format"] == "mnq-bench/1"
    assert found["model"] == {"name": "digits", "file": "digits.onnx"}
    assert found["peers"] == {
        "weights": "real",
        "same_weights_as_model": True,
        "calibration": "8 random images, seed 0",
        "left_out": {},
    }
    assert {"mnq", "onnxruntime", "torch", "timm", "numpy"} <= set(found["versions"])
    assert [(run["batch"], run["threads"], run["rounds"]) for run in found["runs"]] == [
        (1, 1, 2),
        (2, 1, 2),
    ]
    for run in found["runs"]:
        names = [engine["name"] for engine in run["engines"]]
        assert names == ["mnq", "onnxruntime fp32", "onnxruntime dynamic int8"]
        assert all(engine["milliseconds"]["median"] > 0 for engine in run["engines"])
        assert all(engine["start_seconds"] > 0 for engine in run["engines"])
    assert len(list(folder.iterdir())) == 2
    assert "profile" not in found


def test_tables_for_people(exported: Digits, folder: Path) -> None:
    result = mnq("bench", exported.onnx, *FAST, "--peers-dir", folder, "--profile", "--quiet")
    assert result.exit_code == 0
    assert all(line.startswith("warning: ") for line in result.stderr.splitlines())
    title, head, *rows = result.stdout.split("\n\n")[0].splitlines()
    assert title == "digits, batch 1, threads 1, 2 rounds; peers' weights: real"
    assert head.split()[:4] == ["engine", "ms", "quartiles", "images/s"]
    assert [row.split("  ")[0] for row in rows] == [
        "mnq",
        "onnxruntime fp32",
        "onnxruntime dynamic int8",
    ]
    title, head, *rows = result.stdout.split("\n\n")[1].splitlines()
    assert title == "operators, batch 1, threads 1"
    shares = [float(row.split()[-1]) for row in rows]
    assert shares == sorted(shares, reverse=True)
    assert sum(shares) == pytest.approx(100, abs=0.05 * len(shares))


def test_peers_vanish_with_their_folder_if_none_is_named(exported: Digits) -> None:
    """Their sizes are in the result all the same."""
    options = ("--peers", "fp32", "--rounds", 2, "--json")
    found = payload(mnq("bench", exported.onnx, *options))
    assert all(engine["file_bytes"] > 0 for engine in found["runs"][0]["engines"])


def test_without_peers_nothing_is_built(exported: Digits, monkeypatch: pytest.MonkeyPatch) -> None:
    lack(monkeypatch, "torch", "openvino")
    found = payload(mnq("bench", exported.onnx, "--peers", "none", "--rounds", 2, "--json"))
    assert found["peers"] == {"weights": None, "left_out": {}}
    assert [engine["name"] for engine in found["runs"][0]["engines"]] == ["mnq"]


def test_bodies_are_measured_on_request(exported: Digits) -> None:
    options = ("--peers", "none", "--bodies", "--rounds", 2, "--json")
    found = payload(mnq("bench", exported.onnx, *options))
    assert [engine["name"] for engine in found["runs"][0]["engines"]] == ["mnq", "mnq bodies"]


def test_peers_that_are_not_installed_are_left_out_and_named(
    exported: Digits, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lack(monkeypatch, "nncf")
    result = mnq("bench", exported.onnx, "--peers-dir", folder, "--rounds", 2, "--json")
    found = payload(result)
    assert "left out OpenVINO int8: expected the module nncf, found none" in result.stderr
    assert list(found["peers"]["left_out"]) == ["openvino"]
    names = [engine["name"] for engine in found["runs"][0]["engines"]]
    assert names[1:] == ["onnxruntime fp32", "onnxruntime QDQ int8", "onnxruntime dynamic int8"]
    line = refused("bench", exported.onnx, "--peers", "fp32,openvino", status=3)
    assert "pip install 'mnq[bench]'" in line


def test_peers_without_pytorch_are_refused(
    exported: Digits, monkeypatch: pytest.MonkeyPatch
) -> None:
    lack(monkeypatch, "torch")
    assert "pip install 'mnq[train]'" in refused("bench", exported.onnx, status=3)


def test_weights_for_the_peers(exported: Digits, folder: Path) -> None:
    options = ("--peers", "fp32", "--peers-dir", folder, "--rounds", 2, "--json")
    found: dict[str, Any] = payload(mnq("bench", exported.onnx, *options, "--weights", WEIGHTS))
    assert found["peers"]["weights"] == "real"
    assert "check the path" in refused("bench", exported.onnx, "--weights", "none.safetensors")


def test_bad_use(exported: Digits, tmp_path: Path) -> None:
    assert "Missing argument" in refused("bench")
    assert "check the path" in refused("bench", tmp_path / "no.onnx")
    for text in ("0", "1,", "x", "-1", "1.5", "2000"):
        for option in ("--batch", "--threads"):
            assert "expected numbers from 1 to 1024" in refused(
                "bench", exported.onnx, f"{option}={text}"
            )
    assert "expected all, none or some of fp32,qdq" in refused(
        "bench", exported.onnx, "--peers", "fp32,tvm"
    )
    assert "0 is not in the range" in refused("bench", exported.onnx, "--rounds", 0)
    assert "not in the range" in refused("bench", exported.onnx, "--seconds", 0)
    output = ("--output", tmp_path / "no" / "bench.json")
    assert "expected an existing folder" in refused("bench", exported.onnx, *output)
    taken = tmp_path / "taken"
    taken.write_text("")
    place = ("--peers-dir", taken)
    assert "choose another with --peers-dir" in refused("bench", exported.onnx, *place)


def test_a_model_of_another_origin_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(b"nonsense")
    assert "found something else" in refused("bench", path)


@pytest.mark.skipif(sys.platform == "win32", reason="no signals there")
def test_ctrl_c_leaves_no_half_written_file(exported: Digits, folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "bench.json"
    place = tmp_path / "peers"
    options = ("--peers", "qdq", "--peers-dir", place, "--output", output)
    process = start("bench", exported.onnx, *options)
    deadline = time.monotonic() + 60
    while not list(place.glob("*-fp32.onnx")) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, log = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted; no file was left half-written" in log
    assert not output.exists()
    assert [path.name.split("-")[-1] for path in place.iterdir()] == ["fp32.onnx"]


@pytest.fixture
def on_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    install(monkeypatch)
    monkeypatch.setattr(gpu, "ceilings", lambda: Ceilings(1e15, 5e12))
    yield
    gpu.stream.cache_clear()


@pytest.mark.native
def test_a_gpu_has_peers_of_its_own_and_a_roofline(
    on_gpu: None, exported: Digits, folder: Path
) -> None:
    options = ("--provider", "cuda", "--batch", "1,2", "--rounds", 5, "--peers-dir", folder)
    found = payload(mnq("bench", exported.onnx, *options, "--json"))
    assert found["machine"]["gpu"] == "A GPU"
    names = ["mnq", "mnq, no graph", "onnxruntime fp32", "onnxruntime fp16"]
    names += ["onnxruntime fp16, no graph", "torch fp16", "torch.compile fp16"]
    for run, batch in zip(found["runs"], (1, 2), strict=True):
        assert (run["provider"], run["batch"]) == ("cuda", batch)
        assert [engine["name"] for engine in run["engines"]] == names
        precisions = [engine["precision"] for engine in run["engines"]]
        assert precisions == [None, None, "tf32", "f16", "f16", "f16", "f16"]
        assert run["roofline"]["macs_per_second"] == 1e15
        assert 0 < run["roofline"]["floor_milliseconds"] < 1
    one, two = (run["roofline"]["macs"] for run in found["runs"])
    assert two == 2 * one
    text = mnq("bench", exported.onnx, "--provider", "cuda", "--peers", "none", "--rounds", 5)
    assert "digits, batch 1, GPU, 5 rounds" in text.stdout
    assert "of roofline %" in text.stdout


@pytest.mark.parametrize("option", [("--threads", 2), ("--bodies",), ("--profile",)])
def test_options_of_the_cpu_are_refused_on_a_gpu(exported: Digits, option: tuple[str, ...]) -> None:
    message = refused("bench", exported.onnx, "--provider", "cuda", *option)
    assert f"expected no {option[0]} beside it, found one; leave it out" in message


def test_a_gpu_that_is_not_there_is_said(exported: Digits, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    message = refused("bench", exported.onnx, "--provider", "cuda", status=3)
    assert "expected a GPU that torch can use, found none; run mnq-doctor" in message


@pytest.mark.parametrize(
    ("provider", "kind"), [("cpu", "fp16"), ("cuda", "openvino"), ("x", "fp32")]
)
def test_peers_are_those_of_the_provider(exported: Digits, provider: str, kind: str) -> None:
    message = refused("bench", exported.onnx, "--provider", provider, "--peers", kind)
    if provider == "x":
        assert "--provider: expected cpu or cuda, found 'x'" in message
    else:
        known = "fp32,qdq" if provider == "cpu" else "fp32,fp16"
        assert f"--peers: expected all, none or some of {known}" in message
