"""Where ranges come from: images, or a file of an earlier calibration, of the same weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from cli_runs import Digits

from mnq.cli.calibration import Ranges
from mnq.cli.common import Screen
from mnq.models.images import ImageSet
from mnq.models.zoo import LoadedModel
from mnq.ops.errors import InputError
from mnq.toolchain.calibrate import Statistics, save_statistics
from mnq.toolchain.graph import Graph

SCREEN = Screen(as_json=True, quiet=True)


def ranges(calib: Path, equalize: bool = True) -> Ranges:
    return Ranges(calib, 8, "mse", "ivit", equalize)


@pytest.fixture(scope="module")
def saved(statistics: Statistics, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("saved") / "calib.safetensors"
    save_statistics(statistics, path)
    return path


def test_images_or_their_saved_statistics_give_the_same(
    digits: Digits, saved: Path, loaded: LoadedModel, graph: Graph, statistics: Statistics
) -> None:
    images = ranges(digits.train).open()
    assert isinstance(images, ImageSet)
    with images:
        fresh = ranges(digits.train).statistics(SCREEN, images, loaded, graph, 8)
    assert ranges(saved).open() is None
    kept = ranges(saved).statistics(SCREEN, None, loaded, graph, 8)
    assert fresh.digest() == kept.digest() == statistics.digest()
    assert fresh.provenance == kept.provenance
    assert kept.provenance == {
        "source": "train",
        "weights": loaded.weights_digest,
        "images": 8,
    }


def test_equalization_is_as_asked_for(
    digits: Digits, saved: Path, loaded: LoadedModel, graph: Graph
) -> None:
    with ImageSet.open(digits.train) as images:
        plain = ranges(digits.train, equalize=False).statistics(SCREEN, images, loaded, graph, 8)
    assert plain.equalization == {}
    with pytest.raises(InputError, match="without equalization for --no-equalize"):
        ranges(saved, equalize=False).statistics(SCREEN, None, loaded, graph, 8)


def test_statistics_of_other_weights_are_refused(
    saved: Path, loaded: LoadedModel, graph: Graph
) -> None:
    other = replace(loaded, weights_digest="0" * 64)
    with pytest.raises(InputError, match="expected statistics of these weights"):
        ranges(saved).statistics(SCREEN, None, other, graph, 8)


def test_what_is_neither_images_nor_a_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="found none at"):
        ranges(tmp_path / "none.safetensors").open()
    (tmp_path / "folder.safetensors").mkdir()
    with pytest.raises(InputError, match="found none at"):
        ranges(tmp_path / "folder.safetensors").open()
    with pytest.raises(InputError, match="at least 8 image files"):
        ranges(tmp_path).open()
