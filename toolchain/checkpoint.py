"""Checkpoints of QAT: one safetensors file with the weights, ranges and optimizer of a run.

The header's metadata is JSON: what was trained and how, and how far it is. Nothing is unpickled,
and no path is taken from inside a file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from mnq.models.weights import digest_of
from mnq.ops.errors import InputError
from mnq.ops.files import write_atomically

FORMAT = "mnq-checkpoint/1"
WEIGHT = "weight:"
"""Prefix of the trained weights; the other tensors belong to the trainer."""

# Metadata by key and type; `scales` is by quantizer group.
_KEYS = {
    "model": str,
    "weights": str,
    "map": dict,
    "widths": dict,
    "settings": dict,
    "equalization": dict,
    "calibration": dict,
    "data": dict,
    "scales": dict,
    "recipe": dict,
    "progress": dict,
    "history": list,
}
_KEY = "mnq"
_LARGEST_HEADER = 16 << 20


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint as it was read or will be written.

    tensors: by name, weights under WEIGHT + "node.key"; header: JSON values by key of `_KEYS`.
    """

    tensors: dict[str, torch.Tensor]
    header: dict[str, Any]

    def weights(self) -> dict[str, torch.Tensor]:
        """The trained weights by "node.key"."""
        return {
            name.removeprefix(WEIGHT): value
            for name, value in self.tensors.items()
            if name.startswith(WEIGHT)
        }

    def most_parameters(self) -> int:
        """More parameters than the model can have whose weights these are: some are folded into
        others, or left out.
        """
        return 2 * sum(value.numel() for value in self.weights().values()) + (1 << 20)

    def digest(self) -> str:
        """SHA-256 of everything that the integers depend on: weights, scales, map, settings."""
        parts = [
            digest_of(self.weights()),
            *(self.header[k] for k in ("map", "settings", "scales")),
            *([widths] if (widths := self.header.get("widths")) else []),
        ]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def check_tensors(
    wanted: Mapping[str, torch.Tensor], found: Mapping[str, torch.Tensor], advice: str
) -> None:
    """Raise InputError, ending with `advice`, unless names, shapes and types are those wanted."""
    wrong = sorted(set(wanted) ^ set(found)) or [
        name
        for name, value in wanted.items()
        if found[name].shape != value.shape or found[name].dtype != value.dtype
    ]
    if wrong:
        raise InputError(
            f"checkpoint: expected the {len(wanted)} tensors of this model, found others "
            f"(different: {', '.join(map(ascii, wrong[:3]))}); {advice}"
        )


def write(checkpoint: Checkpoint, path: Path) -> None:
    """Write a checkpoint, whole or not at all; an old file survives a full disk.

    Raises InputError if the place cannot be written.
    """
    tensors = {
        name: value.detach().cpu().contiguous() for name, value in checkpoint.tensors.items()
    }
    header = {key: checkpoint.header.get(key, {}) for key in _KEYS}
    # One key: safetensors writes several in a random order, and equal runs are equal bytes.
    text = json.dumps({"format": FORMAT, **header})
    write_atomically(path, save(tensors, metadata={_KEY: text}))


def read(path: Path) -> Checkpoint:
    """Read a checkpoint.

    Raises InputError if the file is none, is damaged, or has numbers that are not finite.
    """
    try:
        with safe_open(path, "pt") as file:
            header = _header((file.metadata() or {}).get(_KEY, "{}"), path)
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, KeyError, TypeError, ValueError, RecursionError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0][:160]
        raise InputError(
            f"checkpoint: expected a readable {FORMAT} file, found {path} which is missing or "
            f"damaged ({reason}); give one that mnq-qat wrote"
        ) from error
    for name, value in tensors.items():
        if not bool(value.isfinite().all()):
            raise InputError(
                f"checkpoint: expected finite numbers, found others in {name!r} of {path}; "
                "give an earlier checkpoint"
            )
    return Checkpoint(tensors, header)


def _header(text: str, path: Path) -> dict[str, Any]:
    """The metadata's values. Raises KeyError, TypeError or ValueError if they cannot be ours."""
    if len(text) > _LARGEST_HEADER:
        raise ValueError(f"metadata of more than {_LARGEST_HEADER} bytes")
    found = json.loads(text)
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        kind = found.get("format") if isinstance(found, dict) else found
        raise InputError(
            f"checkpoint: expected a {FORMAT} file, found {kind!r:.80} in {path}; give one that "
            "mnq-qat wrote"
        )
    found.setdefault("widths", {})  # of a run with the map's bits everywhere
    for key, kind in _KEYS.items():
        if not isinstance(found[key], kind):
            raise TypeError(f"{key} that is no {kind.__name__}")
    return {key: found[key] for key in _KEYS}
