"""Hostile checkpoints: made a program and resumed, or refused, whatever is in them."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any
from unittest import mock

import pytest
import torch
from fuzz_cases import Case, MemoryFile, byte_changes, fuzz, json_changes, reading
from hypothesis import given
from hypothesis import strategies as st
from toolchain_harness import Quantized
from toolchain_models import MEAN, SIZE, STD
from toolchain_training import Parts, example

from mnq.models.zoo import LoadedModel
from mnq.toolchain import checkpoint, export
from mnq.toolchain.image import image_input


@pytest.fixture(scope="module")
def checkpoints(
    tmp_path_factory: pytest.TempPathFactory,
    quantized: Quantized,
    loaded: LoadedModel,
    pixels: torch.Tensor,
) -> Iterator[tuple[bytes, Case]]:
    """A good checkpoint after one step, and what reads others: exports them, goes on from them."""
    image = image_input("uint8", MEAN, STD, (3, SIZE, SIZE))
    parts = Parts(quantized.graph, quantized.graph, quantized.statistics, image)
    trainer = parts.trainer(ranges="learned")
    trainer.train_step(*example(pixels, 0))
    header = {
        "model": loaded.name,
        "weights": loaded.weights_digest,
        "map": trainer.model.mapping.to_json(),
        "settings": asdict(export.Settings()),
        "equalization": quantized.statistics.equalization,
        "calibration": quantized.statistics.provenance,
        "data": {"source": "train", "images": 16},
        "scales": {group: float(s) for group, s in trainer.model.ranges.scales().items()},
        "recipe": trainer.recipe_json(),
        "progress": {"step": 1, "losses": 0.5},
        "history": [{"epoch": 0, "step": 0, "loss": None, "top1": 97.5, "agreement": 99.0}],
    }
    captured = mock.patch.object(export, "graph_of", lambda loaded: quantized.prepared)
    with MemoryFile() as file, captured:

        def read(data: bytes) -> None:
            file.write(data)
            found = checkpoint.read(file.path)
            export.quantize(loaded, *export.restored(loaded, found))
            trainer.restore(found.tensors, 1)

        path = tmp_path_factory.mktemp("run") / "last.safetensors"
        checkpoint.write(checkpoint.Checkpoint(trainer.tensors(), header), path)
        with reading(read) as case:
            yield path.read_bytes(), case


cases = st.one_of(
    st.tuples(st.sampled_from(("run", "tensors")), json_changes()),
    st.tuples(st.just("bytes"), byte_changes()),
)


@pytest.mark.slow
@fuzz
@given(case=cases)
def test_a_hostile_checkpoint_is_used_or_refused(
    case: tuple[str, Any], checkpoints: tuple[bytes, Case]
) -> None:
    (place, changes), (good, read) = case, checkpoints
    if place == "bytes":
        read(changes.of(good))
        return
    (size,) = struct.unpack("<Q", good[:8])
    tensors = json.loads(good[8 : 8 + size])
    if place == "run":
        entries = tensors["__metadata__"]
        entries["mnq"] = changes.of(json.loads(entries["mnq"])).decode()
        head = json.dumps(tensors).encode()
    else:
        head = changes.of(tensors)
    read(struct.pack("<Q", len(head)) + head + good[8 + size :])
