"""Getting onnxruntime's headers: what apt is told, and what happens where it cannot help."""

import subprocess
from importlib import util
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parents[2] / "ops/native/onnxruntime_headers.py"
DEB822 = """\
# a comment
Types: deb deb-src
URIs: http://mirror.example/debian
Suites: bookworm bookworm-updates
Components: main contrib
Signed-By: /usr/share/keyrings/debian.gpg

Types: deb
URIs: http://mirror.example/debian-security
Suites: bookworm-security
Components: main
"""


@pytest.fixture
def headers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The script, for a Debian 12 without sources."""
    spec = util.spec_from_file_location("onnxruntime_headers", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = util.module_from_spec(spec)
    spec.loader.exec_module(module)
    (tmp_path / "os-release").write_text('ID=debian\nVERSION_CODENAME="bookworm"\n')
    (tmp_path / "parts").mkdir()
    monkeypatch.setattr(module, "OS_RELEASE", tmp_path / "os-release")
    monkeypatch.setattr(module, "SOURCES", (tmp_path / "sources.list", tmp_path / "parts"))
    return module


def test_the_suite_comes_from_the_machines_own_mirror_and_keys(
    headers: ModuleType, tmp_path: Path
) -> None:
    (tmp_path / "parts" / "debian.sources").write_text(DEB822)
    (tmp_path / "parts" / "a.list").write_text("deb https://other.example/d bookworm stable\n")
    keys = "[signed-by=/usr/share/keyrings/debian.gpg]"
    assert headers.source() == f"deb {keys} http://mirror.example/debian trixie main"


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("deb http://m.example/debian bookworm main", "deb http://m.example/debian trixie main"),
        (
            "deb [arch=amd64 signed-by=/k.gpg] https://m.example/d bookworm main",
            "deb [signed-by=/k.gpg] https://m.example/d trixie main",
        ),
    ],
)
def test_sources_of_one_line_are_read(
    headers: ModuleType, tmp_path: Path, line: str, expected: str
) -> None:
    (tmp_path / "sources.list").write_text(f"# deb http://no.example bookworm main\n{line}\n")
    assert headers.source() == expected


def test_where_apt_cannot_help_the_reason_is_said(headers: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected a source of apt for bookworm or"):
        headers.source()
    (tmp_path / "os-release").write_text("ID=fedora\n")
    with pytest.raises(ValueError, match="expected Debian, found fedora"):
        headers.source()


def test_headers_that_are_there_are_taken(headers: ModuleType, tmp_path: Path) -> None:
    folder = tmp_path / "usr/include/onnxruntime"
    folder.mkdir(parents=True)
    (folder / "onnxruntime_c_api.h").touch()
    assert headers.get(tmp_path) == folder


def test_a_program_that_fails_is_named(headers: ModuleType, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"^sh: oops$"):
        headers._run(["sh", "-c", "echo first >&2; echo oops >&2; exit 1"], tmp_path)


def test_the_script_fails_with_one_line() -> None:
    done = subprocess.run(
        ["python3", str(SCRIPT), "/dev/null/x"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.startswith("onnxruntime_headers.py: ")
    assert len(done.stderr.splitlines()) == 1
