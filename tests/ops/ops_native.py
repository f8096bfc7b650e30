"""Back ends and kernels of the native library, as tests name them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from onnx import TensorProto

from mnq.ops.kernels import Array, Kernel, paths

if TYPE_CHECKING:  # importing it would import torch, which no emulator runs in good time
    from mnq.ops.operator import Operator

PATHS = ("portable", "avx2", "avx512", "amx")
"""Every path that some build has; `paths()` are those of this machine."""


@dataclass(frozen=True)
class Native:
    """A back end: one path of the library, with so many threads."""

    path: str
    threads: int


def make_kernel(
    operator: Operator,
    activations: Mapping[str, Array],
    constants: Mapping[str, Array],
    to: int = TensorProto.INT8,
    path: str = "portable",
) -> Kernel:
    """A kernel for activations like these; skips the test if the machine lacks the path."""
    if path not in paths():
        pytest.skip(f"missing CPU feature: path {path}, this machine has {paths()}")
    arrays = {**activations, **constants}
    ordered = {name: arrays[name] for name in operator.inputs}
    return Kernel(operator.name, ordered, set(activations), to, path)
