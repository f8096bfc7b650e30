import io
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mnq.models.images import ImageSet, batches, choose, label_index
from mnq.models.preprocess import Preprocess
from mnq.ops.errors import InputError

TINY = Preprocess(4, 4, "nearest", (0.5,) * 3, (0.5,) * 3, channels=3)


def png(value: int, size: tuple[int, int] = (4, 4)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size, (value, value, value)).save(buffer, "PNG")
    return buffer.getvalue()


def write(root: Path, files: dict[str, bytes]) -> Path:
    """As a folder, or as a zip file if `root` is named so."""
    if root.suffix == ".zip":
        with zipfile.ZipFile(root, "w") as archive:
            for name, data in files.items():
                archive.writestr(name, data)
        return root
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    return root


@pytest.mark.parametrize("place", ["set", "set.zip"])
@pytest.mark.parametrize("top", ["", "photos/", "one/two/"])
def test_set_yields_the_images_in_order(tmp_path: Path, place: str, top: str) -> None:
    files = {f"{top}{name}": png(value) for name, value in
             (("dog/1.png", 3), ("cat/2.png", 2), ("cat/1.png", 1))}  # fmt: skip
    with ImageSet.open(write(tmp_path / place, files | {f"{top}LIST.csv": b"a,b"})) as images:
        assert (len(images), images.classes) == (3, ["cat", "dog"])
        found = [(e.name, e.folder, e.image.getpixel((0, 0))[0]) for e in images]
        assert images.skipped == []
    assert found == [(f"{top}cat/1.png", "cat", 1), (f"{top}cat/2.png", "cat", 2),
                     (f"{top}dog/1.png", "dog", 3)]  # fmt: skip


@pytest.mark.parametrize("place", ["set", "set.zip"])
def test_flat_set_has_no_labels(tmp_path: Path, place: str) -> None:
    images = ImageSet.open(write(tmp_path / place, {"b.png": png(2), "a.png": png(1)}))
    assert images.classes == []
    assert [e.folder for e in images] == [None, None]
    ((_, labels, names),) = batches(images, TINY, 8)
    assert labels.tolist() == [-1, -1]
    assert names == ["a.png", "b.png"]


@pytest.mark.parametrize("place", ["set", "set.zip"])
def test_corrupt_images_are_skipped_and_named_once(tmp_path: Path, place: str) -> None:
    noise = io.BytesIO()
    Image.effect_noise((64, 64), 50).save(noise, "PNG")
    files = {"c/1.png": png(1), "c/2.png": b"no image", "c/3.png": noise.getvalue()[:900],
             "c/4.png": png(4), "c/5.png": b"", "c/6.png": png(9, (1, 4_100_000))}  # fmt: skip
    images = ImageSet.open(write(tmp_path / place, files))
    for _ in range(2):
        (batch,) = batches(images, TINY, 8)
        assert batch[2] == ["c/1.png", "c/4.png"]
    assert [name for name, _ in images.skipped] == ["c/2.png", "c/3.png", "c/5.png", "c/6.png"]
    reasons = [reason for _, reason in images.skipped]
    assert "not an image" in reasons[0]
    assert "truncated" in reasons[1]
    assert "pixels" in reasons[3]


def test_encrypted_or_miscounted_zip_entries_are_skipped(tmp_path: Path) -> None:
    path = write(tmp_path / "set.zip", {"c/1.png": png(1), "c/2.png": png(2)})
    data = bytearray(path.read_bytes())
    local, central = data.find(b"PK\x03\x04"), data.find(b"PK\x01\x02")
    data[local + 6] |= 1  # the encryption flag of the first entry
    data[central + 8] |= 1
    data[data.rfind(b"IEND")] ^= 1  # the second one's CRC no longer fits
    path.write_bytes(data)
    images = ImageSet.open(path)
    with pytest.raises(InputError, match=r"found 0, skipped c/1\.png .*encrypted"):
        list(images)
    assert "CRC" in dict(images.skipped)["c/2.png"]


def test_minimum_counts_usable_images(tmp_path: Path) -> None:
    files = {"c/1.png": png(1), "c/2.png": b"x", "c/3.png": png(3)}
    root = write(tmp_path / "set", files)
    assert len(list(ImageSet.open(root, minimum=2))) == 2
    with pytest.raises(InputError, match=r"at least 3 usable images .*found 2, skipped c/2\.png"):
        list(ImageSet.open(root, minimum=3))
    with pytest.raises(InputError, match=r"at least 4 image files .*found 3"):
        ImageSet.open(root, minimum=4)
    # A limit asks for fewer than the minimum: then all of these have to be usable.
    with pytest.raises(InputError, match=r"at least 2 usable images .*found 1"):
        list(batches(ImageSet.open(root, minimum=3), TINY, 8, limit=2))


@pytest.mark.parametrize("files", [{}, {"notes.txt": b"", "x/list.csv": b""}])
def test_set_without_images_is_an_error(tmp_path: Path, files: dict[str, bytes]) -> None:
    (tmp_path / "set").mkdir()
    for place in ("set", "set.zip"):
        with pytest.raises(InputError, match=r"at least 1 image files .*found 0; give a folder"):
            ImageSet.open(write(tmp_path / place, files))


def test_split_folders_are_an_error_that_names_them(tmp_path: Path) -> None:
    files = {f"top/{s}/{c}/1.png": png(1) for s in ("train", "test") for c in "ab"}
    path = write(tmp_path / "set.zip", files)
    with pytest.raises(InputError) as caught:
        ImageSet.open(path)
    assert f"give one of its folders: {path}/top/test or {path}/top/train" in str(caught.value)
    assert ImageSet.open(f"{path}/top/train").classes == ["a", "b"]


def test_mixed_depths_are_an_error(tmp_path: Path) -> None:
    path = write(tmp_path / "set", {"a/1.png": png(1), "2.png": png(2)})
    with pytest.raises(InputError, match=r"found a/1\.png beside 2\.png; put every image"):
        ImageSet.open(path)


def many(tmp_path: Path) -> ImageSet:
    return ImageSet.open(write(tmp_path / "set.zip", {f"{i:02}/x.png": png(i) for i in range(20)}))


def test_batches_cover_the_set_in_order(tmp_path: Path) -> None:
    found = list(batches(many(tmp_path), TINY, 8))
    assert [pixels.shape for pixels, _, _ in found] == [(8, 3, 4, 4), (8, 3, 4, 4), (4, 3, 4, 4)]
    assert (found[0][0].dtype, found[0][1].dtype) == (np.uint8, np.int64)
    assert np.concatenate([labels for _, labels, _ in found]).tolist() == list(range(20))
    assert np.concatenate([pixels[:, 0, 0, 0] for pixels, _, _ in found]).tolist() == [*range(20)]


def test_batches_map_labels_and_spread_a_limit(tmp_path: Path) -> None:
    images = many(tmp_path)
    classes = [f"{i:02}" for i in reversed(range(30))]
    (batch,) = batches(images, TINY, 9, limit=5, labels=label_index(images.classes, classes))
    assert batch[1].tolist() == [29, 25, 21, 17, 13]
    assert batch[2] == [f"{i:02}/x.png" for i in (0, 4, 8, 12, 16)]


def test_batches_check_their_arguments_at_the_call(tmp_path: Path) -> None:
    images = many(tmp_path)
    with pytest.raises(InputError, match="batch size of at least 1, found 0"):
        batches(images, TINY, 0)
    with pytest.raises(InputError, match="limit of at least 1, found 0"):
        batches(images, TINY, 1, limit=0)


def test_choose_spreads_over_sorted_classes() -> None:
    chosen = choose(1000, 128, None)
    assert len(set(chosen)) == 128
    assert chosen == sorted(chosen)
    assert set(np.diff([*chosen, 1000])) == {7, 8}


def test_choose_samples_by_seed() -> None:
    chosen = choose(1000, 128, 1)
    assert chosen == sorted(set(chosen)) == choose(1000, 128, 1) != choose(1000, 128, 2)
    assert choose(20, 5, 7) == [1, 2, 5, 11, 17]  # the same images for ever
    assert choose(3, 9, 1) == choose(3, 3, None) == [0, 1, 2]


def test_label_index_maps_a_part_of_the_classes() -> None:
    assert label_index(["b", "d"], ["d", "c", "b"]) == {"b": 2, "d": 0}


def test_label_index_refuses_unknown_folders() -> None:
    with pytest.raises(
        InputError, match=r"\(n1, n2, n3, \.\.\.\), found 2 of 3 unknown: cat, dog;"
    ):
        label_index(["cat", "dog", "n2"], ["n1", "n2", "n3", "n4"])


def test_label_index_numbers_folders_when_the_model_has_no_names() -> None:
    assert label_index(["a", "b"], None, 2) == {"a": 0, "b": 1}
    with pytest.raises(InputError, match=r"expected 3 class folders, .* found 2"):
        label_index(["a", "b"], None, 3)


def test_importing_images_needs_no_torch() -> None:
    code = "import sys, mnq.models.images; print({'torch', 'timm', 'torchvision'} & {*sys.modules})"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "set()"


def test_shared_sets_have_their_documented_size(shared_file: Callable[[str], Path]) -> None:
    calib = ImageSet.open(shared_file("imagenet_calib_1000.zip"))
    assert (len(calib), len(calib.classes)) == (1000, 1000)
    evaluation = ImageSet.open(shared_file("imagenet_eval_500.zip"))
    assert (len(evaluation), len(evaluation.classes)) == (500, 303)
    cifar = ImageSet.open(shared_file("cifar10.zip") / "cifar10" / "test")
    assert (len(cifar), len(cifar.classes)) == (10_000, 10)
    assert next(iter(cifar)).image.size == (32, 32)
