"""The modules of results/, which are no package."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

RESULTS = Path(__file__).resolve().parents[2] / "results"


@pytest.fixture
def result_module() -> Callable[[str], ModuleType]:
    """A function from the name of a file of results/ to its module."""

    def load(name: str) -> ModuleType:
        spec = importlib.util.spec_from_file_location(name, RESULTS / f"{name}.py")
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    return load
