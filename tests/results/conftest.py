"""The modules of results/, which are no package; makes the helper `result_data.py` importable."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

sys.path.insert(0, str(Path(__file__).parent))

RESULTS = Path(__file__).resolve().parents[2] / "results"


@pytest.fixture
def result_module(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], ModuleType]:
    """A function from the name of a file of results/ to its module."""
    monkeypatch.syspath_prepend(RESULTS)
    return importlib.import_module
