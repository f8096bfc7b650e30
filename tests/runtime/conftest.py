"""Makes the helper module `runtime_tiny.py` importable, and the small models it exports."""

import sys
from pathlib import Path

import pytest
from onnx import ModelProto

sys.path.append(str(Path(__file__).parent))

from runtime_tiny import Tiny, export_tiny

from mnq.runtime.modelfile import ModelFile, parse


@pytest.fixture(scope="session")
def tiny() -> Tiny:
    """A small exported transformer that takes uint8 pixels, with its PyTorch reference."""
    return export_tiny("uint8")


@pytest.fixture(scope="session")
def tiny_float() -> Tiny:
    """The same transformer, exported for normalized floats."""
    return export_tiny("float")


@pytest.fixture
def proto(tiny: Tiny) -> ModelProto:
    """A copy of the small model that a test may spoil."""
    return tiny.copy()


@pytest.fixture
def model(proto: ModelProto) -> ModelFile:
    """That copy as a ModelFile: they share the proto."""
    return parse(proto, "tiny.onnx")
