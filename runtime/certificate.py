"""The certificate: digests of the reference integers, so that anybody can check a model alone."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnq.ops.errors import InputError

FORMAT = "mnq-certificate/1"
SEED = 2024
IMAGES = 2

MAX_VALUES = 1 << 25  # of all images; the file that names their size is not trusted

_HEX = 64


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


def make(source: NDArray[Any], tensors: Mapping[str, NDArray[Any]], seed: int) -> dict[str, Any]:
    """The certificate of reference integers `tensors` (execution order) on images `source`."""
    return {
        "format": FORMAT,
        "seed": seed,
        "images": int(source.shape[0]),
        "input": digest(source),
        "tensors": {name: digest(values) for name, values in tensors.items()},
    }


def check_format(certificate: dict[str, Any]) -> None:
    """Raise InputError unless `certificate` is complete and of bounded size."""
    digests, seed, count = (certificate.get(key) for key in ("tensors", "seed", "images"))
    good = (
        certificate.get("format") == FORMAT
        and type(seed) is int
        and type(count) is int
        and 0 < count <= 64
        and isinstance(digests, dict)
        and len(digests) > 0
        and all(_is_digest(value) for value in (certificate.get("input"), *digests.values()))
    )
    if not good:
        raise InputError(
            f"certificate: expected {FORMAT} with seed, images and digests, found something else; "
            "export the model again"
        )


def _is_digest(value: Any) -> bool:
    return isinstance(value, str) and len(value) == _HEX
