"""Bad input to mnq-qat: one line that helps, before anything slow, and nothing written."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from cli_runs import Digits, refused
from cli_training import OPTIONS, few, prepared

from mnq.cli import qat as command
from mnq.cli import runs
from mnq.cli.calibration import Ranges
from mnq.models import zoo
from mnq.models.zoo import LoadedModel
from mnq.toolchain import processes
from mnq.toolchain.calibrate import Statistics
from mnq.toolchain.graph import Graph
from mnq.toolchain.processes import Process

SHORT = ("--epochs", 1, "--batch", 20)


@pytest.fixture(scope="module")
def small(digits: Digits, tmp_path_factory: pytest.TempPathFactory) -> Digits:
    return few(digits, tmp_path_factory.mktemp("few"), 2)


@pytest.fixture(autouse=True)
def output(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where every test writes to; nothing may be there in the end."""
    folder = tmp_path_factory.mktemp("output")
    yield folder / "run"
    assert not list(folder.glob("run/*"))


@pytest.fixture
def base(small: Digits, output: Path) -> tuple[object, ...]:
    return ("qat", *OPTIONS, *SHORT, "--train", small.train, "--output", output)


@pytest.fixture
def unloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """No model may be loaded: what is wrong has to be found before."""
    monkeypatch.setattr(zoo, "load", lambda *_, **__: pytest.fail("a model was loaded"))


@pytest.fixture
def ready(
    loaded: LoadedModel, graph: Graph, statistics: Statistics, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model is there at once."""
    monkeypatch.setattr(command, "prepare", prepared(loaded, graph, statistics))


@pytest.mark.usefixtures("unloaded")
@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--ranges", "lsq", "--ranges: expected ema or learned, found 'lsq'"),
        ("--augment", "heavy", "--augment: expected ivit or light or none, found 'heavy'"),
        ("--precision", "fp8", "--precision: expected float32 or bfloat16, found 'fp8'"),
        ("--input", "int4", "--input: expected uint8 or float, found 'int4'"),
        ("--device", "tpu", "--device: expected auto or cpu or cuda, found 'tpu'"),
        ("--assign", "uniform:gelu", "expected uniform:ivit|ibert|fqvit|lut, found uniform:gelu"),
        ("--bits", 9, "9 is not in the range 2<=x<=8"),
        ("--epochs", 0, "0 is not in the range 1<=x<=1048576"),
        ("--batch", 0, "0 is not in the range 1<=x<=1048576"),
        ("--lr", 0, "'--lr': 0.0 is not in the range x>0"),
        ("--range-lr", -1, "-1.0 is not in the range x>0"),
        ("--weight-decay", -1, "-1.0 is not in the range x>=0"),
        ("--clip-grad", -1, "-1.0 is not in the range x>=0"),
        ("--distill", 1.5, "1.5 is not in the range 0<=x<=1"),
        ("--distill-features", -1, "-1.0 is not in the range x>=0"),
        ("--workers", -1, "-1 is not in the range 0<=x<=256"),
        ("--seed", -1, "-1 is not in the range"),
        ("--calib-method", "max", "expected mse or minmax or percentile, found 'max'"),
        ("--calib", "nothing", "expected a folder or a .zip file"),
        ("--train", "nothing", "expected a folder or a .zip file"),
    ],
)
def test_bad_value(option: str, value: object, message: str, base: tuple[object, ...]) -> None:
    assert message in refused(*base, option, value)


@pytest.mark.usefixtures("unloaded")
@pytest.mark.parametrize("missing", ["--train", "--output", "--model"])
def test_missing_option(missing: str, base: tuple[object, ...]) -> None:
    at = base.index(missing)
    assert f"Missing option '{missing}'" in refused(*base[:at], *base[at + 2 :])


@pytest.mark.usefixtures("unloaded")
def test_a_gpu_that_is_not_there(base: tuple[object, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    line = refused(*base, "--device", "cuda", status=3)
    assert line.endswith("for --device cuda, found none; use --device cpu")


@pytest.mark.usefixtures("unloaded")
def test_output_that_cannot_be_used(base: tuple[object, ...], output: Path, tmp_path: Path) -> None:
    missing, file = output.parent / "no" / "run", output.parent / "file"
    assert f"found none at {missing.parent}" in refused(*base, "--output", missing)
    file.touch()
    assert f"found a file at {file}" in refused(*base, "--output", file)
    last = tmp_path / "last.safetensors"
    last.write_bytes(b"of a run")
    line = refused(*base, "--output", tmp_path)
    assert f"found a run in {tmp_path}; " in line and f"--resume {last}" in line
    assert last.read_bytes() == b"of a run"


@pytest.fixture
def uncalibrated(monkeypatch: pytest.MonkeyPatch) -> None:
    """No model may be calibrated: what is wrong has to be found before."""
    monkeypatch.setattr(Ranges, "statistics", lambda *_: pytest.fail("a model was calibrated"))


@pytest.mark.usefixtures("uncalibrated")
def test_images_whose_classes_are_not_the_models(
    base: tuple[object, ...], small: Digits, tmp_path: Path
) -> None:
    flat, more = tmp_path / "flat", tmp_path / "more"
    flat.mkdir()
    for number, path in enumerate(small.train.rglob("*.png")):
        shutil.copy(path, flat / f"{number}.png")
    shutil.copytree(small.train, more)
    shutil.copytree(small.train / "9", more / "eleven")
    for option in ("--train", "--val"):
        line = refused(*base, option, flat)
        assert f"expected class folders in {flat}, found a set without classes; " in line
        line = refused(*base, option, more)
        assert "found 1 of 11 unknown: eleven; rename them or choose the matching model" in line


@pytest.mark.usefixtures("ready")
def test_images_of_a_model_without_class_names_must_be_of_all_classes(
    base: tuple[object, ...], small: Digits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = runs.open_images
    monkeypatch.setattr(
        runs,
        "open_images",
        lambda loaded, *others: real(replace(loaded, classes=None), *others),
    )
    shutil.copytree(small.train, tmp_path / "nine")
    shutil.rmtree(tmp_path / "nine" / "9")
    line = refused(*base, "--train", tmp_path / "nine")
    assert "expected 10 class folders, one per output of the model, found 9; " in line


@pytest.mark.usefixtures("ready")
def test_batches_that_cannot_be_made(
    base: tuple[object, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    line = refused(*base, "--augment", "ivit", "--batch", 5)
    assert "expected an even batch size, found 5; change it, or take an augmentation" in line
    line = refused(*base, "--batch", 21)
    assert "expected at least 21 images, one batch of each process, found 20; " in line

    @contextmanager
    def second(device: str) -> Iterator[Process]:
        yield Process(0, 3, torch.device("cpu"))

    monkeypatch.setattr(processes, "process", second)
    line = refused(*base, "--batch", 10)
    assert "--batch: expected a multiple of the 3 processes, found 10; change one of them" in line
