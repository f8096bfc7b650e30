"""Feature maps: a backbone from export to evaluation, and what has no feature maps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cli_runs import Digits, mnq, payload, refused
from PIL import Image
from safetensors.torch import save_file

from mnq.cli.common import Screen
from mnq.cli.feature_maps import MapFidelity, judge_maps
from mnq.models.images import Batch, ImageSet, batches
from mnq.models.zoo import LoadedModel, load
from mnq.ops.errors import InputError
from mnq.runtime.modelfile import read

pytestmark = pytest.mark.onnxruntime

NAME, SEED = "test_vit:features", 1
SHAPE = (64, 10, 10)


@dataclass(frozen=True)
class Backbone:
    """An exported backbone, and what it was made from."""

    onnx: Path
    images: Path
    weights: Path


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    """timm's smallest transformer with random weights, calibrated on eight images."""
    root = tmp_path_factory.mktemp("backbone")
    made = Backbone(root / "m.onnx", root / "images", root / "w.safetensors")
    made.images.mkdir()
    draw = np.random.default_rng(3)
    for number in range(8):
        picture = draw.integers(0, 256, (20, 20, 3), dtype=np.uint8)
        Image.fromarray(picture).save(made.images / f"{number}.png")
    save_file(load("test_vit", random=SEED).model.state_dict(), made.weights)
    options = ("--assign", "uniform:lut", "--calib", made.images, "--output", made.onnx, "--json")
    found = payload(mnq("export", "--model", NAME, "--weights", made.weights, *options))
    assert found["verified_tensors"] > 70
    return made


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    """The float backbone."""
    return load(NAME, random=SEED)


@pytest.fixture
def stream(backbone: Backbone, loaded: LoadedModel) -> Iterator[Iterator[Batch]]:
    with ImageSet.open(backbone.images) as source:
        yield batches(source, loaded.preprocess, 3, limit=4)


def test_every_map_is_judged_against_its_float_map(backbone: Backbone) -> None:
    """Tables at 8 bits over six blocks: measured 45 to 46 dB."""
    options = ("--images", backbone.images, "--float-weights", backbone.weights)
    found = payload(mnq("eval", backbone.onnx, *options, "--batch", 3, "--json"))
    assert (found["images"], found["skipped_images"]) == (str(backbone.images), 0)
    assert [entry["map"] for entry in found["maps"]] == [f"features_{i}" for i in range(4)]
    for entry in found["maps"]:
        assert (entry["model"], entry["images"]) == (str(backbone.onnx), 8)
        assert tuple(entry["shape"]) == SHAPE
        assert entry["sqnr_db"] > 40
    table = mnq("eval", backbone.onnx, *options, "--quiet").stdout.splitlines()
    assert table[0].split() == ["model", "map", "shape", "images", "SQNR", "dB"]
    cells = [str(backbone.onnx), "features_3", "64x10x10", "8"]
    assert table[4].split() == [*cells, f"{found['maps'][3]['sqnr_db']:.1f}"]


def test_a_corrupt_image_is_named_skipped_and_counted(backbone: Backbone, tmp_path: Path) -> None:
    for number in range(3):
        data = (backbone.images / f"{number}.png").read_bytes()
        (tmp_path / f"{number}.png").write_bytes(data[:50] if number == 1 else data)
    options = ("--images", tmp_path, "--float-weights", backbone.weights)
    result = mnq("eval", backbone.onnx, *options, "--json")
    found = payload(result)
    assert found["skipped_images"] == 1
    assert {entry["images"] for entry in found["maps"]} == {2}
    assert result.stderr.startswith("warning: skipped image 1.png: ")


def test_every_output_of_a_backbone_is_certified(backbone: Backbone) -> None:
    found = payload(mnq("verify", backbone.onnx, "--json"))
    assert found["passed"] is True
    assert len(read(backbone.onnx).output_scales) == 4


def test_maps_alone_have_no_accuracy(backbone: Backbone, exported: Digits) -> None:
    images = ("--images", backbone.images)
    line = refused("eval", backbone.onnx, *images)
    assert "expected --float or --float-weights beside models that return feature maps" in line
    other = refused("eval", backbone.onnx, exported.onnx, *images, "--model", NAME)
    assert "one preprocessing and one class list" in other


def test_there_is_nothing_to_train_by_in_maps(backbone: Backbone, tmp_path: Path) -> None:
    options = ("--train", backbone.images, "--output", tmp_path / "run")
    words = ("--model", NAME, "--weights", backbone.weights, *options)
    assert (
        "expected a model that returns logits, found one that returns several tensors"
        in refused("qat", *words)
    )


# --- the figures ---


def judged(
    backbone: Backbone, loaded: LoadedModel, stream: Iterator[Batch], **changes: Any
) -> list[MapFidelity]:
    """Of one file under two names; changes: of the model that is read from it."""
    model = replace(read(backbone.onnx), **changes)
    models = {Path("a.onnx"): model, Path("b.onnx"): model}
    options = {"provider": "cpu", "threads": 1, "kernels": None}
    return judge_maps(Screen(False, True), models, loaded, stream, 4, **options)


def test_figures_are_sums_over_all_images(
    backbone: Backbone, loaded: LoadedModel, stream: Iterator[Batch]
) -> None:
    """In order of the models, and of each its maps. Codes times 0 leave the signal as noise."""
    found = judged(backbone, loaded, stream, output_scales=(0.0,) * 4)
    names = [(entry.model, entry.map) for entry in found]
    assert names == [(f"{m}.onnx", f"features_{i}") for m in "ab" for i in range(4)]
    for entry in found:
        assert (entry.shape, entry.images) == (SHAPE, 4)
        assert entry.signal == pytest.approx(entry.noise) and entry.sqnr_db == pytest.approx(0.0)


def test_a_model_with_other_maps_is_refused(
    backbone: Backbone, loaded: LoadedModel, stream: Iterator[Batch]
) -> None:
    """Fewer, or of another shape."""
    import torch

    class Other(torch.nn.Module):
        def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
            maps: tuple[torch.Tensor, ...] = loaded.model(images)
            return maps[1:]

    with pytest.raises(InputError, match=r"^eval: expected the maps of .*, found others in a.onnx"):
        judged(backbone, replace(loaded, model=Other()), stream)


@pytest.mark.parametrize(
    ("signal", "noise", "expected"), [(100.0, 1.0, 20.0), (0.0, 1.0, None), (1.0, 0.0, None)]
)
def test_ratio_of_powers_is_in_decibels(
    signal: float, noise: float, expected: float | None
) -> None:
    entry = MapFidelity("m.onnx", "features_0", (1, 2, 3), 4, signal, noise)
    assert entry.to_json()["sqnr_db"] == expected
