"""Image collections for calibration and evaluation, read from a folder or a .zip file.

Layout: ImageFolder's `class/name.jpg`, or `name.jpg` without classes; folders that hold
everything (`set/class/name.jpg`) are passed over. Files whose extension is not an image's are
ignored. An image that cannot be decoded is skipped, remembered, and never silently replaced.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from PIL import Image

from mnq.models.decode import decode
from mnq.models.preprocess import Preprocess
from mnq.models.sources import Parts, Source, open_source
from mnq.ops.errors import InputError, printable

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["Batch", "Example", "ImageSet", "batches", "choose", "label_index"]

T = TypeVar("T")

# Pixels uint8 (n, C, size, size), labels int64 (n,), names.
Batch = tuple["npt.NDArray[np.uint8]", "npt.NDArray[np.int64]", list[str]]


@dataclass(frozen=True)
class Example:
    """One decoded image: its path inside the set, its class folder (or None), the pixels."""

    name: str
    folder: str | None
    image: Image.Image


def _strip_common_folders(files: list[Parts]) -> list[Parts]:
    while min(map(len, files)) > 2 and len({parts[0] for parts in files}) == 1:
        files = [parts[1:] for parts in files]
    return files


class ImageSet:
    """A sorted collection of image files; pixels are decoded when iterated.

    Attributes:
        source: the folder or zip file, as given.
        classes: sorted names of the class folders; empty for a flat folder.
    """

    def __init__(self, path: Path, source: Source, minimum: int) -> None:
        """Use `open`, which finds the right kind of source."""
        self.source = path
        self._source = source
        self._minimum = minimum
        self._skipped: dict[str, str] = {}
        self._files = source.files()
        self._require(len(self._files), "image files (.jpg, .png, ...)", minimum)
        short = _strip_common_folders(self._files)
        if not (all(len(parts) == 1 for parts in short) or all(len(parts) == 2 for parts in short)):
            raise InputError(self._layout_message(short))
        self._folders = [parts[0] if len(parts) == 2 else None for parts in short]
        self.classes = sorted({folder for folder in self._folders if folder is not None})

    @classmethod
    def open(cls, source: str | Path, minimum: int = 1) -> ImageSet:
        """Open a folder, a .zip file, or a folder inside one (`set.zip/set/train`).

        InputError if it is neither, is laid out otherwise, or has fewer than `minimum` images
        (counted here by name, and again after decoding, by the iterations below).
        """
        path = Path(source)
        opened = open_source(path)
        try:
            return cls(path, opened, minimum)
        except BaseException:
            opened.close()
            raise

    def __enter__(self) -> ImageSet:
        return self

    def __exit__(self, *_: object) -> None:
        self._source.close()

    def __len__(self) -> int:
        return len(self._files)

    def __iter__(self) -> Iterator[Example]:
        """Decode all images, in order. InputError at the end if too few could be decoded."""
        for name, folder, image in self.usable(range(len(self)), lambda image: image):
            yield Example(name, folder, image)

    @property
    def skipped(self) -> list[tuple[str, str]]:
        """(name, reason) of every image met so far that could not be used, each once."""
        return list(self._skipped.items())

    def usable(
        self, indices: Iterable[int], convert: Callable[[Image.Image], T]
    ) -> Iterator[tuple[str, str | None, T]]:
        """Yield (name, class folder or None, converted image) of the images at these positions.

        One that cannot be read, decoded or converted is skipped and noted. InputError at the
        end if fewer than the set's minimum (or than asked for, if that is less) remain.
        """
        asked = used = 0
        for index in indices:
            asked += 1
            name = printable("/".join(self._files[index]))
            try:
                result = convert(decode(self._source.read(self._files[index])))
            # Decoders raise nearly any type on hostile bytes; each one means a corrupt file.
            except Exception as error:
                self._skipped[name] = printable(str(error) or type(error).__name__)
                continue
            used += 1
            yield name, self._folders[index], result
        self._require(used, "usable images", min(self._minimum, asked))

    def _require(self, found: int, what: str, minimum: int) -> None:
        if found >= max(minimum, 1):
            return
        skipped = "".join(f", skipped {name} ({why})" for name, why in self.skipped[:3])
        raise InputError(
            f"images: expected at least {max(minimum, 1)} {what} in {self.source}, "
            f"found {found}{skipped}; give a folder or .zip file with class/name.jpg in it"
        )

    def _layout_message(self, short: list[Parts]) -> str:
        deepest, flattest = max(short, key=len), min(short, key=len)
        found = "/".join(deepest)
        if len(deepest) != len(flattest):
            found += f" beside {'/'.join(flattest)}"
        # Folders passed over are part of the path to give.
        above = self._files[0][: len(self._files[0]) - len(short[0])]
        tops = sorted({parts[0] for parts in short if len(parts) > 2})[:3]
        advice = " or ".join(str(self.source.joinpath(*above, top)) for top in tops)
        return printable(
            f"images: expected all files as class/name.jpg, or all as name.jpg, in {self.source}, "
            f"found {found}; "
            + (
                f"give one of its folders: {advice}"
                if tops
                else "put every image in a class folder"
            )
        )


def label_index(
    folders: Sequence[str], classes: Sequence[str] | None, count: int | None = None
) -> dict[str, int]:
    """Map class folders to class indices.

    Args:
        folders: the set's class folders (`ImageSet.classes`), possibly a part of the classes.
        classes: the model's class names in output order; for ImageNet the WordNet ids. None if
            the model has none: then sorted folders are classes 0, 1, ..., and must be complete.
        count: the model's number of outputs, which the folders must match if `classes` is None.

    InputError if a folder is no class, or the number of folders is not `count`.
    """
    if classes is None:
        if count is not None and len(folders) != count:
            raise InputError(
                f"labels: expected {count} class folders, one per output of the model, "
                f"found {len(folders)}; give images of all classes (the model names none)"
            )
        return {name: index for index, name in enumerate(sorted(folders))}
    index_of = {name: index for index, name in enumerate(classes)}
    unknown = [name for name in folders if name not in index_of]
    if unknown:
        raise InputError(
            f"labels: expected folders named after the model's classes "
            f"({', '.join(classes[:3])}, ...), found {len(unknown)} of {len(folders)} unknown: "
            f"{printable(', '.join(unknown[:3]))}; rename them or choose the matching model"
        )
    return {name: index_of[name] for name in folders}


def choose(total: int, limit: int | None, seed: int | None) -> list[int]:
    """Positions of `limit` of `total` images, ascending; all of them if the limit is larger.

    Without a seed they are evenly spaced, so that sorted class folders are all represented;
    with one they are a random sample. InputError for a limit below 1.
    """
    if limit is not None and limit < 1:
        raise InputError(f"images: expected a limit of at least 1, found {limit}; raise it")
    if limit is None or limit >= total:
        return list(range(total))
    if seed is None:
        return [position * total // limit for position in range(limit)]
    # RandomState: its stream is frozen, so a seed means the same images with any numpy.
    return sorted(int(i) for i in np.random.RandomState(seed).permutation(total)[:limit])


def batches(
    images: ImageSet,
    preprocess: Preprocess,
    batch_size: int,
    limit: int | None = None,
    seed: int | None = None,
    labels: Mapping[str, int] | None = None,
) -> Iterator[Batch]:
    """Yield (pixels uint8 (n, C, size, size), labels int64 (n,), names), n <= batch_size.

    Args:
        images: the set; unusable images are skipped and noted in `images.skipped`.
        preprocess: the model's; its `normalize` makes floats of the pixels.
        batch_size: images per batch; the last one may hold fewer.
        limit: use this many images, evenly spread, or sampled if there is a `seed`.
        seed: of the sample, 0..2^32-1; of no effect without a limit.
        labels: class index by folder, from `label_index`; default: order of the sorted folders.

    Labels are -1 where the set has no classes. InputError as for `ImageSet.usable`.
    """
    if batch_size < 1:
        raise InputError(
            f"images: expected a batch size of at least 1, found {batch_size}; raise it"
        )
    index = label_index(images.classes, None) if labels is None else labels
    # The checks run at the call, not at the first batch.
    return _batches(images, preprocess, batch_size, choose(len(images), limit, seed), index)


def _batches(
    images: ImageSet,
    preprocess: Preprocess,
    batch_size: int,
    positions: list[int],
    index: Mapping[str, int],
) -> Iterator[Batch]:
    usable = images.usable(positions, preprocess.image)
    while group := list(islice(usable, batch_size)):
        targets = [-1 if folder is None else index[folder] for _, folder, _ in group]
        pixels = np.stack([image for _, _, image in group])
        yield pixels, np.array(targets, dtype=np.int64), [name for name, _, _ in group]
