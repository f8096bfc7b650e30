"""A runtime without ONNX: the C interface of libmnq_ops.so, which MNQ_OPS_LIBRARY names.

MNQ_CPU_PATH chooses one of its paths. An example of a runtime that has operators and no graphs.
"""

from __future__ import annotations

import ctypes
import functools
import os
import sys
from collections.abc import Iterable

import numpy as np
from kit import TYPES, Array, Vector, element_type

LIBRARY = os.environ.get("MNQ_OPS_LIBRARY") or sys.exit("check: MNQ_OPS_LIBRARY is not set")
MAX_RANK = 8
NAMES = {element_type(name): name for name in TYPES}
THREADS = 2


class Tensor(ctypes.Structure):
    """mnq_tensor of ops/native/c_api.h; without data it is an activation that comes later."""

    _fields_ = [
        ("data", ctypes.c_void_p),
        ("type", ctypes.c_int32),
        ("rank", ctypes.c_int32),
        ("shape", ctypes.c_int64 * MAX_RANK),
    ]


@functools.cache
def library() -> ctypes.CDLL:
    """The library, with the types of its functions."""
    loaded = ctypes.CDLL(LIBRARY)
    tensors, text = ctypes.POINTER(Tensor), ctypes.c_char_p
    loaded.mnq_chosen_path.restype = text
    loaded.mnq_make.restype = ctypes.c_void_p
    loaded.mnq_make.argtypes = [text, tensors, ctypes.c_int32, text, text]
    loaded.mnq_free.argtypes = [ctypes.c_void_p]
    loaded.mnq_output.argtypes = [ctypes.c_void_p, tensors, tensors, text]
    loaded.mnq_run.argtypes = [ctypes.c_void_p, tensors, ctypes.c_void_p, ctypes.c_int32, text]
    return loaded


def described(arrays: Iterable[Array], later: int = 0) -> ctypes.Array[Tensor]:
    """mnq_tensor of each array; the first `later` of them have no data yet."""
    made = [
        Tensor(
            None if index < later else array.ctypes.data,
            element_type(array.dtype.name),
            array.ndim,
            (ctypes.c_int64 * MAX_RANK)(*array.shape),
        )
        for index, array in enumerate(arrays)
    ]
    return (Tensor * len(made))(*made)


def run(vector: Vector) -> list[Array] | None:
    """A kernel for the vector's constants, run once. Models are for runtimes that have graphs."""
    if not vector.operator:
        return None
    c, error = library(), ctypes.create_string_buffer(512)
    arrays = [*vector.inputs.values(), *vector.constants.values()]
    to = 0 if vector.to is None else element_type(vector.to)
    path = c.mnq_chosen_path(error)
    given = described(arrays, len(vector.inputs))
    kernel = path and c.mnq_make(vector.operator.encode(), given, to, path, error)
    if not kernel:
        raise RuntimeError(error.value.decode())
    try:
        output = Tensor()
        if c.mnq_output(kernel, described(arrays), ctypes.byref(output), error) != 0:
            raise RuntimeError(error.value.decode())
        y = np.empty(output.shape[: output.rank], NAMES[output.type])
        if c.mnq_run(kernel, described(arrays), y.ctypes.data, THREADS, error) != 0:
            raise RuntimeError(error.value.decode())
        return [y]
    finally:
        c.mnq_free(kernel)
