"""WebDataset shards: .tar files in which every image has its class number beside it.

`key.jpg` is followed or preceded by `key.cls`, a decimal number. The shards are indexed once, and
then read at any place: read as a stream, the order of the images would depend on the number of
readers, and training could not go on in the middle of an epoch.
"""

from __future__ import annotations

import io
import re
import tarfile
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import BinaryIO

import numpy as np

from mnq.ops.errors import InputError, printable

__all__ = ["Shards", "find_shards", "tar_files"]

_IMAGES = ("jpg", "jpeg", "png", "webp")
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
_MAX_LABEL = 20  # bytes, with white space


def find_shards(path: Path) -> list[Path]:
    """The shards that `path` stands for: itself, or a range as in `train-{000..146}.tar`.

    An empty list if it is neither. InputError for a shard of a range that is not there.
    """
    if path.suffix != ".tar":
        return []
    match = _RANGE.search(path.name)
    if match is None:
        return [path] if path.is_file() and "cls" in next(_samples(path), {}) else []
    first, last = match.groups()
    before, after = path.name[: match.start()], path.name[match.end() :]
    shards = [
        path.with_name(f"{before}{number:0{len(first)}}{after}")
        for number in range(int(first), int(last) + 1)
    ]
    missing = [shard.name for shard in shards if not shard.is_file()]
    if missing or not shards:
        found = f"no {missing[0]}" if missing else f"a range from {first} down to {last}"
        raise InputError(f"images: expected all shards of {path}, found {found}; correct the range")
    return shards


def tar_files(path: Path) -> Iterator[tuple[tarfile.TarFile, tarfile.TarInfo]]:
    """Yield every regular file of an uncompressed .tar, in order. InputError if it is none."""
    try:
        with tarfile.open(path, "r:") as tar:
            yield from ((tar, info) for info in tar if info.isreg())
    except (OSError, tarfile.TarError) as error:
        raise InputError(
            f"images: expected a tar file, found {path} which does not open "
            f"({printable(str(error))}); download or pack it again"
        ) from error


# By extension: offset and size of the file, and the content of a .cls.
_Sample = dict[str, tuple[int, int, bytes]]


def _samples(path: Path) -> Iterator[_Sample]:
    # As in WebDataset, a key ends at the first dot of a file's name.
    files = ((tar, info, *_split(info.name)) for tar, info in tar_files(path))
    for _, group in groupby(files, lambda file: file[2]):
        sample: _Sample = {}
        for tar, info, _, extension in group:
            content = tar.extractfile(info) if extension == "cls" else None
            sample[extension] = (
                info.offset_data,
                info.size,
                content.read(_MAX_LABEL) if content else b"",
            )
        yield sample


def _split(name: str) -> tuple[str, str]:
    folder, slash, last = name.rpartition("/")
    key, _, extension = last.partition(".")
    return folder + slash + key, extension.lower()


class Shards:
    """Images and class numbers of shards by position, as timm's readers hand them out.

    Attributes:
        labels: int64 (n,), the class numbers found.
    """

    def __init__(self, paths: list[Path], num_classes: int) -> None:
        """Index the shards. InputError: not a shard, no images, a class >= num_classes."""
        self._paths = paths
        rows = []
        for number, path in enumerate(paths):
            for sample in _samples(path):
                kind = next((kind for kind in _IMAGES if kind in sample), None)
                if kind is not None:
                    rows.append((number, *sample[kind][:2], _label(sample, path, num_classes)))
        if not rows:
            raise InputError(
                f"images: expected images with .cls files in {paths[0]}, found none; "
                "give shards that hold key.jpg and key.cls"
            )
        # One array, not a million tuples: workers share its memory.
        table = np.array(rows, dtype=np.int64)
        self._places, self.labels = table[:, :3], table[:, 3]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[BinaryIO, int]:
        """The image file's content and its class number. OSError if it cannot be read."""
        number, offset, size = self._places[index]
        with self._paths[number].open("rb") as file:
            file.seek(offset)
            return io.BytesIO(file.read(size)), int(self.labels[index])

    def filename(self, index: int) -> str:
        """Where the image is, for people."""
        number, offset, _ = self._places[index]
        return f"{self._paths[number].name} at byte {offset}"


def _label(sample: _Sample, path: Path, num_classes: int) -> int:
    text = sample["cls"][2].decode("ascii", "replace").strip() if "cls" in sample else ""
    if not (text.isascii() and text.isdecimal() and int(text) < num_classes):
        found = ascii(text) if text else "an image without one"
        raise InputError(
            f"labels: expected .cls files with a class number below {num_classes}, the model's "
            f"outputs, found {found} in {path}; choose the matching model or images"
        )
    return int(text)
