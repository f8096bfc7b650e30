"""Checkpoints: what is written is read back, and nothing else is."""

from __future__ import annotations

import errno
import json
import os
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from mnq.toolchain.checkpoint import FORMAT, WEIGHT, Checkpoint, read, write

HEADER: dict[str, Any] = {
    "model": "tiny",
    "weights": "0123",
    "map": {"format": "mnq-map/1", "bits": {"activations": 8}},
    "widths": {},
    "settings": {"method": "mse", "form": "ivit", "input_kind": "uint8"},
    "equalization": {"norm": [1, -2]},
    "calibration": {"source": "train \N{SNOWMAN}", "images": 16},
    "data": {"source": "train", "images": 20},
    "scales": {"head": 0.0078125, "norm": 1e-30},
    "recipe": {"epochs": 2, "learning_rate": 1e-6, "floor": 1 / 15},
    "progress": {"step": 3, "losses": 0.1 + 0.2},
    "history": [{"epoch": 0, "loss": None, "top1": 97.5}],
}


def made(**changes: Any) -> Checkpoint:
    draw = torch.Generator().manual_seed(0)
    tensors = {
        WEIGHT + "head.weight": torch.randn(3, 4, generator=draw),
        WEIGHT + "head.bias": torch.tensor([0.0, -0.0, 1e-40]),
        "ranges:largest": torch.randn(5, generator=draw, dtype=torch.float64),
        "exp_avg:head.bias": torch.randn(3, generator=draw),
    }
    return Checkpoint(tensors, {**HEADER, **changes})


def stored(path: Path, metadata: dict[str, str | None]) -> Path:
    """A safetensors file of a good checkpoint's tensors with some metadata changed."""
    good = {"format": FORMAT, **HEADER}
    texts: dict[str, str | None] = {key: json.dumps(value) for key, value in good.items()}
    parts = [f'"{key}": {text}' for key, text in {**texts, **metadata}.items() if text is not None]
    save_file(made().tensors, path, {"mnq": "{" + ", ".join(parts) + "}"})
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "last.safetensors"


def test_what_is_read_is_what_was_written(path: Path) -> None:
    checkpoint = made()
    write(checkpoint, path)
    found = read(path)
    assert found.header == HEADER
    assert set(found.tensors) == set(checkpoint.tensors)
    for name, value in checkpoint.tensors.items():
        assert found.tensors[name].dtype == value.dtype
        assert found.tensors[name].shape == value.shape
        assert found.tensors[name].numpy().tobytes() == value.numpy().tobytes()
    assert set(found.weights()) == {"head.weight", "head.bias"}
    assert found.digest() == checkpoint.digest()
    assert stored(path.with_name("other"), {}).exists() and read(path.with_name("other"))


def test_equal_checkpoints_are_equal_bytes(path: Path) -> None:
    write(made(), path)
    first = path.read_bytes()
    write(made(), path)
    assert path.read_bytes() == first


def test_views_and_parameters_are_written_as_their_values(path: Path) -> None:
    whole = torch.nn.Parameter(torch.arange(12.0).reshape(3, 4))
    tensors = {WEIGHT + "a": whole, WEIGHT + "b": whole.t()}
    write(Checkpoint(tensors, HEADER), path)
    found = read(path).tensors
    assert all(torch.equal(found[name], value) for name, value in tensors.items())


def test_a_new_checkpoint_takes_the_place_of_the_old_one(path: Path) -> None:
    write(made(), path)
    write(made(history=[]), path)
    assert read(path).header["history"] == []
    assert [one.name for one in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("key", ["map", "settings", "scales"])
def test_the_digest_depends_on_what_the_integers_depend_on(key: str) -> None:
    assert made(**{key: {**HEADER[key], "x": 1}}).digest() != made().digest()


def test_the_digest_depends_on_every_weight() -> None:
    found = {made().digest()}
    bias = WEIGHT + "head.bias"
    for value in (
        torch.tensor([0.0, 0.0, 1e-40]),  # the sign of zero
        torch.tensor([[0.0, -0.0, 1e-40]]),
        torch.tensor([0.0, -0.0, 1e-40], dtype=torch.float64),
    ):
        found.add(replace(made(), tensors={**made().tensors, bias: value}).digest())
    swapped = {**made().tensors, WEIGHT + "other": made().tensors[bias]}
    found.add(replace(made(), tensors=swapped).digest())
    assert len(found) == 5


def test_the_digest_does_not_depend_on_how_it_came_about() -> None:
    others: dict[str, Any] = {
        "history": [],
        "progress": {},
        "recipe": {},
        "data": {},
        "calibration": {},
    }
    assert made(**others).digest() == made().digest()
    moved = {**made().tensors, "ranges:largest": torch.zeros(5), "exp_avg:head.bias": torch.ones(3)}
    assert Checkpoint(moved, HEADER).digest() == made().digest()
    backward = dict(reversed(made().tensors.items()))
    mapping = dict(reversed(HEADER["map"].items()))
    assert Checkpoint(backward, {**HEADER, "map": mapping}).digest() == made().digest()


def test_files_that_are_none_are_refused(path: Path, refusal: Callable[..., str]) -> None:
    text = refusal(read, path)
    assert f"expected a readable {FORMAT} file, found {path} which is missing or damaged" in text
    assert text.endswith("; give one that mnq-qat wrote")
    for content in (b"", b"text", b"\xff" * 100, b"\x00" * 1000, b"{}" * 8):
        path.write_bytes(content)
        assert "which is missing or damaged (" in refusal(read, path)
    path.unlink()
    path.mkdir()
    assert "which is missing or damaged (" in refusal(read, path)


def test_a_file_of_another_format_is_refused(path: Path, refusal: Callable[..., str]) -> None:
    save_file({"weight": torch.ones(2)}, path)
    assert f"expected a {FORMAT} file, found None in {path}" in refusal(read, path)
    stored(path, {"format": '"mnq-checkpoint/2"'})
    assert "found 'mnq-checkpoint/2' in" in refusal(read, path)


def test_a_truncated_file_is_refused_wherever_it_ends(
    path: Path, refusal: Callable[..., str]
) -> None:
    write(made(), path)
    data = path.read_bytes()
    for size in (*range(0, len(data), 97), len(data) - 1):
        path.write_bytes(data[:size])
        assert "which is missing or damaged (" in refusal(read, path)


def test_a_pickle_is_refused_and_not_run(path: Path, refusal: Callable[..., str]) -> None:
    class Trap:
        def __reduce__(self) -> Any:
            return Path(f"{path}.ran").touch, ()

    path.write_bytes(pickle.dumps(Trap()))
    assert "which is missing or damaged (" in refusal(read, path)
    torch.save({"weight": torch.ones(2), "trap": Trap()}, path)
    assert "which is missing or damaged (" in refusal(read, path)
    assert [one.name for one in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("key", [*HEADER])
def test_metadata_that_is_missing_or_of_another_kind_is_refused(
    key: str, path: Path, refusal: Callable[..., str]
) -> None:
    if key != "widths":  # which older ones lack
        assert f"damaged ('{key}')" in refusal(read, stored(path, {key: None}))
    kind = type(HEADER[key]).__name__
    for text in ("null", "7", '{"a": 1}' if kind != "dict" else "[]"):
        assert f"damaged ({key} that is no {kind})" in refusal(read, stored(path, {key: text}))


def test_a_checkpoint_from_before_bits_were_learned_has_the_map_s(path: Path) -> None:
    assert read(stored(path, {"widths": None})).header["widths"] == {}


@pytest.mark.parametrize("text", ["", "{", "{}}", "tiny", "[" * 100_000])
def test_metadata_that_is_no_json_is_refused(
    text: str, path: Path, refusal: Callable[..., str]
) -> None:
    assert "which is missing or damaged (" in refusal(read, stored(path, {"map": text}))


def test_metadata_that_is_too_large_is_refused(
    path: Path, refusal: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mnq.toolchain.checkpoint._LARGEST_HEADER", 150)
    text = refusal(read, stored(path, {"history": json.dumps([0] * 51)}))
    assert "metadata of more than 150 bytes" in text


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("name", [WEIGHT + "head.weight", "ranges:largest", "exp_avg:head.bias"])
def test_numbers_that_are_not_finite_are_refused(
    number: float, name: str, path: Path, refusal: Callable[..., str]
) -> None:
    checkpoint = made()
    checkpoint.tensors[name].view(-1)[-1] = number
    write(checkpoint, path)
    text = refusal(read, path)
    assert f"expected finite numbers, found others in '{name}' of {path}" in text


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_full_disk_leaves_the_old_checkpoint(
    call: str, path: Path, refusal: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    write(made(), path)
    before = path.read_bytes()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, call, full)
        text = refusal(write, made(history=[]), path)
    assert f"expected to write {path}, found No space left on device" in text
    assert path.read_bytes() == before
    assert [one.name for one in path.parent.iterdir()] == [path.name]


def test_a_folder_that_is_not_there_is_refused(path: Path, refusal: Callable[..., str]) -> None:
    assert "found none at" in refusal(write, made(), path.parent / "no" / "last.safetensors")
