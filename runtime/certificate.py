"""The certificate: digests of the reference integers and of the file, to check a model alone."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from mnq.ops.errors import CheckFailed, InputError

FORMAT = "mnq-certificate/2"
KEY = "mnq.certificate"
"""The metadata entry that holds it."""

SEED = 2024
IMAGES = 2

MAX_VALUES = 1 << 25  # of all images; the file that names their size is not trusted
HINT = 8
"""Hexadecimal digits that tell the nodes of a function apart; its digest is what proves."""

_DIGEST = re.compile(r"[0-9a-f]{64}")
_HINTS = re.compile(rf"([0-9a-f]{{{HINT}}})+")


def images(
    kind: str, shape: tuple[int, int, int], seed: int = SEED, count: int = IMAGES
) -> NDArray[Any]:
    """Random images (count, C, H, W) made from a seed: uint8 pixels, or floats k/64, |k| <= 160.

    Built from the bytes of SHA-256 in counter mode, so that every machine and every version
    of every library makes the same ones. Raises InputError for more than MAX_VALUES values.
    """
    size = count * math.prod(shape)
    if size > MAX_VALUES:
        raise InputError(
            f"certificate: expected at most {MAX_VALUES} values, found {count} images of {shape}; "
            "export the model again with fewer"
        )
    blocks = range(-(-size // 32))
    stream = b"".join(hashlib.sha256(f"mnq {seed} {block}".encode()).digest() for block in blocks)
    pixels = np.frombuffer(stream, np.uint8)[:size].reshape(count, *shape)
    if kind == "uint8":
        return pixels.copy()
    return ((pixels.astype(np.float32) - 128.0) * np.float32(1.25)).round() / np.float32(64.0)


def digest(values: NDArray[Any]) -> str:
    """SHA-256 of a tensor: its dtype, shape and little-endian bytes."""
    header = f"{values.dtype.name} {list(values.shape)} ".encode()
    data = np.ascontiguousarray(values).astype(values.dtype.newbyteorder("<"), copy=False)
    return hashlib.sha256(header + data.tobytes()).hexdigest()


def make(
    source: NDArray[Any],
    tensors: Mapping[str, NDArray[Any]],
    seed: int,
    contents: Mapping[str, Any],
) -> dict[str, Any]:
    """The certificate of reference integers `tensors` (execution order) on images `source`.

    contents: digests of what the file holds, from `contents.digests`.
    """
    return seal(
        {
            "format": FORMAT,
            "seed": seed,
            "images": int(source.shape[0]),
            "input": digest(source),
            "tensors": {name: digest(values) for name, values in tensors.items()},
            **contents,
        }
    )


def seal(certificate: Mapping[str, Any]) -> dict[str, Any]:
    """The certificate with its own digest, which shows damage. It is no signature."""
    return {**certificate, "digest": _own_digest(certificate)}


def attach(model: ModelProto, certificate: Mapping[str, Any]) -> None:
    """Put a certificate into the metadata of a model that has none."""
    entry = model.metadata_props.add()
    entry.key, entry.value = KEY, json.dumps(certificate, separators=(",", ":"))


def _own_digest(certificate: Mapping[str, Any]) -> str:
    rest = {key: value for key, value in certificate.items() if key != "digest"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def check_format(certificate: Mapping[str, Any]) -> None:
    """Raise InputError unless `certificate` is complete and of bounded size, and CheckFailed if
    it is damaged: its own digest is another.
    """
    found = certificate.get("format")
    if found != FORMAT:
        raise InputError(
            f"certificate: expected {FORMAT}, found {found!r:.50}; export the model again"
        )
    if certificate.get("digest") != _own_digest(certificate):
        raise CheckFailed(
            "verify: expected the certificate that was exported, found a changed one: its own "
            "digest differs; get the file again, or export the model again"
        )
    count = certificate.get("images")
    good = (
        type(certificate.get("seed")) is int
        and type(count) is int
        and 0 < count <= 64
        and all(_is_digest(certificate.get(key)) for key in ("input", "graph"))
        and _is_table(certificate.get("tensors"), _is_digest)
        and _is_table(certificate.get("nodes"), _is_digest)
        and _is_table(certificate.get("metadata"), _is_digest)
        and _is_table(certificate.get("functions"), _is_body, least=0)
        and _is_table(certificate.get("constants"), _is_names, least=0)
        and all(_is_digest(key) for key in certificate["constants"])
    )
    if not good:
        raise InputError(
            f"certificate: expected {FORMAT} with seed, images and digests, found something else; "
            "export the model again"
        )


def _is_digest(value: Any) -> bool:
    return isinstance(value, str) and _DIGEST.fullmatch(value) is not None


def _is_body(value: Any) -> bool:
    """A function: its digest, and a few digits for each of its nodes."""
    return (
        isinstance(value, dict)
        and set(value) == {"digest", "nodes"}
        and _is_digest(value["digest"])
        and isinstance(value["nodes"], str)
        and _HINTS.fullmatch(value["nodes"]) is not None
    )


def _is_names(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _is_table(table: Any, good: Any, least: int = 1) -> bool:
    return isinstance(table, dict) and len(table) >= least and all(map(good, table.values()))
