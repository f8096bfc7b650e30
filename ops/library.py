"""Where the native library is: fused kernels of our operators, for onnxruntime and for ctypes."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path
from typing import Any

import mnq.ops
from mnq.ops.errors import EnvironmentLack

NAME = "libmnq_ops.so"
OVERRIDE = "MNQ_OPS_LIBRARY"
"""Environment variable with the path of another build."""


def library_path() -> Path | None:
    """The library's path; None if this install has none, and `why_no_library` says why.

    Raises EnvironmentLack if MNQ_OPS_LIBRARY names no file.
    """
    if override := os.environ.get(OVERRIDE):
        path = Path(override).resolve()
        if not path.is_file():
            raise EnvironmentLack(
                f"{OVERRIDE}: expected the path of a library, found nothing at {path}; "
                "correct it or unset it"
            )
        return path
    return _installed(NAME)


def why_no_library() -> str:
    """Why there is none, and what to do: what the build left behind."""
    note = _installed("no_library.txt")
    if note is not None:
        return note.read_text().strip()
    return (
        "this install was made without it; install a C++ compiler, unset MNQ_NO_OPS, and install "
        "mnq again"
    )


def cpu_path(library: Path) -> str:
    """The inner loops that its kernels use on this machine: portable, avx2, avx512 or amx.

    Raises EnvironmentLack if the library does not load, or MNQ_CPU_PATH names none of them.
    """
    error = ctypes.create_string_buffer(512)
    chosen = _function(library, "mnq_chosen_path")
    chosen.restype = ctypes.c_char_p
    name: bytes | None = chosen(error)
    if name is None:
        raise EnvironmentLack(error.value.decode())
    return name.decode()


def cuda_lacking(library: Path) -> str:
    """Why its kernels for GPUs do not run here; "" if they do.

    Raises EnvironmentLack if the library does not load.
    """
    lacking = _function(library, "mnq_cuda_lacking")
    lacking.restype = ctypes.c_char_p
    text: bytes = lacking()
    return text.decode()


def _function(library: Path, name: str) -> Any:
    try:
        return getattr(ctypes.CDLL(str(library)), name)
    except (OSError, AttributeError) as reason:
        raise EnvironmentLack(
            f"{library}: expected a library of this mnq, found {reason}; install mnq again"
        ) from reason


def _installed(name: str) -> Path | None:
    """A file that the build put beside this package; an editable install has two such places."""
    paths = (Path(folder, name) for folder in mnq.ops.__path__)
    return next((path for path in paths if path.is_file()), None)
