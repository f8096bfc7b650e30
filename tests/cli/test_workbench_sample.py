"""Workbench: the sample of images, and which measurements may be gone on from."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from cli_runs import Digits

from mnq.cli.common import Screen
from mnq.cli.workbench import Sample, Workbench, take_sample
from mnq.models.images import ImageSet
from mnq.models.zoo import LoadedModel
from mnq.ops.errors import InputError
from mnq.toolchain.calibrate import Statistics
from mnq.toolchain.export import Settings

SCREEN = Screen(as_json=True, quiet=True)
Make = Callable[..., Workbench]


def sampled(folder: Path, loaded: LoadedModel, count: int, seed: int = 0) -> Sample:
    with ImageSet.open(folder) as source:
        return take_sample(SCREEN, source, loaded, count, seed)


def test_sample_is_drawn_by_the_seed(digits: Digits, loaded: LoadedModel) -> None:
    first, again, other = (sampled(digits.train, loaded, 11, seed) for seed in (0, 0, 1))
    assert [len(batch) for batch in first.batches] == [8, 3] and len(first) == 11
    assert all(batch.dtype == torch.uint8 for batch in first.batches)
    pixels = torch.cat(first.batches)
    assert torch.equal(torch.cat(again.batches), pixels)
    assert not torch.equal(torch.cat(other.batches), pixels)
    assert len(torch.unique(pixels.flatten(1), dim=0)) > 9  # none is drawn twice
    assert first.provenance == again.provenance != other.provenance
    assert first.provenance == {
        "source": "train",
        "count": 11,
        "seed": 0,
        "digest": hashlib.sha256(pixels.numpy().tobytes()).hexdigest(),
    }


def test_sample_has_at_most_all_images(digits: Digits, loaded: LoadedModel) -> None:
    folder = digits.test / "0"
    count = len(list(folder.iterdir()))
    found = sampled(folder, loaded, 10_000)
    assert len(found) == found.provenance["count"] == count


def test_images_that_cannot_be_used_are_named_once(
    digits: Digits, loaded: LoadedModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Those that calibration has met have been named by it."""
    for number, path in enumerate(sorted(digits.train.glob("3/*.png"))[:12]):
        (tmp_path / f"{number:02}.png").write_bytes(path.read_bytes()[: 50 if number > 9 else None])
    with ImageSet.open(tmp_path) as source:
        found = take_sample(SCREEN, source, loaded, 12, 0)
        warned = capsys.readouterr().err.splitlines()
        assert [line.partition(": ")[2][:20] for line in sorted(warned)] == [
            "skipped image 10.png",
            "skipped image 11.png",
        ]
        assert len(found) == found.provenance["count"] == 10
        take_sample(SCREEN, source, loaded, 12, 0)
        assert capsys.readouterr().err == ""


def test_batches_are_the_sample_and_its_normalized_pixels(make_bench: Make, sample: Sample) -> None:
    bench = make_bench()
    mean, std = (
        np.float64(v).reshape(1, -1, 1, 1)
        for v in (bench.loaded.preprocess.mean, bench.loaded.preprocess.std)
    )
    for (pixels, normalized), expected in zip(bench.batches(), sample.batches, strict=True):
        assert torch.equal(pixels, expected)
        exactly = (pixels.numpy() / 255 - mean) / std
        np.testing.assert_allclose(normalized.numpy(), exactly, rtol=1e-5, atol=1e-6)


# --- what may be gone on from ---


def test_subject_says_what_was_measured(
    make_bench: Make, loaded: LoadedModel, statistics: Statistics, sample: Sample
) -> None:
    bench = make_bench(settings=Settings("minmax", "paper"))
    assert bench.measurements.model == "digits"
    assert bench.measurements.sites == bench.graph.sites()
    assert bench.measurements.subject == {
        "weights": loaded.weights_digest,
        "calibration": {**statistics.provenance, "digest": statistics.digest()},
        "settings": {"method": "minmax", "form": "paper"},
        "images": sample.provenance,
    }


def test_kept_measurements_are_gone_on_from(make_bench: Make, tmp_path: Path) -> None:
    path = tmp_path / "m.json"
    first = make_bench(path)
    assert not path.exists()
    first.isolated(8, ("ivit",))
    again = make_bench(path)
    assert again.measurements == first.measurements
    assert again.measurements.runs


def test_measurements_of_something_else_are_refused(
    make_bench: Make,
    loaded: LoadedModel,
    statistics: Statistics,
    digits: Digits,
    tmp_path: Path,
) -> None:
    path = tmp_path / "m.json"
    make_bench(path).save()
    make_bench(path)
    other = Statistics(
        statistics.histograms, {}, {**statistics.provenance}
    )  # the same source, without equalization
    cases: list[tuple[str, dict[str, Any]]] = [
        ("weights", {"loaded": replace(loaded, weights_digest="0" * 64)}),
        ("calibration", {"statistics": other}),
        ("settings", {"settings": Settings("percentile")}),
        ("images", {"sample": sampled(digits.test, loaded, 3)}),
        ("model", {"loaded": replace(loaded, name="numbers")}),
    ]
    for different, parts in cases:
        with pytest.raises(InputError, match=rf"\(different: {different}\)"):
            make_bench(path, **parts)
