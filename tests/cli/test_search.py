"""Runs of mnq-search: learned bits, interruptions, two processes, and the way to an .onnx."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from cli_runs import Digits, mnq, payload, refused
from cli_training import few, signal_at
from click.testing import Result
from onnx import TensorProto

from mnq.runtime.modelfile import metadata
from mnq.runtime.packed import unpack
from mnq.toolchain import export
from mnq.toolchain.checkpoint import read
from mnq.toolchain.graph import Graph

pytestmark = pytest.mark.onnxruntime

OPTIONS = (
    *("--model", "digits", "--bits", 3, "--images", 8, "--workers", 0, "--device", "cpu"),
    *("--augment", "light", "--lr", 1e-3, "--bits-lr", 0.2),
)
LONG = ("--epochs", 2, "--batch", 10, "--sigma", 0.7)  # two epochs of three steps, four that search


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """The model is too small for more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def small(digits: Digits, tmp_path_factory: pytest.TempPathFactory) -> Digits:
    return few(digits, tmp_path_factory.mktemp("few"), 3)


@pytest.fixture(scope="module")
def search(small: Digits, graph: Graph) -> Callable[..., Result]:
    """A function that runs mnq-search with OPTIONS and others."""

    def run(*words: object) -> Result:
        images = ("--train", small.train, "--val", small.test)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(export, "graph_of", lambda loaded: graph)
            return mnq("search", *OPTIONS, *images, *words)

    return run


@pytest.fixture(scope="module")
def whole(
    search: Callable[..., Result], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """The JSON of a run that nothing stops; `output` is its folder."""
    output = tmp_path_factory.mktemp("whole") / "run"
    return payload(search(*LONG, "--output", output, "--json"))


def last(found: dict[str, Any]) -> Path:
    return Path(found["output"]) / "last.safetensors"


def comparable(path: Path) -> tuple[Any, ...]:
    """All of a checkpoint but the seconds."""
    found = read(path)
    history = [{**row, "seconds": 0} for row in found.header["history"]]
    tensors = {name: value.tolist() for name, value in found.tensors.items()}
    return {**found.header, "history": history}, tensors


def test_a_run_writes_its_bits_and_what_they_cost(whole: dict[str, Any]) -> None:
    assert whole["finished"] and whole["budget"] == pytest.approx(0.0317158, rel=1e-4)
    assert [row["epoch"] for row in whole["history"]] == [0, 1, 2]
    assert whole["history"][0]["bitops"] > 1.3 * whole["budget"]
    assert whole["history"][2]["bitops"] == whole["bitops"] < whole["history"][0]["bitops"]
    assert [row["searching"] for row in whole["history"]][::2] == [True, False]
    header = read(last(whole)).header
    assert header["recipe"]["quantizer"] == "qvit" and header["widths"]["heads"] == "paper"
    assert len(header["widths"]["bits"]["blocks.0.attn.qkv"]) == 12
    log = (Path(whole["output"]) / "log.csv").read_text().splitlines()
    assert log[0] == "epoch,step,learning_rate,loss,top1,agreement,bitops,searching,seconds"


@pytest.mark.parametrize("at", [2, 5])
def test_ctrl_c_saves_and_resume_ends_as_if_nothing_had_happened(
    at: int,
    search: Callable[..., Result],
    whole: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """While bits move, and after they are frozen."""
    with monkeypatch.context() as patch:
        signal_at(at, signal.SIGINT, monkeypatch=patch)
        assert search(*LONG, "--output", tmp_path).exit_code == 130
    resumed = search(*LONG, "--output", tmp_path, "--resume", tmp_path / "last.safetensors")
    assert resumed.exit_code == 0
    assert comparable(tmp_path / "last.safetensors") == comparable(last(whole))


def test_the_checkpoint_becomes_a_model_with_the_same_integers(
    whole: dict[str, Any], small: Digits, tmp_path: Path
) -> None:
    output = tmp_path / "m.onnx"
    made = payload(mnq("export", "--checkpoint", last(whole), "--output", output, "--json"))
    assert made["differing_tensors"] == 0
    checkpoint = ("--checkpoint", last(whole), "--images", small.test, "--count", 10)
    runs = payload(mnq("verify", output, *checkpoint, "--json"))["runs"]
    assert runs and all(run["differing_integers"] == 0 for run in runs)
    model = onnx.load(output)
    kinds = [tensor.data_type for tensor in model.graph.initializer]
    assert TensorProto.INT4 in kinds
    sizes = [sum(len(t.raw_data) for t in m.graph.initializer) for m in (model, unpack(model))]
    assert sizes[0] < sizes[1]
    assert json.loads(metadata(model)["mnq.quantization"])["widths"]["heads"] == "paper"


def test_accuracy_is_that_of_the_last_epoch_to_the_image(
    whole: dict[str, Any], small: Digits, tmp_path: Path
) -> None:
    output = tmp_path / "m.onnx"
    assert mnq("export", "--checkpoint", last(whole), "--output", output).exit_code == 0
    found = payload(mnq("eval", output, "--images", small.test, "--json"))
    assert found["models"][-1]["top1"] == pytest.approx(whole["history"][-1]["top1"])


@pytest.mark.parametrize("options", [("--quantizer", "lsq+"), ("--heads", "published")])
def test_variants_train_and_export(
    options: tuple[str, ...], search: Callable[..., Result], tmp_path: Path
) -> None:
    run = ("--epochs", 1, "--batch", 30, "--output", tmp_path / "run", "--json", *options)
    found = payload(search(*run))
    output = tmp_path / "m.onnx"
    assert mnq("export", "--checkpoint", last(found), "--output", output).exit_code == 0


def test_a_page_shows_the_bits_and_what_heads_cost(
    whole: dict[str, Any], small: Digits, tmp_path: Path
) -> None:
    output = tmp_path / "bits.html"
    images = ("--calib", small.train, "--images", small.test, "--count", 10)
    words = ("bits", last(whole), *images, "--output", output, "--json")
    assert payload(mnq("report", *words))["model"] == "digits"
    text = output.read_text()
    for part in ("Sensitivity of heads", "Bits of heads", "Bits of GELU", "First and last layer"):
        assert part in text
    again = tmp_path / "again.html"
    assert mnq("report", "bits", last(whole), "--output", again).exit_code == 0
    assert "Sensitivity" not in again.read_text()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (("--quantizer", "x"), "--quantizer: expected lsq or lsq+ or qvit"),
        (("--heads", "some"), "--heads: expected paper or published or none"),
        (("--scales", "x"), "--scales: expected switchable or single"),
        (("--eta", "nan"), "--eta: expected a finite number"),
        (("--calib", "x.safetensors"), "expected a file that --save-calib made"),
    ],
)
def test_wrong_options_are_refused(
    options: tuple[str, ...], expected: str, small: Digits, tmp_path: Path
) -> None:
    words = (*OPTIONS, *LONG, "--train", small.train, "--output", tmp_path / "run")
    assert expected in refused("search", *words, *options)


def test_a_checkpoint_without_learned_bits_has_no_page(
    whole: dict[str, Any], tmp_path: Path
) -> None:
    from mnq.toolchain.checkpoint import Checkpoint, write

    found = read(last(whole))
    path = tmp_path / "qat.safetensors"
    write(Checkpoint(found.tensors, {**found.header, "widths": {}}), path)
    result = mnq("report", "bits", path, "--output", tmp_path / "x.html")
    assert result.exit_code == 2
    assert "expected a checkpoint of mnq-search" in result.stderr


@pytest.mark.slow
def test_two_processes_of_torchrun_are_one_run(small: Digits, tmp_path: Path) -> None:
    """Two steps of all images: one that moves bits, and one after they are frozen."""
    output = tmp_path / "both"
    words = (*OPTIONS, "--epochs", 2, "--batch", 30, "--sigma", 0.5, "--train", small.train)
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2)
    command = (*launcher, "-m", "mnq.cli.search", *words, "--output", output, "--json")
    found = subprocess.run(
        [sys.executable, *map(str, command)],
        capture_output=True,
        text=True,
        timeout=240,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert found.returncode == 0, found.stderr
    assert "Warning" not in found.stderr, found.stderr
    assert mnq("search", *words, "--output", tmp_path / "one", "--quiet").exit_code == 0
    one, both = (read(tmp_path / name / "last.safetensors").header for name in ("one", "both"))
    assert one["widths"]["bits"] == both["widths"]["bits"]
    losses = [[row["loss"] for row in header["history"][1:]] for header in (one, both)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-3)  # sums in another order
