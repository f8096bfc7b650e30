"""Hostile .onnx files: checked or refused, whatever is in them and in their metadata."""

from __future__ import annotations

import json
from collections.abc import Iterator
from unittest import mock

import pytest
from fuzz_cases import (
    ByteChanges,
    Case,
    JsonChanges,
    MemoryFile,
    byte_changes,
    fuzz,
    json_changes,
    reading,
)
from hypothesis import given
from hypothesis import strategies as st
from onnx import ModelProto
from runtime_tiny import Tiny, load_tiny, set_metadata

from mnq.runtime import certificate, certified, contents, modelfile, overflow
from mnq.runtime.modelfile import ModelFile, metadata
from mnq.toolchain import export

KEYS = (
    *("format", "model", "input", "preprocess", "classes", "output", "tensors", "map"),
    *("quantization", "overflow", "versions", "certificate"),
)
TEXTS = ("format", "model", "input")  # no JSON


def use(model: ModelFile) -> None:
    """Read all that the commands read before they run a model."""
    contents.changes(model)
    certified.images(model)
    certified.digests(model)
    certified.returned(model)
    overflow.sentence(overflow.from_json(model.overflow))


def sealed(model: ModelProto) -> None:
    """Let the certificate's own digest be right again, for what reads it to go on."""
    try:
        found = json.loads(metadata(model)[certificate.KEY])
        set_metadata(model, certificate.KEY, json.dumps(certificate.seal(found)))
    except (TypeError, ValueError, RecursionError):
        pass


@pytest.fixture(scope="module")
def described() -> Iterator[Case]:
    """What reads a model whose metadata is hostile, to check it and to build it anew."""
    loaded = load_tiny()
    graph = export.graph_of(loaded)

    def read(data: bytes) -> None:
        model = modelfile.parse(ModelProto.FromString(data), "m.onnx")
        use(model)
        export.rebuild(model, loaded)

    with mock.patch.object(export, "graph_of", lambda loaded: graph), reading(read) as case:
        yield case


@pytest.mark.slow
@fuzz
@given(key=st.sampled_from(KEYS), changes=json_changes(), seal=st.booleans())
def test_hostile_metadata_is_used_or_refused(
    key: str, changes: JsonChanges, seal: bool, tiny: Tiny, described: Case
) -> None:
    model = tiny.copy()
    text = metadata(model)[f"mnq.{key}"]
    changed = changes.of(text if key in TEXTS else json.loads(text)).decode()
    if key in TEXTS:
        changed = changed.strip('"')
    set_metadata(model, f"mnq.{key}", changed)
    if seal:
        sealed(model)
    described(model.SerializeToString())


@pytest.fixture(scope="module")
def files() -> Iterator[Case]:
    """What reads a file whose bytes are hostile."""
    with MemoryFile() as file:

        def read(data: bytes) -> None:
            file.write(data)
            use(modelfile.read(file.path))

        with reading(read) as case:
            yield case


@pytest.mark.slow
@fuzz
@given(changes=byte_changes())
def test_a_hostile_file_is_used_or_refused(changes: ByteChanges, tiny: Tiny, files: Case) -> None:
    files(changes.of(tiny.data))
