"""The native kernels by their C interface (native/c_api.h): numpy in, numpy out.

Sessions of onnxruntime use the same kernels without this module.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Collection, Mapping

import numpy as np
from numpy.typing import NDArray
from onnx import helper

from mnq.ops.errors import EnvironmentLack, InputError
from mnq.ops.library import cpu_path, library_path, why_no_library

Array = NDArray[np.generic]

_MAX_RANK = 8
_MESSAGE = 512


class _Tensor(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p),
        ("type", ctypes.c_int32),
        ("rank", ctypes.c_int32),
        ("shape", ctypes.c_int64 * _MAX_RANK),
    ]


@functools.cache
def _library() -> ctypes.CDLL:
    path = library_path()
    if path is None:
        raise EnvironmentLack(
            f"kernels: expected the native library, found none; {why_no_library()}"
        )
    loaded = ctypes.CDLL(str(path))
    tensors, error = ctypes.POINTER(_Tensor), ctypes.c_char_p
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


def paths() -> list[str]:
    """The paths that this machine has, slowest first. EnvironmentLack without the library."""
    return str(_library().mnq_paths().decode()).split()


def signatures() -> dict[str, tuple[list[str], list[str], list[str]]]:
    """By operator its activations, constants and attributes."""
    return _signatures(_library())


@functools.cache
def _signatures(library: ctypes.CDLL) -> dict[str, tuple[list[str], list[str], list[str]]]:
    found = {}
    for line in library.mnq_operators().decode().splitlines():
        first, constants, attributes = (part.split() for part in line.split("|"))
        found[first[0]] = (first[1:], constants, attributes)
    return found


@functools.cache
def _chosen_path() -> str:
    library = library_path()
    assert library is not None, "_library() raises first"
    return cpu_path(library)


def _described(array: Array, known: bool) -> _Tensor:
    """An input; of an activation that is not `known` only the type, the rank and all axes but
    the first.
    """
    if array.ndim > _MAX_RANK:
        raise InputError(f"kernels: expected at most {_MAX_RANK} axes, found {array.ndim}; reshape")
    shape = list(array.shape) if known or array.ndim < 2 else [-1, *array.shape[1:]]
    return _Tensor(
        array.ctypes.data if known else None,
        helper.np_dtype_to_tensor_dtype(array.dtype),
        array.ndim,
        (ctypes.c_int64 * _MAX_RANK)(*shape),
    )


class Kernel:
    """A kernel of an operator with its constants.

    inputs: all inputs in the operator's order, of activations (named by `activations`) an array
        like those of later runs; to: element type of the output, where the operator has the
        attribute; path: one of `paths()`.

    InputError if the library refuses them.
    """

    def __init__(
        self,
        name: str,
        inputs: Mapping[str, Array],
        activations: Collection[str],
        to: int,
        path: str,
    ) -> None:
        self._library = _library()
        known = signatures().get(name)  # the library itself refuses a name that it lacks
        if known is not None and [*inputs] != [*known[0], *known[1]]:
            raise InputError(
                f"kernels: expected the inputs {', '.join([*known[0], *known[1]])} of {name}, "
                f"found {', '.join(inputs)}; pass all, in this order"
            )
        self.inputs = {key: np.asarray(array, order="C") for key, array in inputs.items()}
        given = [_described(array, key not in activations) for key, array in self.inputs.items()]
        error = ctypes.create_string_buffer(_MESSAGE)
        self.handle = self._library.mnq_make(
            name.encode(), (_Tensor * len(given))(*given), to, path.encode(), error
        )
        if self.handle is None:
            raise InputError(error.value.decode())

    def __del__(self) -> None:
        if getattr(self, "handle", None) is not None:
            self._library.mnq_free(self.handle)

    def run(self, activations: Mapping[str, Array], threads: int = 1) -> Array:
        """The output for these activations. Several threads may call this at once.

        InputError if the library refuses them.
        """
        arrays = {key: np.asarray(array, order="C") for key, array in activations.items()}
        inputs = {**self.inputs, **arrays}
        given = (_Tensor * len(inputs))(*(_described(array, True) for array in inputs.values()))
        error = ctypes.create_string_buffer(_MESSAGE)
        y = _Tensor()
        if self._library.mnq_output(self.handle, given, ctypes.byref(y), error) != 0:
            raise InputError(error.value.decode())
        output: Array = np.empty(y.shape[: y.rank], helper.tensor_dtype_to_np_dtype(y.type))
        if self._library.mnq_run(self.handle, given, output.ctypes.data, threads, error) != 0:
            raise InputError(error.value.decode())
        return output


def run(
    name: str,
    activations: Mapping[str, Array],
    constants: Mapping[str, Array],
    to: int = 0,
    threads: int = 1,
) -> Array:
    """The operator's output, by a kernel made for this call, on the path that sessions use.

    activations, constants: by input name, in the operator's order, activations first.
    """
    inputs = {**activations, **constants}
    _library()  # says what is missing
    return Kernel(name, inputs, activations, to, _chosen_path()).run(activations, threads)
