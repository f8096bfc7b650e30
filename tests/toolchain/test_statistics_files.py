"""Files of calibration statistics: a round trip, and every way a file can be wrong."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import toolchain_models as models
import torch
from safetensors.torch import load, save
from toolchain_harness import Quantized

from mnq.toolchain.calibrate import FORMAT, load_statistics, save_statistics, scales
from mnq.toolchain.graph import Graph

Refusal = Callable[..., str]
COUNTS = "blocks.0.mlp.act\0counts"


@pytest.fixture(scope="module")
def saved(quantized: Quantized, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("statistics") / "a.safetensors"
    save_statistics(quantized.statistics, path)
    return path


def header_of(data: bytes) -> dict[str, Any]:
    length = int.from_bytes(data[:8], "little")
    return dict(json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["mnq"]))


def edited(
    saved: Path,
    to: Path,
    *,
    header: dict[str, str | None] | None = None,
    group: dict[str, Any] | None = None,
    tensors: dict[str, torch.Tensor | None] | None = None,
) -> Path:
    """A copy with other header entries, as JSON, another of blocks.0.mlp.act, other tensors."""
    data = saved.read_bytes()
    entries = header_of(data)
    if group is not None:
        entries["groups"]["blocks.0.mlp.act"].update(group)
    texts = {key: json.dumps(value) for key, value in entries.items()} | (header or {})
    parts = [f"{json.dumps(key)}: {text}" for key, text in texts.items() if text is not None]
    content = {**load(data), **(tensors or {})}
    kept = {name: value for name, value in content.items() if value is not None}
    to.write_bytes(save(kept, metadata={"mnq": "{" + ", ".join(parts) + "}"}))
    return to


def test_round_trip_keeps_everything(quantized: Quantized, saved: Path) -> None:
    found = load_statistics(saved, quantized.prepared)
    assert found.provenance == quantized.statistics.provenance
    assert found.equalization == quantized.statistics.equalization != {}
    assert found.histograms.keys() == quantized.statistics.histograms.keys()
    for group, expected in quantized.statistics.histograms.items():
        histogram = found.histograms[group]
        assert histogram.largest == expected.largest
        if expected.counts is not None:
            assert histogram.exponent == expected.exponent
            assert torch.equal(histogram.counts, expected.counts)
        else:
            assert histogram.counts is None
    for method in ("mse", "minmax", "percentile"):
        direct = scales(quantized.statistics, quantized.edges, 6, method)
        assert scales(found, quantized.edges, 6, method) == direct


def test_digest_is_that_of_what_scales_are_made_from(
    quantized: Quantized, saved: Path, tmp_path: Path, graph: Graph
) -> None:
    """The same from a file; another one after the smallest change; the provenance is no part."""
    digest = quantized.statistics.digest()
    assert load_statistics(saved, graph).digest() == digest
    entries = header_of(saved.read_bytes())
    elsewhere = edited(saved, tmp_path / "0", header={"provenance": '{"source": "elsewhere"}'})
    assert load_statistics(elsewhere, graph).digest() == digest
    exponents = entries["equalization"]
    exponents[next(iter(exponents))][0] += 1
    counts = load(saved.read_bytes())[COUNTS]
    counts[7] += 1
    entry = entries["groups"]["blocks.0.mlp.act"]
    others = [
        edited(saved, tmp_path / "1", header={"equalization": json.dumps(exponents)}),
        edited(saved, tmp_path / "2", group={"largest": entry["largest"] * (1 - 2**-23)}),
        edited(saved, tmp_path / "3", group={"exponent": entry["exponent"] + 1}),
        edited(saved, tmp_path / "4", tensors={COUNTS: counts}),
    ]
    assert len({digest, *(load_statistics(path, graph).digest() for path in others)}) == 5


def test_file_is_written_whole(quantized: Quantized, tmp_path: Path) -> None:
    path = tmp_path / "b.safetensors"
    path.write_bytes(b"an older file")
    save_statistics(quantized.statistics, path)
    load_statistics(path, quantized.prepared)
    assert list(tmp_path.iterdir()) == [path]  # no temporary is left


def test_statistics_of_another_model_are_refused(
    saved: Path, captured: Callable[..., Graph], refusal: Refusal
) -> None:
    text = refusal(load_statistics, saved, captured(models.distilled))
    assert "another set" in text and str(saved) in text and "calibrate again" in text


BROKEN: dict[str, dict[str, Any]] = {
    "other format": {"header": {"format": '"mnq-calibration/9"'}},
    "no format": {"header": {"format": None}},
    "no groups": {"header": {"groups": None}},
    "groups are no JSON": {"header": {"groups": "{"}},
    "groups are a number": {"header": {"groups": "7"}},
    "groups are nested deeply": {"header": {"groups": "[" * 100_000}},
    "entry without largest": {"group": {"largest": None}},
    "largest is a text": {"group": {"largest": "big"}},
    "largest is NaN": {"group": {"largest": float("nan")}},
    "largest is infinite": {"group": {"largest": float("inf")}},
    "largest is negative": {"group": {"largest": -1.0}},
    "largest has 400 digits": {"group": {"largest": 10**400}},
    "largest is above the histogram": {"group": {"largest": 1e6}},
    "exponent is missing": {"group": {"exponent": None}},
    "exponent is huge": {"group": {"exponent": 100_000}},
    "exponent is infinite": {"group": {"exponent": float("inf")}},
    "exponent is tiny": {"group": {"exponent": -100_000}},
    "no counts": {"tensors": {COUNTS: None}},
    "counts are too few": {"tensors": {COUNTS: torch.ones(5, dtype=torch.int64)}},
    "counts are floats": {"tensors": {COUNTS: torch.ones(4096)}},
    "a count is negative": {"tensors": {COUNTS: -torch.ones(4096, dtype=torch.int64)}},
    "all counts are zero": {"tensors": {COUNTS: torch.zeros(4096, dtype=torch.int64)}},
    "no equalization": {"header": {"equalization": None}},
    "equalization is a number": {"header": {"equalization": "1"}},
    "provenance is a list": {"header": {"provenance": "[]"}},
    "provenance is no JSON": {"header": {"provenance": "x"}},
    "no provenance": {"header": {"provenance": None}},
}


@pytest.mark.parametrize("name", BROKEN)
def test_file_with_impossible_content_is_refused(
    name: str, saved: Path, tmp_path: Path, graph: Graph, refusal: Refusal
) -> None:
    path = edited(saved, tmp_path / "broken.safetensors", **BROKEN[name])
    text = refusal(load_statistics, path, graph)
    assert FORMAT in text and str(path) in text


def test_an_edit_that_changes_nothing_is_read(saved: Path, tmp_path: Path, graph: Graph) -> None:
    """The refusals above are due to the edits."""
    load_statistics(edited(saved, tmp_path / "same.safetensors", group={}), graph)


@pytest.mark.parametrize("share", [0.0, 0.0001, 0.1, 0.5, 0.999])
def test_truncated_file_is_refused(
    share: float, saved: Path, tmp_path: Path, graph: Graph, refusal: Refusal
) -> None:
    path = tmp_path / "short.safetensors"
    data = saved.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])
    assert str(path) in refusal(load_statistics, path, graph)


@pytest.mark.parametrize(
    "data",
    [b"", b"{}", b"\x00" * 100, b"PK\x03\x04" + b"x" * 100, b"\xff" * 8 + b"{}", b"\x80\x04."],
)
def test_other_file_is_refused(data: bytes, tmp_path: Path, graph: Graph, refusal: Refusal) -> None:
    path = tmp_path / "other.safetensors"
    path.write_bytes(data)
    assert str(path) in refusal(load_statistics, path, graph)


def test_missing_file_and_folder_are_refused(
    tmp_path: Path, graph: Graph, refusal: Refusal
) -> None:
    assert "none.safetensors" in refusal(load_statistics, tmp_path / "none.safetensors", graph)
    assert str(tmp_path) in refusal(load_statistics, tmp_path, graph)


def test_equal_statistics_are_equal_bytes(quantized: Quantized, tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}.safetensors" for number in range(5)]
    for path in paths:
        save_statistics(quantized.statistics, path)
    assert len({path.read_bytes() for path in paths}) == 1
