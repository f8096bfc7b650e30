"""Hostile images and archives of images: used, or skipped and refused, whatever is in them."""

from __future__ import annotations

import io
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from fuzz_cases import ByteChanges, Case, byte_changes, fuzz, reading
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from mnq.models.dataset import open_dataset
from mnq.models.images import ImageSet
from mnq.models.preprocess import Preprocess
from mnq.models.sources import Parts

PREPROCESS = Preprocess(8, 10, "bicubic", (0.5,) * 3, (0.5,) * 3, 3)
KINDS = (
    *(("BMP", "RGB"), ("BMP", "P"), ("JPEG", "RGB"), ("JPEG", "CMYK"), ("PNG", "RGBA")),
    *(("PNG", "I;16"), ("PNG", "P"), ("PPM", "RGB"), ("TIFF", "RGB"), ("TIFF", "F")),
    *(("WEBP", "RGB"), ("JPEG", "L")),
)


def encoded(kind: str, mode: str) -> bytes:
    pixels = np.random.default_rng(1).integers(0, 256, (12, 14), dtype=np.uint8)
    image = Image.fromarray(pixels)
    buffer = io.BytesIO()
    (image.convert("I").convert(mode) if mode == "I;16" else image.convert(mode)).save(buffer, kind)
    return buffer.getvalue()


IMAGES = [encoded(*kind) for kind in KINDS]
FILES = {"cat/a.png": IMAGES[4], "cat/b.jpg": IMAGES[2], "dog/c.jpg": IMAGES[11]}


def zipped() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in FILES.items():
            archive.writestr(zipfile.ZipInfo(name), data)
    return buffer.getvalue()


def tarred(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


SHARD = {"a.jpg": IMAGES[2], "a.cls": b"1", "b.cls": b"0", "b.jpg": IMAGES[11]}
ARCHIVES = {"set.zip": zipped(), "set.tar": tarred(FILES), "shard.tar": tarred(SHARD)}


class One:
    """A source of one image."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    def files(self) -> list[Parts]:
        return [("a.jpg",)]

    def read(self, parts: Parts) -> bytes:
        return self._data

    def close(self) -> None:
        pass


def use(images: ImageSet) -> None:
    """Preprocess every image; raises InputError if none is usable."""
    for _ in images.usable(range(len(images)), PREPROCESS.image):
        pass
    assert not any(reason in ("MemoryError", "AssertionError") for _, reason in images.skipped)


@pytest.fixture(scope="module")
def image() -> Iterator[Case]:
    with reading(lambda data: use(ImageSet(Path("set"), One(data), 1))) as case:
        yield case


@pytest.mark.slow
@fuzz
@given(good=st.sampled_from(IMAGES), changes=byte_changes())
def test_a_hostile_image_is_used_or_refused(good: bytes, changes: ByteChanges, image: Case) -> None:
    image(changes.of(good))


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Case]]:
    """By name of the archive what reads it, for calibration and for training."""
    folder = tmp_path_factory.mktemp("archives")
    name = ""

    def read(data: bytes) -> None:
        path = folder / name
        path.write_bytes(data)
        if name == "set.zip":
            with ImageSet.open(path) as images:
                use(images)
        images = open_dataset(path, ["cat", "dog", "emu"], 3)
        images.transform = PREPROCESS.image
        for index in range(len(images)):
            images[index]

    for archive, good in ARCHIVES.items():  # imports what it needs before memory is counted
        name = archive
        read(good)
    with reading(read) as case:

        def of(archive: str) -> Case:
            def one(data: bytes) -> None:
                nonlocal name
                name = archive
                case(data)

            return one

        yield {archive: of(archive) for archive in ARCHIVES}


@pytest.mark.slow
@fuzz
@given(name=st.sampled_from([*ARCHIVES]), changes=byte_changes())
def test_a_hostile_archive_is_used_or_refused(
    name: str, changes: ByteChanges, archives: dict[str, Case]
) -> None:
    archives[name](changes.of(ARCHIVES[name]))
