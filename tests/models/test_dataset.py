import io
import pickle
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mnq.models.dataset import Dataset, open_dataset
from mnq.models.sources import Source, open_source
from mnq.ops.errors import InputError

pytest.importorskip("timm")

KINDS = ["set", "set.zip", "set.tar"]


def png(value: int, size: tuple[int, int] = (4, 4)) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", size, value).save(buffer, "PNG")
    return buffer.getvalue()


def write(root: Path, files: dict[str, bytes]) -> Path:
    """As a folder, or as a .zip or .tar file if `root` is named so."""
    if root.suffix == ".zip":
        with zipfile.ZipFile(root, "w") as archive:
            for name, data in files.items():
                archive.writestr(name, data)
    elif root.suffix == ".tar":
        with tarfile.open(root, "w") as tar:
            for name, data in files.items():
                info = tarfile.TarInfo(name)
                info.size = len(data)
                tar.addfile(info, io.BytesIO(data))
    else:
        root.mkdir(exist_ok=True)
        for name, data in files.items():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            (root / name).write_bytes(data)
    return root


def contents(dataset: Dataset) -> list[tuple[int, int]]:
    return [(image.getpixel((0, 0)), label) for image, label in dataset]


@pytest.mark.parametrize("kind", KINDS)
def test_classes_are_numbered_alike_from_any_source(tmp_path: Path, kind: str) -> None:
    """In the order of the names, c10 before c2, which timm has after it."""
    files = {f"{folder}/{n}.png": png(10 * k + n)
             for k, folder in enumerate(("c10", "c2", "val")) for n in range(2)}  # fmt: skip
    dataset = open_dataset(write(tmp_path / kind, files), None, 3)
    assert len(dataset) == 6
    expected = [(0, 0), (1, 0), (10, 1), (11, 1), (20, 2), (21, 2)]
    assert sorted(contents(dataset)) == expected


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("top", ["", "./", "some/folders/"])
def test_a_part_of_imagenet_has_its_class_numbers(tmp_path: Path, kind: str, top: str) -> None:
    from timm.data.imagenet_info import ImageNetInfo

    classes = list(ImageNetInfo("imagenet-1k").label_names())
    files = {f"{top}{classes[n]}/1.png": png(n) for n in (200, 7)} | {f"{top}LIST.csv": b""}
    dataset = open_dataset(write(tmp_path / kind, files), classes, 1000)
    assert contents(dataset) == [(7, 7), (200, 200)]


def test_a_folder_inside_a_zip_is_a_set(tmp_path: Path) -> None:
    files = {f"{split}/{c}/1.png": png(n) for n, split in enumerate(("train", "val")) for c in "ab"}
    dataset = open_dataset(write(tmp_path / "set.zip", files) / "val", None, 2)
    assert contents(dataset) == [(1, 0), (1, 1)]


def test_folders_may_hold_any_kind_of_image_that_mnq_takes(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.new("L", (4, 4), 3).save(buffer, "WEBP", lossless=True)
    dataset = open_dataset(write(tmp_path / "set", {"a/1.webp": buffer.getvalue()}), None, 1)
    assert dataset[0][0].getpixel((0, 0)) == (3, 3, 3)


def test_transform_is_applied(tmp_path: Path) -> None:
    dataset = open_dataset(write(tmp_path / "set.zip", {"a/1.png": png(5)}), ["b", "a"], 2)
    dataset.transform = lambda image: np.array(image).sum()
    assert dataset[0] == (80, 1)
    with pytest.raises(IndexError):
        dataset[1]


@pytest.mark.parametrize("kind", KINDS)
def test_undecodable_images_are_logged_and_replaced(
    tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    files = {"a/1.png": png(1), "a/2.png": b"no image", "a/3.png": png(9)[:50], "b/4.png": png(4)}
    dataset = open_dataset(write(tmp_path / kind, files), None, 2)
    assert contents(dataset) == [(1, 0), (4, 1), (4, 1), (4, 1)]
    assert dataset.usable(1) is None
    messages = [record.getMessage() for record in caplog.records]
    assert len(messages) == 4  # 2 and 3 for 2, 3 for 3, and 2 again
    assert "a/2.png: not an image of the kinds" in messages[0]
    assert "a/3.png: " in messages[1]


def test_images_that_the_transform_refuses_are_replaced(tmp_path: Path) -> None:
    dataset = open_dataset(write(tmp_path / "set", {"a/1.png": png(1), "a/2.png": png(2)}), None, 1)

    def picky(image: Image.Image) -> int:
        value = int(image.getpixel((0, 0)))  # type: ignore[arg-type]
        if value == 2:
            raise InputError("no twos")
        return value

    dataset.transform = picky
    assert [value for value, _ in dataset] == [1, 1]
    assert dataset.usable(1) is None


def test_other_errors_of_a_transform_are_not_hidden(tmp_path: Path) -> None:
    dataset = open_dataset(write(tmp_path / "set", {"a/1.png": png(1)}), None, 1)
    dataset.transform = lambda image: 1 / 0
    with pytest.raises(ZeroDivisionError):
        dataset[0]


@pytest.mark.parametrize("count", [3, 12])
def test_many_unusable_images_in_a_row_are_an_error(tmp_path: Path, count: int) -> None:
    files = {f"a/{n:02}.png": b"x" for n in range(count)}
    dataset = open_dataset(write(tmp_path / "set", files), None, 1)
    with pytest.raises(InputError, match=rf"found {min(count, 10)} in a row .*a/00\.png; replace"):
        dataset[0]


@pytest.mark.parametrize("name", ["nothing", "nothing.tar", "nothing.zip", "notes.txt"])
def test_no_such_set_is_an_error(tmp_path: Path, name: str) -> None:
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(InputError, match=rf"expected a folder or a \.zip file at .*{name}"):
        open_dataset(tmp_path / name, None, 2)


@pytest.mark.parametrize("kind", KINDS)
def test_set_without_images_or_classes_is_an_error(tmp_path: Path, kind: str) -> None:
    with pytest.raises(InputError, match=r"at least 1 image files .*found 0"):
        open_dataset(write(tmp_path / kind, {"a/x.csv": b""}), None, 2)
    with pytest.raises(InputError, match="found a set without classes; put every image in a"):
        open_dataset(write(tmp_path / f"flat{kind}", {"1.png": png(1), "2.png": png(2)}), None, 2)


@pytest.mark.parametrize("kind", KINDS)
def test_classes_that_the_model_lacks_are_an_error(tmp_path: Path, kind: str) -> None:
    path = write(tmp_path / kind, {"a/1.png": png(1), "b/1.png": png(1)})
    with pytest.raises(InputError, match=r"expected 3 class folders.*found 2"):
        open_dataset(path, None, 3)
    with pytest.raises(InputError, match="found 1 of 2 unknown: b;"):
        open_dataset(path, ["x", "a"], 2)


@pytest.mark.parametrize("kind", KINDS)
def test_splits_are_never_merged(tmp_path: Path, kind: str) -> None:
    files = {f"{split}/{c}/1.png": png(1) for split in ("train", "val") for c in "ab"}
    with pytest.raises(InputError, match=r"give one of its folders: .*train or .*val"):
        open_dataset(write(tmp_path / kind, files), None, 2)


@pytest.mark.parametrize("kind", KINDS)
def test_data_sets_can_be_sent_to_processes(tmp_path: Path, kind: str) -> None:
    path = write(tmp_path / kind, {"a/1.png": png(1), "b/1.png": png(2)})
    dataset = open_dataset(path, None, 2)
    assert contents(dataset) == [(1, 0), (2, 1)]
    assert contents(pickle.loads(pickle.dumps(dataset))) == [(1, 0), (2, 1)]


def test_every_process_opens_a_zip_file_for_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Forked ones would otherwise share one position in it."""
    opened: list[Path] = []

    def noted(path: Path) -> Source:
        opened.append(path)
        return open_source(path)

    monkeypatch.setattr("mnq.models.dataset.open_source", noted)
    path = write(tmp_path / "set.zip", {"a/1.png": png(1), "b/1.png": png(2)})
    dataset = open_dataset(path, None, 2)
    assert contents(dataset) == [(1, 0), (2, 1)]
    assert opened == [path]
    monkeypatch.setattr("os.getpid", lambda: -1)
    assert contents(dataset) == [(1, 0), (2, 1)]
    assert opened == [path, path]


def test_a_tar_file_is_not_kept_open(tmp_path: Path) -> None:
    """As timm would, for forked processes to share."""
    path = write(tmp_path / "set.tar", {"a/1.png": png(1)})
    dataset = open_dataset(path, None, 1)
    assert contents(dataset) == [(1, 0)]
    path.unlink()
    assert dataset.usable(0) is None
