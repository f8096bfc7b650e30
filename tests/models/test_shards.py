import io
import tarfile
from collections.abc import Mapping
from pathlib import Path

import pytest
from PIL import Image

from mnq.models.dataset import open_dataset
from mnq.ops.errors import InputError


def png(value: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (4, 4), value).save(buffer, "PNG")
    return buffer.getvalue()


def pack(path: Path, files: Mapping[str, bytes]) -> Path:
    with tarfile.open(path, "w") as tar:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def shard(path: Path, numbers: range) -> Path:
    files = {}
    for number in numbers:
        files[f"./{number:04}.cls"] = f"{number % 3}\n".encode()
        files[f"./{number:04}.json"] = b"{}"
        files[f"./{number:04}.png"] = png(number)
    return pack(path, files)


def pixels(path: Path, num_classes: int = 3) -> list[tuple[int, int]]:
    dataset = open_dataset(path, None, num_classes)
    return [(image.getpixel((0, 0)), label) for image, label in dataset]


def test_range_of_shards_is_one_set(tmp_path: Path) -> None:
    for number in range(8, 12):
        shard(tmp_path / f"train-{number:03}.tar", range(3 * number, 3 * number + 3))
    shard(tmp_path / "val-000.tar", range(2))
    found = pixels(tmp_path / "train-{009..011}.tar")
    assert found == [(value, value % 3) for value in range(27, 36)]


def test_one_shard_needs_no_range(tmp_path: Path) -> None:
    assert pixels(shard(tmp_path / "a.tar", range(5))) == [(n, n % 3) for n in range(5)]


def test_shards_are_read_at_any_place(tmp_path: Path) -> None:
    dataset = open_dataset(shard(tmp_path / "a.tar", range(5)), ["a", "b", "c"], 3)
    assert [dataset[index][1] for index in (4, 0, 3)] == [1, 0, 0]


def test_a_key_ends_at_the_first_dot_and_holds_its_folder(tmp_path: Path) -> None:
    files = {"a.b/1.JPG": png(1), "a.b/1.cls": b"2", "a.b/1.mask.png": png(9),
             "c/1.cls": b"0", "c/1.png": png(2), "readme.txt": b""}  # fmt: skip
    assert pixels(pack(tmp_path / "a.tar", files)) == [(1, 2), (2, 0)]


@pytest.mark.parametrize(("name", "found"), [("{00..02}", "no 01.tar"), ("{03..01}", "from 03")])
def test_missing_shards_are_an_error(tmp_path: Path, name: str, found: str) -> None:
    shard(tmp_path / "00.tar", range(2))
    with pytest.raises(InputError, match=f"expected all shards of .*found .*{found}"):
        open_dataset(tmp_path / f"{name}.tar", None, 3)


@pytest.mark.parametrize(
    ("label", "found"),
    [(b"3", "found '3'"), (b"-1", "found '-1'"), (b"cat\n", "found 'cat'"), (b"", "without one"),
     (b"9" * 99, "found '999"), (b"\xff", "found "), (None, "an image without one")],
)  # fmt: skip
def test_unusable_labels_are_an_error(tmp_path: Path, label: bytes | None, found: str) -> None:
    files = {"1.png": png(1), "1.cls": b"0", "2.png": png(1)}
    files |= {"2.cls": label} if label is not None else {}
    with pytest.raises(InputError, match=rf"class number below 3, .*{found}.*a\.tar; choose"):
        open_dataset(pack(tmp_path / "a.tar", files), None, 3)


def test_shards_without_images_are_an_error(tmp_path: Path) -> None:
    path = pack(tmp_path / "a.tar", {"1.cls": b"0", "1.txt": b""})
    with pytest.raises(InputError, match=r"images with \.cls files .*found none"):
        open_dataset(path, None, 3)


@pytest.mark.parametrize("name", ["a.tar", "{0..0}.tar"])
def test_a_file_that_is_no_tar_is_an_error(tmp_path: Path, name: str) -> None:
    for file in ("a.tar", "0.tar"):
        (tmp_path / file).write_bytes(b"x" * 600)
    with pytest.raises(InputError, match=r"expected a tar file, found .* which does not open"):
        open_dataset(tmp_path / name, None, 3)


def test_a_shard_cut_short_is_an_error(tmp_path: Path) -> None:
    path = shard(tmp_path / "a.tar", range(3))
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(InputError, match="expected a tar file"):
        open_dataset(path, None, 3)
