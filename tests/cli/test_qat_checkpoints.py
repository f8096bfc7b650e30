"""Checkpoints that a run cannot go on from, or that are not to be exported or verified so."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from cli_runs import Digits, mnq, refused
from cli_training import OPTIONS, few, prepared

from mnq.cli import qat as command
from mnq.models import zoo
from mnq.models.digits.model import WEIGHTS
from mnq.models.zoo import LoadedModel
from mnq.ops.errors import InputError
from mnq.toolchain import export
from mnq.toolchain.calibrate import Statistics
from mnq.toolchain.checkpoint import Checkpoint, read, write
from mnq.toolchain.graph import Graph

SHORT = ("--epochs", 1, "--batch", 20)


@pytest.fixture(scope="module")
def small(digits: Digits, tmp_path_factory: pytest.TempPathFactory) -> Digits:
    return few(digits, tmp_path_factory.mktemp("few"), 2)


@pytest.fixture(scope="module", autouse=True)
def ready(loaded: LoadedModel, graph: Graph, statistics: Statistics) -> Iterator[None]:
    """The model is there at once."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(command, "prepare", prepared(loaded, graph, statistics))
        yield


@pytest.fixture(scope="module")
def last(small: Digits, ready: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The checkpoint of a run of one step."""
    folder = tmp_path_factory.mktemp("last")
    words = (*OPTIONS, *SHORT, "--train", small.train, "--output", folder, "--quiet")
    assert mnq("qat", *words).exit_code == 0
    return folder / "last.safetensors"


@pytest.fixture
def base(small: Digits, tmp_path: Path) -> Iterator[tuple[object, ...]]:
    """A command whose output is empty in the end."""
    yield "qat", *OPTIONS, *SHORT, "--train", small.train, "--output", tmp_path / "run"
    assert not list(tmp_path.glob("run/*"))


@pytest.mark.parametrize(
    ("options", "different"),
    [
        (("--assign", "uniform:ivit"), "map"),
        (("--bits", 4), "map"),
        (("--epochs", 2), "recipe"),
        (("--lr", 1e-3, "--range-form", "paper"), "settings, recipe"),
        (("--input", "float"), "settings"),
    ],
)
def test_a_checkpoint_of_a_run_with_other_options(
    options: tuple[object, ...], different: str, base: tuple[object, ...], last: Path
) -> None:
    line = refused(*base, "--resume", last, *options)
    assert f"found one of another in {last} (different: {different}); resume with the" in line


def changed(last: Path, path: Path, **header: Any) -> Path:
    found = read(last)
    write(Checkpoint(found.tensors, {**found.header, **header}), path)
    return path


def test_a_checkpoint_of_another_model_or_other_data(
    base: tuple[object, ...], last: Path, small: Digits, tmp_path: Path
) -> None:
    other = changed(last, tmp_path / "a", model="deit_t", weights="0", equalization={})
    assert "(different: model, weights, equalization)" in refused(*base, "--resume", other)
    assert "(different: data)" in refused(*base, "--resume", last, "--train", small.test)


def test_a_file_that_no_run_can_go_on_from(
    base: tuple[object, ...], last: Path, tmp_path: Path
) -> None:
    path = tmp_path / "a.safetensors"
    assert f"found {path} which is missing or damaged" in refused(*base, "--resume", path)
    assert "found None in " in refused(*base, "--resume", WEIGHTS)
    path.write_bytes(last.read_bytes()[:-1])
    assert f"found {path} which is missing or damaged" in refused(*base, "--resume", path)
    for progress in ({}, {"step": "1", "losses": 0.0}, {"step": -1, "losses": 0}, {"step": 1}):
        line = refused(*base, "--resume", changed(last, path, progress=progress))
        assert "expected a number of steps and a sum of losses, found " in line
    write(Checkpoint(dict(list(read(last).tensors.items())[1:]), read(last).header), path)
    assert "found others (different: '" in refused(*base, "--resume", path)


def test_a_checkpoint_is_exported_without_other_options(
    last: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zoo, "load", lambda *_, **__: pytest.fail("a model was loaded"))
    model = tmp_path / "m.onnx"
    base = ("export", "--checkpoint", last, "--output", model)
    for option, value in (
        ("--assign", "uniform:lut"),
        ("--weights", WEIGHTS),
        ("--random-weights", 1),
        ("--bits", 8),
        ("--calib", tmp_path),
        ("--images", 128),
        ("--calib-method", "mse"),
        ("--input", "uint8"),
        ("--save-calib", tmp_path / "calib.safetensors"),
    ):
        line = refused(*base, option, value)
        assert "expected only --output beside --checkpoint, which holds everything else" in line
        assert f"found {option}; leave it out" in line
    assert "found --dry-run; leave it out" in refused(*base, "--dry-run")
    assert "found --equalize; leave it out" in refused(*base, "--no-equalize")
    assert "expected --output beside --checkpoint, found none" in refused(*base[:3])
    damaged = tmp_path / "damaged"
    damaged.write_bytes(last.read_bytes()[:1000])
    line = refused("export", "--checkpoint", damaged, "--output", model)
    assert f"found {damaged} which is missing or damaged" in line
    assert not model.exists()


def test_a_checkpoint_is_exported_as_the_model_that_was_trained_only(
    last: Path, tmp_path: Path, loaded: LoadedModel
) -> None:
    other = read(changed(last, tmp_path / "a", model="deit_t"))
    with pytest.raises(InputError, match="expected one of digits, found one of 'deit_t'; give"):
        export.export_trained(loaded, other)


def test_a_model_that_was_made_from_no_checkpoint_is_not_verified_with_one(
    last: Path, loaded: LoadedModel
) -> None:
    model: Any = SimpleNamespace(name="digits", quantization={"weights": loaded.weights_digest})
    with pytest.raises(InputError, match="made from none; pass --weights instead"):
        export.rebuild(model, loaded, read(last))
