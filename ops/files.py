"""Writing files: whole or not at all."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path

from mnq.ops.errors import InputError


def check_writable(path: Path) -> None:
    """Raise InputError now, before long work, if `path` could not be written later."""
    folder = path.parent
    if not folder.is_dir():
        raise InputError(
            f"output: expected an existing folder, found none at {folder}; create it first"
        )
    if path.is_dir() or not os.access(folder, os.W_OK):
        found = "a folder of that name" if path.is_dir() else "a folder without write permission"
        raise InputError(
            f"output: expected a writable file {path}, found {found}; choose another place"
        )


def write_atomically(path: Path, data: bytes) -> None:
    """Write `data` to `path` through a temporary file beside it.

    An interruption leaves the old file (or none) and no temporary. Raises InputError if the
    place cannot be written.
    """
    check_writable(path)
    temporary = ""
    try:
        descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)
        os.replace(temporary, path)
    except OSError as error:
        raise InputError(
            f"output: expected to write {path}, found {error.strerror}; free space or choose "
            "another place"
        ) from error
    finally:
        if temporary and os.path.exists(temporary):
            with contextlib.suppress(OSError):
                os.unlink(temporary)
