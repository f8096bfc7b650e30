"""Makes the helper module `cli_runs.py` importable; one small export, one model to measure on."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

sys.path.append(str(Path(__file__).parent))

from cli_runs import Digits, mnq

if TYPE_CHECKING:
    from mnq.cli.workbench import Sample, Workbench
    from mnq.models.zoo import LoadedModel
    from mnq.toolchain.calibrate import Statistics
    from mnq.toolchain.graph import Graph


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Digits:
    """The bundled digits as image folders."""
    pytest.importorskip("sklearn")
    from mnq.models.digits import data

    root = tmp_path_factory.mktemp("digits")
    data.write_folder(root / "train", "train")
    data.write_folder(root / "test", "test")
    return Digits(root)


@pytest.fixture(scope="session")
def exported(digits: Digits) -> Digits:
    """The same with `digits.onnx`, calibrated on 16 images, and its `calib.safetensors`."""
    result = mnq(
        *("export", "--model", "digits", "--calib", digits.train, "--images", 16),
        *("--save-calib", digits.calib, "--output", digits.onnx, "--json"),
    )
    assert result.exit_code == 0, result.output
    return digits


# --- what mnq-assign works with, for the digits model ---


@pytest.fixture(scope="session")
def loaded() -> LoadedModel:
    from mnq.models.zoo import load

    return load("digits")


@pytest.fixture(scope="session")
def graph(loaded: LoadedModel) -> Graph:
    """Prepared, not equalized."""
    from mnq.toolchain.export import graph_of

    return graph_of(loaded)


@pytest.fixture(scope="session")
def statistics(digits: Digits, loaded: LoadedModel, graph: Graph) -> Statistics:
    """Of eight images."""
    from mnq.cli.calibration import calibrate
    from mnq.cli.common import Screen
    from mnq.models.images import ImageSet

    with ImageSet.open(digits.train) as source:
        return calibrate(Screen(True, True), source, loaded, graph, 8, 8)


@pytest.fixture(scope="session")
def sample(digits: Digits, loaded: LoadedModel) -> Sample:
    """Two batches: eight images and two."""
    from mnq.cli.common import Screen
    from mnq.cli.workbench import take_sample
    from mnq.models.images import ImageSet

    with ImageSet.open(digits.train) as source:
        return take_sample(Screen(True, True), source, loaded, 10, 0)


@pytest.fixture
def make_bench(
    loaded: LoadedModel, graph: Graph, statistics: Statistics, sample: Sample
) -> Callable[..., Workbench]:
    """A function that makes a workbench, with some of its parts replaced."""
    from mnq.cli.common import Screen
    from mnq.cli.workbench import workbench
    from mnq.toolchain.export import Settings

    def make(path: Path | None = None, **parts: Any) -> Workbench:
        given = {
            "loaded": loaded,
            "prepared": graph,
            "statistics": statistics,
            "settings": Settings(),
            "sample": sample,
        }
        return workbench(Screen(True, True), **{**given, **parts}, path=path)

    return make
