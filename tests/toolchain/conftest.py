"""Small models, their graphs and calibrations, made once; see `toolchain_models.py`."""

import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch

sys.path.append(str(Path(__file__).parent))  # importlib mode puts no folder on the path

import toolchain_models as models
from toolchain_harness import Quantized

from mnq.models.zoo import LoadedModel
from mnq.toolchain.graph import Graph


@pytest.fixture(scope="session")
def pixels() -> torch.Tensor:
    """Sixteen uint8 images, the first two all black and all white."""
    return models.pixels(16)


@pytest.fixture(scope="session")
def normalized(pixels: torch.Tensor) -> torch.Tensor:
    """The same images as the float model reads them."""
    return models.normalize(pixels)


@pytest.fixture(scope="session")
def loaded() -> LoadedModel:
    """The tiny transformer with a class token, as `zoo.load` would give it."""
    return models.loaded()


@pytest.fixture(scope="session")
def model(loaded: LoadedModel) -> torch.nn.Module:
    return loaded.model


@pytest.fixture(scope="session")
def quantized(model: torch.nn.Module, normalized: torch.Tensor) -> Quantized:
    """The tiny transformer's graphs and calibration, and programs by map; do not change it."""
    return Quantized(model, normalized)


@pytest.fixture(scope="session")
def quantizations(normalized: torch.Tensor) -> Callable[[Callable[[], torch.nn.Module]], Quantized]:
    """A function that makes, captures and calibrates a model of `toolchain_models`, once each."""
    return cache(lambda build: Quantized(build(), normalized))


@pytest.fixture(scope="session")
def graph(quantized: Quantized) -> Graph:
    """The tiny transformer's graph, prepared and not equalized."""
    return quantized.prepared


@pytest.fixture(scope="session")
def refusal() -> Callable[..., str]:
    """A function that calls another and returns its InputError's text, which is one line."""
    from mnq.ops.errors import InputError

    def call(function: Callable[..., object], *arguments: object) -> str:
        with pytest.raises(InputError) as caught:
            function(*arguments)
        text = str(caught.value)
        assert "\n" not in text, "the message is not one line"
        return text

    return call


@pytest.fixture(scope="session")
def captured() -> Callable[..., Graph]:
    """A function that captures and prepares a model class of `toolchain_models`, once each."""
    return cache(models.prepared)
