import json

import pytest

from mnq.models import zoo
from mnq.models.digits.model import CLASSES, PREPROCESS, WEIGHTS, build
from mnq.models.digits.train import accuracy

torch = pytest.importorskip("torch")
pytest.importorskip("timm")
safetensors = pytest.importorskip("safetensors")


def test_bundled_weights_reach_their_recorded_accuracy() -> None:
    pytest.importorskip("sklearn")
    with safetensors.safe_open(WEIGHTS, framework="pt") as file:
        training = json.loads(file.metadata()["training"])
    digits = zoo.load(zoo.DIGITS)
    found = accuracy(digits.model, "test")
    assert found >= 0.975
    # Another torch may round one image of 355 to the other side.
    assert abs(found - training["test_accuracy"]) < 0.003
    assert {"recipe", "versions"} < set(training)
    assert training["recipe"]["seed"] == 0


def test_digits_loads_by_name() -> None:
    digits = zoo.load("digits")
    assert digits.timm_name is None
    assert digits.classes == list(CLASSES) == list("0123456789")
    assert digits.num_classes == 10
    assert digits.preprocess == PREPROCESS
    assert digits.model(torch.zeros(3, 1, 8, 8)).shape == (3, 10)
    assert zoo.load("digits", WEIGHTS).weights_digest == digits.weights_digest
    assert zoo.load("digits", random=0).weights_digest != digits.weights_digest


def test_model_is_small() -> None:
    assert sum(p.numel() for p in build().parameters()) == 202_186
    assert WEIGHTS.stat().st_size < 2_000_000
    assert set(build(dropout=0.5).state_dict()) == set(build().state_dict())
