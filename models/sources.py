"""Where image files come from: a folder, or a .zip file read in place.

A source lists files and hands out their bytes. It never writes, and never extracts an archive
entry to a path, so entry names such as `../x` are only ever text.
"""

from __future__ import annotations

import os
import zipfile
from pathlib import Path, PurePosixPath
from typing import Protocol

from mnq.ops.errors import InputError, printable

__all__ = ["EXTENSIONS", "MAX_FILE_BYTES", "Source", "open_source"]

# What torchvision's ImageFolder takes, without the formats that PIL reads by other programs.
EXTENSIONS = frozenset({".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"})

# Room for 64 M pixels of uncompressed RGB; photographs need a hundredth of it.
MAX_FILE_BYTES = 256 << 20

# Folder/train/class/name is 4: deeper files cannot be labelled, and links may form loops.
_MAX_DEPTH = 6

Parts = tuple[str, ...]


def _is_image(parts: Parts) -> bool:
    # Hidden files and __MACOSX hold an archiver's or a file manager's own data.
    if any(part.startswith(".") or part == "__MACOSX" for part in parts):
        return False
    return PurePosixPath(parts[-1]).suffix.lower() in EXTENSIONS


class Source(Protocol):
    """A set of image files, each known by the parts of its relative path."""

    def files(self) -> list[Parts]:
        """Every image file below the root, sorted, by extension."""

    def read(self, parts: Parts) -> bytes:
        """Content of one file. Any Exception means that it cannot be had."""

    def close(self) -> None:
        """Release what is open; the source cannot be read afterwards."""


class _Folder:
    def __init__(self, root: Path) -> None:
        self._root = root

    def files(self) -> list[Parts]:
        found: list[Parts] = []
        # Links are followed: a subset of a large set is commonly a folder of links.
        for where, folders, names in os.walk(self._root, onerror=self._fail, followlinks=True):
            above = Path(where).relative_to(self._root).parts
            if len(above) >= _MAX_DEPTH - 1:
                folders.clear()
            found += [(*above, name) for name in names if _is_image((*above, name))]
        return sorted(found)

    def _fail(self, error: OSError) -> None:
        raise InputError(
            f"images: expected readable folders below {self._root}, found "
            f"'{error.filename}': {error.strerror}; correct its permissions"
        ) from error

    def read(self, parts: Parts) -> bytes:
        path = self._root.joinpath(*parts)
        # A pipe or a device named .jpg would block for ever.
        if not path.is_file():
            raise ValueError("not a regular file")
        with path.open("rb") as file:
            return _bounded(file.read(MAX_FILE_BYTES + 1))

    def close(self) -> None:
        pass


class _Zip:
    def __init__(self, path: Path, inside: Parts) -> None:
        try:
            self._zip = zipfile.ZipFile(path)
        except (OSError, ValueError, NotImplementedError, zipfile.BadZipFile) as error:
            raise InputError(
                f"images: expected a zip file, found {path} which does not open "
                f"({printable(str(error))}); download or pack it again"
            ) from error
        self._entries: dict[Parts, zipfile.ZipInfo] = {}
        for info in self._zip.infolist():
            parts = PurePosixPath(info.filename).parts
            folder = info.filename.endswith("/")  # is_dir fails on an empty name
            if folder or parts[: len(inside)] != inside or len(parts) == len(inside):
                continue
            if _is_image(parts[len(inside) :]):
                self._entries[parts[len(inside) :]] = info

    def files(self) -> list[Parts]:
        return sorted(self._entries)

    def read(self, parts: Parts) -> bytes:
        # The declared size may lie, so the read is bounded as well.
        with self._zip.open(self._entries[parts]) as file:
            return _bounded(file.read(MAX_FILE_BYTES + 1))

    def close(self) -> None:
        self._zip.close()


def _bounded(data: bytes) -> bytes:
    if len(data) > MAX_FILE_BYTES:
        raise ValueError(f"larger than {MAX_FILE_BYTES} bytes")
    return data


def open_source(path: Path) -> Source:
    """Open a folder, a .zip file, or a folder inside one (`set.zip/set/train`).

    InputError if there is no such folder or file, or it is neither.
    """
    try:
        if path.is_dir():
            return _Folder(path)
        for archive in (path, *path.parents):
            if archive.suffix.lower() == ".zip" and archive.is_file():
                return _Zip(archive, path.relative_to(archive).parts)
        found = "another kind of file" if path.exists() else "nothing there"
    except OSError as error:  # a forbidden folder on the way, a name too long
        found = str(error.strerror)
    raise InputError(
        f"images: expected a folder or a .zip file at {path}, found {found}; "
        "give a folder with class/name.jpg in it"
    )
