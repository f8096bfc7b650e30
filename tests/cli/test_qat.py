"""Runs of mnq-qat: their files, interruptions, and the way to an .onnx."""

from __future__ import annotations

import csv
import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import onnx
import pytest
import torch
from cli_runs import Digits, mnq, payload, refused
from cli_training import OPTIONS, few, signal_at
from click.testing import Result

from mnq.models.zoo import LoadedModel
from mnq.runtime.modelfile import metadata
from mnq.toolchain import export
from mnq.toolchain.checkpoint import Checkpoint, read
from mnq.toolchain.graph import Graph

pytestmark = pytest.mark.onnxruntime

FILES = {"last.safetensors", "best.safetensors", "log.csv", "curve.svg"}
LONG = ("--epochs", 2, "--batch", 10)  # two epochs of three steps
SHORT = ("--epochs", 1, "--batch", 30)  # one step


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
def qat(small: Digits, graph: Graph) -> Callable[..., Result]:
    """A function that runs mnq-qat with OPTIONS and others, without capturing the model again."""

    def run(*words: object, val: bool = True) -> Result:
        images = ("--train", small.train, *(("--val", small.test) if val else ()))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(export, "graph_of", lambda loaded: graph)
            return mnq("qat", *OPTIONS, *images, *words)

    return run


@pytest.fixture(scope="module")
def whole(qat: Callable[..., Result], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The JSON of a run that nothing stops; `output` is its folder."""
    output = tmp_path_factory.mktemp("whole") / "run"
    return payload(qat(*LONG, "--output", output, "--json"))


@pytest.fixture(scope="module")
def step(qat: Callable[..., Result], tmp_path_factory: pytest.TempPathFactory) -> Result:
    """What a run of one step tells people."""
    return qat(*SHORT, "--output", tmp_path_factory.mktemp("step"))


def last(folder: Path) -> Checkpoint:
    return read(folder / "last.safetensors")


def same(found: Checkpoint, expected: Checkpoint) -> bool:
    """Whether two checkpoints are equal but for the seconds."""
    headers = [
        {**c.header, "history": [{**row, "seconds": 0} for row in c.header["history"]]}
        for c in (found, expected)
    ]
    assert set(found.tensors) == set(expected.tensors)
    equal = all(torch.equal(found.tensors[n], t) for n, t in expected.tensors.items())
    return equal and headers[0] == headers[1]


def test_a_run_writes_checkpoints_log_and_curve(whole: dict[str, Any], small: Digits) -> None:
    output = Path(whole["output"])
    assert {path.name for path in output.iterdir()} == FILES
    assert [*whole] == ["output", "finished", "float", "best", "history"]
    assert whole["finished"] and whole["float"] == {"top1": 100.0}  # these 30 are easy
    history = whole["history"]
    assert [(row["epoch"], row["step"]) for row in history] == [(0, 0), (1, 3), (2, 6)]
    assert len({row["top1"] for row in history}) > 1  # the figures of the tests below can differ
    assert whole["best"] == max(history, key=lambda row: (row["top1"], row["agreement"]))
    with open(output / "log.csv") as file:
        rows = [*csv.DictReader(file)]
    assert rows == [{k: "" if v is None else str(v) for k, v in row.items()} for row in history]
    assert ",".join(rows[0]) == "epoch,step,learning_rate,loss,top1,agreement,seconds"
    texts = {node.text for node in ElementTree.parse(output / "curve.svg").iter()}
    assert {"digits", "float model"} <= texts


def test_checkpoints_say_what_was_trained_on_and_how(whole: dict[str, Any]) -> None:
    header = last(Path(whole["output"])).header
    assert header["model"] == "digits" and header["history"] == whole["history"]
    assert header["data"] == {"source": "train", "images": 30}
    assert header["progress"] == {"step": 6, "losses": 0.0}
    assert header["settings"] == {"method": "mse", "form": "ivit", "input_kind": "uint8"}
    recipe = header["recipe"]
    assert (recipe["epochs"], recipe["batch_size"], recipe["learning_rate"]) == (2, 10, 3e-3)
    best = read(Path(whole["output"]) / "best.safetensors").header
    assert best["progress"]["step"] == whole["best"]["step"]
    assert best["history"] == whole["history"][: whole["best"]["epoch"] + 1]


def test_what_goes_on_is_told_on_stderr(step: Result) -> None:
    assert step.exit_code == 0, step.output
    told = [
        line for line in step.stderr.splitlines() if "\N{BOX DRAWINGS HEAVY HORIZONTAL}" not in line
    ]
    assert told[:2] == ["loading digits", "capturing"]
    assert told[2].startswith("before training: top-1 ") and " %, agreement " in told[2]
    assert told[3].startswith("epoch 1/1: loss ") and told[3].endswith(" s")
    assert told[4].startswith("next: mnq-export --checkpoint ")
    assert told[4].endswith("/best.safetensors --output m.onnx") and len(told) == 5
    head, *rows = step.stdout.splitlines()
    assert head.split() == ["epoch", "loss", "top-1", "%", "agree", "%", "seconds"]
    assert [row.split()[0] for row in rows] == ["0", "1"] and rows[0].split()[1] == "-"


def test_without_images_to_judge_on_there_is_no_best(
    qat: Callable[..., Result], tmp_path: Path
) -> None:
    result = qat(*SHORT, "--output", tmp_path, val=False)
    assert result.exit_code == 0
    assert {path.name for path in tmp_path.iterdir()} == {"last.safetensors", "log.csv"}
    assert "before training: not judged\n" in result.stderr
    assert f"--checkpoint {tmp_path}/last.safetensors" in result.stderr
    assert [row.split()[2:4] for row in result.stdout.splitlines()[1:]] == [["-", "-"]] * 2


@pytest.mark.parametrize("at", [2, 3])
def test_ctrl_c_saves_and_resume_ends_as_if_nothing_had_happened(
    at: int,
    qat: Callable[..., Result],
    whole: dict[str, Any],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Within an epoch, and at its end."""
    handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    with monkeypatch.context() as patch:
        signal_at(at, signal.SIGINT, monkeypatch=patch)
        result = qat(*LONG, "--output", tmp_path)
    assert result.exit_code == 130
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert "stopping after this step; once more stops at once" in result.stderr
    resume = f"--resume {tmp_path}/last.safetensors"
    assert result.stderr.endswith(f"stopped and saved; go on with the same options and {resume}\n")
    assert {path.name for path in tmp_path.iterdir()} == FILES
    stopped = last(tmp_path)
    assert stopped.header["progress"]["step"] == at
    assert len(stopped.header["history"]) == 1 + at // 3
    ended = payload(qat(*LONG, "--output", tmp_path, *resume.split(), "--json"))
    assert ended["finished"] and ended["output"] == str(tmp_path)
    for name in ("last.safetensors", "best.safetensors"):
        assert same(read(tmp_path / name), read(Path(whole["output"]) / name)), name


def test_the_second_signal_stops_at_once(
    qat: Callable[..., Result], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    signal_at(1, signal.SIGTERM, signal.SIGINT, monkeypatch=monkeypatch)
    result = qat(*LONG, "--output", tmp_path, "--json")
    assert (result.exit_code, result.stdout) == (130, "")
    assert result.stderr == "mnq-qat: interrupted; no file was left half-written\n"
    assert last(tmp_path).header["progress"]["step"] == 0


@pytest.fixture(scope="module")
def deployed(whole: dict[str, Any]) -> Path:
    """The model of the last checkpoint."""
    path = Path(whole["output"], "last.onnx")
    checkpoint = path.with_suffix(".safetensors")
    found = payload(mnq("export", "--checkpoint", checkpoint, "--output", path, "--json"))
    assert (found["model"], found["checkpoint"]) == ("digits", str(checkpoint))
    assert found["bits"] == {"activations": 3, "weights": 3} and found["differing_tensors"] == 0
    return path


def test_what_is_exported_computes_the_integers_and_the_accuracy_of_the_run(
    deployed: Path, whole: dict[str, Any], small: Digits
) -> None:
    checkpoint = deployed.with_suffix(".safetensors")
    images = ("--images", small.test)
    found = payload(mnq("verify", deployed, "--checkpoint", checkpoint, *images, "--json"))
    assert found["passed"] and not found["float_tensors"]
    for run in found["runs"]:
        assert (run["images"], run["tensors"], run["differing_integers"]) == (30, 45, 0)
    judged = payload(mnq("eval", deployed, "--float", *images, "--json"))
    reference, integers = judged["models"]
    row = whole["history"][-1]
    assert (integers["top1"], integers["agreement"]) == (row["top1"], row["agreement"])
    assert reference["top1"] == whole["float"]["top1"]


def test_an_export_says_what_it_was_trained_from(
    deployed: Path,
    whole: dict[str, Any],
    loaded: LoadedModel,
    graph: Graph,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(export, "graph_of", lambda loaded: graph)
    origin = json.loads(metadata(onnx.load(deployed))["mnq.quantization"])
    trained = last(deployed.parent)
    assert (origin["checkpoint"], origin["step"]) == (trained.digest(), 6)
    assert origin["recipe"] == trained.header["recipe"]
    assert origin["weights"] == loaded.weights_digest
    best, path = deployed.parent / "best.safetensors", deployed.parent / "best.onnx"
    assert mnq("export", "--checkpoint", best, "--output", path, "--quiet").exit_code == 0
    origin = json.loads(metadata(onnx.load(path))["mnq.quantization"])
    assert (origin["checkpoint"], origin["step"]) == (read(best).digest(), whole["best"]["step"])


def test_only_the_checkpoint_of_the_export_can_verify_it(deployed: Path, small: Digits) -> None:
    verify = ("verify", deployed, "--images", small.test)
    assert refused(*verify).endswith("was exported from, found none; pass it as --checkpoint")
    best = deployed.parent / "best.safetensors"
    assert "found another one; pass it as --checkpoint" in refused(*verify, "--checkpoint", best)
    assert "expected --images beside weights" in refused(*verify[:2], "--checkpoint", best)
