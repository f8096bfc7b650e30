import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from mnq.models import weights, zoo
from mnq.models.digits import train
from mnq.ops.errors import InputError

torch = pytest.importorskip("torch")
pytest.importorskip("timm")
pytest.importorskip("sklearn")
safetensors = pytest.importorskip("safetensors")


def test_main_writes_weights_that_load(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    result = CliRunner().invoke(train.main, ["--output", str(path), "--epochs", "1", "--seed", "3"])
    assert result.exit_code == 0, result.output
    assert "epoch 1/1: loss" in result.output
    assert "test accuracy" in result.output
    assert list(tmp_path.iterdir()) == [path]
    with safetensors.safe_open(path, framework="pt") as file:
        training = json.loads(file.metadata()["training"])
    assert training["recipe"]["seed"] == 3
    assert set(training["versions"]) == {"sklearn", "timm", "torch"}
    loaded = zoo.load("digits", path)
    assert train.accuracy(loaded.model, "test") == pytest.approx(
        training["test_accuracy"], abs=1e-3
    )


def test_train_follows_the_seed_alone() -> None:
    before, threads = torch.random.get_rng_state(), torch.get_num_threads()
    recipe = train.Recipe(epochs=1, batch_size=256)
    first = train.train(recipe)
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.get_num_threads() == threads
    torch.manual_seed(9)
    assert weights.digest(train.train(recipe)) == weights.digest(first)


def test_shifted_moves_by_at_most_a_pixel() -> None:
    torch.manual_seed(0)
    images = torch.full((300, 1, 8, 8), -1.0)
    images[:, 0, 4, 4] = 1.0
    moved = train._shifted(images)
    rows, columns = (moved[:, 0] == 1).nonzero()[:, 1:].T
    assert len(rows) == 300
    assert set(rows.tolist()) == set(columns.tolist()) == {3, 4, 5}
    still = int(((rows == 4) & (columns == 4)).sum())
    assert 140 < still < 200  # one half, and a ninth of the other


def test_main_reports_a_missing_folder_before_training(tmp_path: Path) -> None:
    output = tmp_path / "no" / "w.safetensors"
    result = CliRunner().invoke(train.main, ["--output", str(output)])
    assert result.exit_code == 2
    assert result.stderr.startswith("error: output: expected a folder at ")


def test_write_leaves_nothing_behind_when_the_place_is_taken(tmp_path: Path) -> None:
    (tmp_path / "w.safetensors").mkdir()
    with pytest.raises(InputError, match=r"expected a writable place for .*w\.safetensors"):
        train.write(torch.nn.Linear(1, 1), tmp_path / "w.safetensors", {})
    assert [path.name for path in tmp_path.iterdir()] == ["w.safetensors"]
