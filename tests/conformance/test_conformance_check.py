"""check.py: a wrong integer is found and named, whatever runs the vectors; its page is true."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import check
import kit
import numpy as np
import pytest

from mnq.ops.library import OVERRIDE, library_path

KIT = Path(check.__file__).parent
PAGE = KIT / "README.md"

Edit = Callable[[dict[str, Any]], dict[str, Any]]


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The kit in another place."""
    ignored = shutil.ignore_patterns("__pycache__")
    return shutil.copytree(KIT, tmp_path / "kit", ignore=ignored)


def edit(path: Path, index: int, tensor: Edit) -> int:
    """Add 1 to an integer of a tensor of a file, or take 1 from it; returns what was there."""
    data = json.loads(path.read_text())
    values = tensor(data)["data"]
    before = int(values[index])
    values[index] = before + (1 if before < 0 else -1)
    path.write_text(json.dumps(data))
    return before


def last_output(data: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = data["vectors"][-1]["output"]
    return found


RUNTIMES = [
    pytest.param("functions", marks=pytest.mark.onnxruntime),
    "reference",
    pytest.param("kernels", marks=[pytest.mark.onnxruntime, pytest.mark.native]),
    pytest.param("c_interface", marks=pytest.mark.native),
]


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_one_changed_integer_is_named_on_every_runtime(
    copy: Path,
    runtime: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if runtime in ("kernels", "c_interface"):
        monkeypatch.setenv(OVERRIDE, str(library_path()))
    before = edit(copy / "vectors/LutSoftmax.json", 2, last_output)
    assert check.main([runtime, "--folder", str(copy), "--only", "LutSoftmax"]) == 1
    changed = before + (1 if before < 0 else -1)
    assert (
        f"LutSoftmax, 'the sum divides 2^32, output of 16 bits', y[1, 0]: expected {changed}, "
        f"found {before}; 1 of 4 integers differ"
    ) in capsys.readouterr().out


def test_one_changed_integer_is_named_in_every_operator(
    copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in (copy / "vectors").glob("*.json"):
        edit(path, 0, last_output)
    assert check.main(["reference", "--folder", str(copy)]) == 1
    printed = capsys.readouterr().out
    for path in (copy / "vectors").glob("*.json"):
        assert re.search(rf"^{path.stem} .*\b1 WRONG of", printed, re.M), path.stem
    assert printed.count("expected") == check.SHOWN
    assert f"and {len(list((copy / 'vectors').glob('*.json'))) - check.SHOWN} more" in printed


@pytest.mark.parametrize("name", ["vit", "swin"])
def test_one_changed_integer_inside_a_model_is_named(
    copy: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    path = copy / f"models/test_{name}/tensors.json"
    tensors = json.loads(path.read_text())["tensors"]
    tensor = next(key for key in reversed(tensors) if key.endswith("mlp.act"))
    edit(path, 0, lambda data: data["tensors"][tensor])
    assert check.main(["reference", "--folder", str(copy), "--only", name]) == 1
    printed = capsys.readouterr().out
    assert f"model {name}, 'every tensor', {tensor}[0, 0, 0]: expected" in printed
    assert "2 of 2 vectors run, 1 wrong" in printed


def test_the_digest_names_the_vectors(copy: Path) -> None:
    assert kit.digest(copy) == kit.digest()
    edit(copy / "vectors/Patches.json", 0, last_output)
    assert kit.digest(copy) != kit.digest()


def plugin(folder: Path, body: str) -> str:
    path = folder / "mine.py"
    path.write_text(f"import numpy as np\ndef run(vector):\n    {body}\n")
    return str(path)


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        ("raise ValueError('no such operator')", "ValueError: no such operator"),
        ("return []", "ValueError: zip"),
        ("return [x.astype(np.int64) for x in vector.expected.values()]", "y: expected type int8"),
        ("return [x[None] for x in vector.expected.values()]", "y: expected shape"),
    ],
)
def test_what_else_a_runtime_does_wrong_is_reported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], body: str, fault: str
) -> None:
    name = plugin(tmp_path, body)
    assert check.main([name, "--only", "^LutGelu$"]) == 1
    printed = capsys.readouterr().out
    assert "does NOT conform: 6 of 6 vectors run, 6 wrong\n" in printed
    assert f"LutGelu, '8 bits', {fault}" in printed


def test_a_runtime_that_takes_nothing_does_not_conform(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert check.main([plugin(tmp_path, "return None"), "--only", "^LutGelu$"]) == 1
    assert "does NOT conform: 0 of 6 vectors run" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [[], ["reference", "--only", "NoSuchOperator"]])
def test_nothing_to_run_is_wrong_use(arguments: list[str]) -> None:
    with pytest.raises(SystemExit) as raised:
        check.main(arguments)
    assert raised.value.code == 2


def test_an_unknown_runtime_is_named() -> None:
    with pytest.raises(SystemExit, match=r"expected c_interface, functions, .* found 'nothing'"):
        check.main(["nothing", "--only", "^Patches$"])


@pytest.mark.parametrize("text", ["import nothing_of_this_name", "def compute(): ..."])
def test_a_file_that_is_no_runtime_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "mine.py"
    path.write_text(text)
    with pytest.raises(SystemExit, match=r"expected a function run in .*mine\.py, found \w+Error:"):
        check.main([str(path), "--only", "^Patches$"])


@pytest.mark.parametrize("runtime", RUNTIMES[2:])
def test_a_missing_library_is_said(runtime: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(OVERRIDE, raising=False)
    with pytest.raises(SystemExit, match="MNQ_OPS_LIBRARY is not set"):
        check.main([runtime, "--only", "^Patches$"])


def test_a_vector_that_is_no_tensor_is_refused() -> None:
    good = {"type": "int8", "shape": [2], "data": [-128, 127]}
    assert kit.tensor(good).tolist() == [-128, 127]
    for wrong in ({"shape": [3]}, {"type": "float32"}, {"data": [0, 128]}):
        with pytest.raises(ValueError, match="expected"):
            kit.tensor({**good, **wrong})


def test_the_folder_runs_alone(copy: Path) -> None:
    command = [sys.executable, "check.py", "reference", "--only", "^(Patches|LutGelu)$"]
    done = subprocess.run(command, cwd=copy, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^reference conforms: (\d+) of \1 vectors run, 0 wrong$", done.stdout, re.M)


def test_the_runtime_of_the_page_works(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.S)
    path = tmp_path / "page.py"
    path.write_text(example)
    assert check.main([str(path)]) == 0
    gelus = re.search(r"^LutGelu +(\d+) +\1 ok$", capsys.readouterr().out, re.M)
    assert gelus


def test_links_and_names_of_the_page_exist() -> None:
    text = PAGE.read_text()
    for link in re.findall(r"\]\(([^)]+)\)", text):
        assert (KIT / link).is_file(), link
    pages = {path.parent.name for path in (KIT.parent / "ops").glob("*/SPEC.md")}
    assert set(re.findall(r"\.\./ops/(\w+)/SPEC\.md", text)) == pages
    for name in re.findall(r"`(\w+/)`", text):
        assert (KIT / name).is_dir(), name
    assert np.dtype(np.uint8).name in kit.TYPES and f'"format": "{kit.FORMAT}"' in text
