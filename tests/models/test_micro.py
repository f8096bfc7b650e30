"""The bundled micro models for CIFAR-10."""

import json
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from mnq.models import zoo
from mnq.models.images import ImageSet, batches, label_index
from mnq.models.micro import data
from mnq.models.micro.train import MODELS, Recipe, accuracy, augmented, main, train

torch = pytest.importorskip("torch")
pytest.importorskip("timm")
safetensors = pytest.importorskip("safetensors")

PARAMETERS = {"micro_vit": 459_562, "micro_swin": 301_804}
# How far 300 images may be from the recorded accuracy of 10 000: four standard errors (10 points).
IMAGES, MARGIN = 300, 0.10

every_model = pytest.mark.parametrize("name", MODELS)


def recorded(name: str) -> dict[str, Any]:
    with safetensors.safe_open(MODELS[name].WEIGHTS, framework="pt") as file:
        training: dict[str, Any] = json.loads(file.metadata()["training"])
    return training


@every_model
def test_a_micro_model_loads_by_name(name: str) -> None:
    loaded = zoo.load(name)
    assert import_module(zoo.BUNDLED[name]) is MODELS[name]
    assert (loaded.name, loaded.timm_name) == (name, None)
    assert loaded.classes == list(data.CLASSES) == sorted(data.CLASSES)
    assert loaded.num_classes == 10
    assert loaded.preprocess == data.PREPROCESS
    assert {p.dtype for p in loaded.model.parameters()} == {torch.float32}
    assert loaded.model(torch.zeros(3, 3, 32, 32)).shape == (3, 10)
    again = zoo.load(name, MODELS[name].WEIGHTS)
    assert again.weights_digest == loaded.weights_digest
    assert zoo.load(name, random=0).weights_digest != loaded.weights_digest


@every_model
def test_a_micro_model_is_small(name: str) -> None:
    assert sum(p.numel() for p in MODELS[name].build().parameters()) == PARAMETERS[name]
    assert MODELS[name].WEIGHTS.stat().st_size <= 3_000_000


@every_model
def test_the_weights_say_how_they_were_trained(name: str) -> None:
    training = recorded(name)
    assert set(training) == {"recipe", "test_accuracy", "versions"}
    assert set(training["versions"]) == {"timm", "torch"}
    assert set(training["recipe"]) == set(Recipe.__dataclass_fields__)


@every_model
def test_accuracy_on_real_images(name: str, shared_file: Callable[[str], Path]) -> None:
    loaded = zoo.load(name)
    with ImageSet.open(shared_file("cifar10.zip") / "cifar10" / "test") as images:
        index = label_index(images.classes, loaded.classes)
        ((pixels, labels, _),) = batches(
            images, loaded.preprocess, IMAGES, limit=IMAGES, labels=index
        )
    found = accuracy(loaded.model, torch.from_numpy(pixels), torch.from_numpy(labels))
    assert abs(found - recorded(name)["test_accuracy"]) < MARGIN


@every_model
def test_training_learns_and_follows_the_seed_alone(name: str) -> None:
    # A shade of grey for each class, so that moving and mirroring hide nothing.
    labels = torch.arange(32) % 10
    images = (25 * labels).to(torch.uint8)[:, None, None, None].expand(32, 3, 32, 32)
    recipe = Recipe(epochs=6, batch_size=32)
    losses: list[float] = []
    before = torch.random.get_rng_state()
    for _ in range(2):
        model = train(
            MODELS[name].build, images, labels, recipe, lambda _, loss: losses.append(loss)
        )
        assert not model.training
        assert torch.equal(torch.random.get_rng_state(), before)
        before = torch.manual_seed(9).get_state()
    assert losses[:6] == losses[6:]
    assert losses[5] < losses[0] - 0.1


def test_augmented_moves_by_at_most_four_pixels_and_mirrors_half() -> None:
    images = torch.zeros(400, 3, 32, 32, dtype=torch.uint8)
    images[:, :, 10, 6], images[:, :, 10, 7] = 200, 100
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        moved = augmented(images)
    assert (moved.shape, moved.dtype) == (images.shape, torch.uint8)
    assert torch.equal(moved[:, 0], moved[:, 2])
    rows, columns = (moved[:, 0] == 200).nonzero()[:, 1:].T
    assert set(rows.tolist()) == set(range(6, 15))
    assert set(columns.tolist()) == {*range(2, 11), *range(21, 30)}
    assert 160 < int((columns > 16).sum()) < 240
    beside = torch.where(columns > 16, columns - 1, columns + 1)
    assert (moved[torch.arange(400), 0, rows, beside] == 100).all()


def test_main_names_what_is_missing(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["--model", "micro_vit", "--data", str(tmp_path / "no.zip")])
    assert result.exit_code == 2
    assert result.stderr.startswith("error: images: expected a folder or a .zip file at ")
