"""Labelled images for training by position, from a folder, a .zip, a .tar or WebDataset shards.

Listing and reading of folders and .tar files is timm's. An image that cannot be decoded is
logged each time, and in training another takes its place.
"""

from __future__ import annotations

import io
import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Protocol

from PIL import Image

from mnq.models.decode import decode
from mnq.models.images import ImageSet, label_index
from mnq.models.shards import Shards, find_shards, tar_files
from mnq.models.sources import EXTENSIONS, MAX_FILE_BYTES, Parts, Source, open_source
from mnq.ops.errors import InputError, printable

__all__ = ["Dataset", "open_dataset"]

_log = logging.getLogger(__name__)

_RETRIES = 10  # as timm's; so many unusable images in a row are no accident

# What timm looks for in .tar files.
_TAR_EXTENSIONS = (".png", ".jpg", ".jpeg")


class Reader(Protocol):
    """What timm calls a reader: files and class numbers by position."""

    def __len__(self) -> int:
        """Number of images."""

    def __getitem__(self, index: int, /) -> tuple[BinaryIO, int]:
        """An open image file and its class. Any Exception means that it cannot be had."""

    def filename(self, index: int, /) -> str:
        """The name of the file."""


class Dataset:
    """Images and class numbers by position, as torch's DataLoader takes them.

    Attributes:
        transform: applied to every image (a PIL image in its file's mode); None: identity.
    """

    def __init__(self, reader: Reader) -> None:
        """Use `open_dataset`, which finds the right kind of reader."""
        self._reader = reader
        self.transform: Callable[[Image.Image], Any] | None = None

    def __len__(self) -> int:
        return len(self._reader)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        """The transformed image and its class; the next usable image's, if this one is not.

        IndexError outside 0..len-1. InputError if ten images in a row are unusable.
        """
        if not 0 <= index < len(self):
            raise IndexError(index)
        tries = min(_RETRIES, len(self))
        for step in range(tries):
            example = self.usable((index + step) % len(self))
            if example is not None:
                return example
        raise InputError(
            f"images: expected images that can be decoded, found {tries} in a row that cannot, "
            f"the first {printable(self._reader.filename(index))}; replace or remove them"
        )

    def usable(self, index: int) -> tuple[Any, int] | None:
        """The transformed image and its class, or None, and a warning in the log.

        Unusable is what cannot be read or decoded, or what the transform has an InputError for.
        """
        try:
            image, label = self._decoded(index)
        # Decoders raise nearly any type on hostile bytes; each one means a corrupt file.
        except Exception as error:
            self._warn(index, error)
            return None
        try:
            return image if self.transform is None else self.transform(image), label
        except InputError as error:
            self._warn(index, error)
            return None

    def _decoded(self, index: int) -> tuple[Image.Image, int]:
        file, label = self._reader[index]
        with file:
            data = file.read(MAX_FILE_BYTES + 1)
        if len(data) > MAX_FILE_BYTES:
            raise ValueError(f"larger than {MAX_FILE_BYTES} bytes")
        return decode(data), int(label)

    def _warn(self, index: int, error: Exception) -> None:
        reason = str(error) or type(error).__name__
        _log.warning(
            "images: skipped %s: %s", printable(self._reader.filename(index)), printable(reason)
        )


class _Zip:
    """A reader of one .zip file, or a folder in it, for any number of processes."""

    def __init__(self, path: Path, labels: Mapping[str, int]) -> None:
        self._path = path
        self._labels = labels
        self._source: Source | None = open_source(path)
        self._process = os.getpid()
        self._files = self._source.files()

    def __len__(self) -> int:
        return len(self._files)

    def __getitem__(self, index: int) -> tuple[BinaryIO, int]:
        # Forked processes would share one position in the file.
        if self._source is None or self._process != os.getpid():
            self._source, self._process = open_source(self._path), os.getpid()
        parts = self._files[index]
        return io.BytesIO(self._source.read(parts)), self._labels[parts[-2]]

    def filename(self, index: int) -> str:
        return "/".join(self._files[index])

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_source": None}


class _TarNames:
    """The names in a .tar file, for ImageSet to find classes in and complain about."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def files(self) -> list[Parts]:
        names = [PurePosixPath(info.name) for _, info in tar_files(self._path)]
        return sorted(name.parts for name in names if name.suffix.lower() in _TAR_EXTENSIONS)

    def read(self, parts: Parts) -> bytes:
        raise NotImplementedError

    def close(self) -> None:
        pass


def open_dataset(path: Path, classes: list[str] | None, num_classes: int) -> Dataset:
    """Open images of a model's classes.

    Args:
        path: a folder, a .tar file, a .zip file or a folder in one, with `class/name.jpg`; or
            WebDataset shards, one .tar file or a range like `train-{000..146}.tar`, whose
            .cls files hold class numbers.
        classes: the model's class names in output order, which folders are named after; a part
            of them is enough. None: sorted folders are classes 0, 1, ..., and must be complete.
        num_classes: the model's number of outputs.

    InputError: nothing there, no images, no classes, or classes that the model does not have.
    """
    shards = find_shards(path)
    if shards:
        return Dataset(Shards(shards, num_classes))
    tar = path.suffix == ".tar" and path.is_file()
    with ImageSet(path, _TarNames(path), 1) if tar else ImageSet.open(path) as images:
        folders = images.classes
    if not folders:
        raise InputError(
            f"images: expected class folders in {path}, found a set without classes; "
            "put every image in a folder named after its class"
        )
    labels = label_index(folders, classes, num_classes)
    files = _timm_reader(path, labels, tar) if tar or path.is_dir() else _Zip(path, labels)
    return Dataset(files)


def _timm_reader(path: Path, labels: dict[str, int], tar: bool) -> Reader:
    from timm.data.dataset_factory import create_dataset

    # An open .tar file is shared by forked processes, and so is the position in it. The index of
    # a large one would be pickled beside it, and unpickled by the next run.
    options: dict[str, Any] = {"cache_tarfiles": False, "cache_tarinfo": False}
    if not tar:
        options = {"input_key": ";".join(sorted(EXTENSIONS))}
    # Without search_split=False timm would pass to a class folder named "val".
    dataset = create_dataset("", str(path), search_split=False, class_map=labels, **options)
    reader: Reader = dataset.reader
    return reader
