import os
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from mnq.models import sources
from mnq.models.sources import open_source
from mnq.ops.errors import InputError

NAMES = ["set/b/2.png", "set/a/10.JPG", "set/a/9.jpeg", "set/LIST.csv", "set/.thumb/x.jpg",
         "__MACOSX/set/a/._9.jpg", "set/a/.hidden.png", "top.webp", "set/a/notes"]  # fmt: skip
FOUND = [("set", "a", "10.JPG"), ("set", "a", "9.jpeg"), ("set", "b", "2.png"), ("top.webp",)]


def write_folder(root: Path) -> Path:
    for name in NAMES:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return root


def write_zip(path: Path, names: list[str] = NAMES) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("set/", b"")
        for name in names:
            archive.writestr(name, name.encode())
    return path


@pytest.mark.parametrize("write", [write_folder, lambda root: write_zip(root / "s.ZIP")])
def test_files_are_the_images_sorted(tmp_path: Path, write: Callable[[Path], Path]) -> None:
    source = open_source(write(tmp_path))
    assert source.files() == FOUND
    assert source.read(FOUND[0]) == b"set/a/10.JPG"
    source.close()


def test_open_source_takes_a_folder_inside_a_zip(tmp_path: Path) -> None:
    source = open_source(write_zip(tmp_path / "s.zip") / "set" / "a")
    assert source.files() == [("10.JPG",), ("9.jpeg",)]
    assert source.read(("9.jpeg",)) == b"set/a/9.jpeg"


def test_entries_that_point_outside_stay_text(tmp_path: Path) -> None:
    source = open_source(write_zip(tmp_path / "s.zip", ["../x/evil.png", "/abs/evil.png"]))
    assert source.files() == [("/", "abs", "evil.png")]
    assert source.read(("/", "abs", "evil.png")) == b"/abs/evil.png"
    assert sorted(os.listdir(tmp_path)) == ["s.zip"]


def test_folder_follows_links_but_no_loop(tmp_path: Path) -> None:
    real = tmp_path / "real"
    real.mkdir()
    (real / "1.png").write_bytes(b"1")
    root = tmp_path / "set"
    root.mkdir()
    (root / "a").symlink_to(real)
    (root / "loop").symlink_to(root)
    files = open_source(root).files()
    assert ("a", "1.png") in files
    assert max(map(len, files)) <= 6


def test_read_refuses_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    source = open_source(tmp_path)
    with pytest.raises(ValueError, match="not a regular file"):
        source.read(("pipe.png",))


@pytest.mark.parametrize("write", [write_folder, lambda root: write_zip(root / "s.zip")])
def test_read_is_bounded(
    tmp_path: Path, write: Callable[[Path], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "MAX_FILE_BYTES", 11)
    source = open_source(write(tmp_path))
    assert source.read(("set", "b", "2.png"))
    with pytest.raises(ValueError, match="larger than 11 bytes"):
        source.read(FOUND[1])


@pytest.mark.parametrize("name", ["no", "no.zip", "file.txt", "file.txt/in", "x" * 999])
def test_open_source_refuses_what_is_neither(tmp_path: Path, name: str) -> None:
    (tmp_path / "file.txt").write_text("text")
    with pytest.raises(InputError, match=r"expected a folder or a \.zip file at"):
        open_source(tmp_path / name)


@pytest.mark.parametrize("keep", [0, 10, 200, -1])
def test_open_source_refuses_a_damaged_zip(tmp_path: Path, keep: int) -> None:
    path = write_zip(tmp_path / "s.zip")
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(InputError, match=r"expected a zip file, found .*; download or pack it"):
        open_source(path)
