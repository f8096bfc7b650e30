"""The native library by its C interface (ops/native/c_api.h): numpy in, numpy out."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from mnq.ops.library import library_path

if TYPE_CHECKING:  # importing it would import torch, which no emulator runs in good time
    from mnq.ops.operator import Operator

Array = NDArray[np.generic]

PATHS = ("portable", "avx2", "avx512", "amx")
"""Every path that some build has; `available_paths` are those of this machine."""

MAX_RANK = 8


class Refused(Exception):
    """What the library says about inputs outside an operator's contract."""


@dataclass(frozen=True)
class Native:
    """A back end: one path of the library, with so many threads."""

    path: str
    threads: int


class CTensor(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p),
        ("type", ctypes.c_int32),
        ("rank", ctypes.c_int32),
        ("shape", ctypes.c_int64 * MAX_RANK),
    ]


@functools.cache
def library() -> ctypes.CDLL:
    path = library_path()
    assert path is not None, "tests that call the library are marked native"
    loaded = ctypes.CDLL(str(path))
    tensors, error = ctypes.POINTER(CTensor), ctypes.c_char_p
    loaded.mnq_operators.restype = ctypes.c_char_p
    loaded.mnq_paths.restype = ctypes.c_char_p
    loaded.mnq_make.restype = ctypes.c_void_p
    loaded.mnq_make.argtypes = [ctypes.c_char_p, tensors, ctypes.c_int32, ctypes.c_char_p, error]
    loaded.mnq_free.restype = None
    loaded.mnq_free.argtypes = [ctypes.c_void_p]
    loaded.mnq_output.argtypes = [ctypes.c_void_p, tensors, tensors, error]
    loaded.mnq_run.argtypes = [
        *(ctypes.c_void_p, tensors, ctypes.c_void_p, ctypes.c_int32, error),
    ]
    return loaded


def available_paths() -> list[str]:
    """The paths that this machine has, slowest first."""
    return str(library().mnq_paths().decode()).split()


def signatures() -> dict[str, tuple[list[str], list[str], list[str]]]:
    """By operator its activations, constants and attributes."""
    found = {}
    for line in library().mnq_operators().decode().splitlines():
        first, constants, attributes = (part.split() for part in line.split("|"))
        found[first[0]] = (first[1:], constants, attributes)
    return found


def described(array: Array, known: bool) -> CTensor:
    """An input; of an activation that is not `known` only the type, the rank and all axes but
    the first.
    """
    assert array.flags.c_contiguous
    shape = list(array.shape) if known or array.ndim < 2 else [-1, *array.shape[1:]]
    return CTensor(
        array.ctypes.data if known else None,
        helper.np_dtype_to_tensor_dtype(array.dtype),
        array.ndim,
        (ctypes.c_int64 * MAX_RANK)(*shape),
    )


class Kernel:
    """A kernel with its constants."""

    def __init__(
        self, name: str, inputs: Mapping[str, Array], activations: set[str], to: int, path: str
    ) -> None:
        self.inputs = {key: np.array(array, order="C") for key, array in inputs.items()}
        given = [described(array, key not in activations) for key, array in self.inputs.items()]
        error = ctypes.create_string_buffer(512)
        self.handle = library().mnq_make(
            name.encode(), (CTensor * len(given))(*given), to, path.encode(), error
        )
        if self.handle is None:
            raise Refused(error.value.decode())

    def __del__(self) -> None:
        if getattr(self, "handle", None) is not None:
            library().mnq_free(self.handle)

    def run(self, activations: Mapping[str, Array], threads: int = 1) -> Array:
        """The output for these activations. Several threads may call this at once."""
        inputs = {**self.inputs, **{k: np.array(x, order="C") for k, x in activations.items()}}
        given = (CTensor * len(inputs))(*(described(array, True) for array in inputs.values()))
        error = ctypes.create_string_buffer(512)
        y = CTensor()
        if library().mnq_output(self.handle, given, ctypes.byref(y), error) != 0:
            raise Refused(error.value.decode())
        output = np.empty(y.shape[: y.rank], helper.tensor_dtype_to_np_dtype(y.type))
        if library().mnq_run(self.handle, given, output.ctypes.data, threads, error) != 0:
            raise Refused(error.value.decode())
        return output


def make_kernel(
    operator: Operator,
    activations: Mapping[str, Array],
    constants: Mapping[str, Array],
    to: int = TensorProto.INT8,
    path: str = "portable",
) -> Kernel:
    """A kernel for activations like these; skips the test if the machine lacks the path."""
    if path not in available_paths():
        pytest.skip(f"missing CPU feature: path {path}, this machine has {available_paths()}")
    arrays = {**activations, **constants}
    ordered = {name: arrays[name] for name in operator.inputs}
    return Kernel(operator.name, ordered, set(activations), to, path)
