"""Hostile map.json files: read or refused, whatever is in them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from fuzz_cases import Case, JsonChanges, MemoryFile, byte_changes, fuzz, json_changes, reading
from hypothesis import given
from hypothesis import strategies as st

from mnq.toolchain import map as maps

SITES = {"blocks.0.attn": "softmax", "blocks.0.mlp.act": "gelu", "norm": "layernorm"}

GOOD: list[dict[str, Any]] = [
    maps.uniform("tiny", "ibert", 6, "normalized").to_json(),
    {
        "format": maps.FORMAT,
        "model": "tiny",
        "bits": {"activations": 8, "weights": 4},
        "sites": {
            "blocks.0.attn": {"method": "fqvit", "attention": "deferred"},
            "blocks.0.mlp.act": {"method": "lut"},
            "norm": {"method": "ivit"},
        },
        "provenance": {"rule": "sqnr-absdiff", "seeds": [0, 1]},
    },
]


@pytest.fixture(scope="module")
def read() -> Iterator[Case]:
    with MemoryFile() as file:

        def read(data: bytes) -> None:
            file.write(data)
            maps.read(file.path, "tiny").resolve(SITES)

        with reading(read) as case:
            yield case


@pytest.mark.slow
@fuzz
@given(good=st.sampled_from(GOOD), changes=st.one_of(json_changes(), byte_changes()))
def test_a_hostile_map_is_read_or_refused(good: Any, changes: Any, read: Case) -> None:
    read(changes.of(good if isinstance(changes, JsonChanges) else json.dumps(good).encode()))
