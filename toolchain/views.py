"""View operators: they move codes and never change one. Each in torch and in ONNX.

`batch` is the number of images; `expand` is the only view that needs it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

Attributes = dict[str, Any]
Emit = tuple[str, dict[str, NDArray[np.int64]], dict[str, Any]]
"""An ONNX operator, its constant inputs by name, and its attributes."""


@dataclass(frozen=True)
class View:
    """One view: `run(inputs, batch, settings)` in torch, `emit(settings)` for ONNX."""

    run: Callable[[list[torch.Tensor], int, Attributes], torch.Tensor]
    emit: Callable[[Attributes], Emit]


def _vector(*values: int) -> NDArray[np.int64]:
    return np.array(values, np.int64)


def _slice(x: torch.Tensor, s: Attributes) -> torch.Tensor:
    index = [slice(None)] * x.ndim
    index[s["axis"]] = slice(s["start"], s["stop"], s["step"])
    return x[tuple(index)]


def _torch_pads(s: Attributes) -> list[int]:
    """From the last axis to the first, before and after."""
    pairs = zip(reversed(s["before"]), reversed(s["after"]), strict=True)
    return [size for pair in pairs for size in pair]


VIEWS: dict[str, View] = {
    "reshape": View(
        lambda xs, batch, s: xs[0].reshape(s["shape"]),
        lambda s: ("Reshape", {"shape": _vector(*s["shape"])}, {}),
    ),
    "transpose": View(
        lambda xs, batch, s: xs[0].permute(s["perm"]),
        lambda s: ("Transpose", {}, {"perm": list(s["perm"])}),
    ),
    "select": View(
        lambda xs, batch, s: xs[0].select(s["axis"], s["index"]),
        lambda s: ("Gather", {"index": np.array(s["index"], np.int64)}, {"axis": s["axis"]}),
    ),
    "slice": View(
        lambda xs, batch, s: _slice(xs[0], s),
        lambda s: (
            "Slice",
            {
                "starts": _vector(s["start"]),
                "ends": _vector(s["stop"]),
                "axes": _vector(s["axis"]),
                "steps": _vector(s["step"]),
            },
            {},
        ),
    ),
    "gather": View(
        lambda xs, batch, s: xs[0].index_select(
            s["axis"], torch.tensor(s["order"], device=xs[0].device)
        ),
        lambda s: ("Gather", {"order": _vector(*s["order"])}, {"axis": s["axis"]}),
    ),
    # Code 0 is the value 0, and onnx pads with 0 if nothing else is said.
    "pad": View(
        lambda xs, batch, s: functional.pad(xs[0], _torch_pads(s)),
        lambda s: ("Pad", {"pads": _vector(*s["before"], *s["after"])}, {}),
    ),
    "concat": View(
        lambda xs, batch, s: torch.cat(xs, s["axis"]),
        lambda s: ("Concat", {}, {"axis": s["axis"]}),
    ),
    # In ONNX a second input gives the shape, with the batch in front (lower.py writes it).
    "expand": View(
        lambda xs, batch, s: xs[0].expand(batch, *s["shape"][1:]),
        lambda s: ("Expand", {}, {}),
    ),
}
