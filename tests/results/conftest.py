"""The modules of results/, which are no package."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

RESULTS = Path(__file__).resolve().parents[2] / "results"


@pytest.fixture
def result_module(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """A function from the name of a file of results/ to its module."""
    monkeypatch.syspath_prepend(RESULTS)
    return importlib.import_module
