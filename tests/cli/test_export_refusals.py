"""Bad input to mnq-export: one line that helps, the right status, and nothing written."""

import importlib.util
import json
import os
import shutil
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cli_runs import Digits, refused

from mnq.models.digits.model import WEIGHTS

pytestmark = pytest.mark.onnxruntime


@pytest.fixture(autouse=True)
def output(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where every test writes to; nothing may be there in the end."""
    folder = tmp_path_factory.mktemp("output")
    yield folder / "m.onnx"
    assert not list(folder.iterdir())


@pytest.fixture
def base(digits: Digits, output: Path) -> tuple[object, ...]:
    return ("export", "--model", "digits", "--calib", digits.train, "--output", output)


def test_unknown_model(digits: Digits, output: Path) -> None:
    line = refused("export", "--model", "didgits", "--calib", digits.train, "--output", output)
    assert "expected deit_t, " in line
    assert line.endswith("found 'didgits'; did you mean digits or deit_s or vit_s?")


@pytest.mark.parametrize("missing", ["--calib", "--output"])
def test_missing_option(missing: str, base: tuple[object, ...]) -> None:
    at = base.index(missing)
    line = refused(*base[:at], *base[at + 2 :])
    assert f"expected --output and --calib, found no {missing}; " in line


@pytest.mark.parametrize("bits", [0, 1, 9, 99, -8])
def test_bits_out_of_range(bits: int, base: tuple[object, ...]) -> None:
    assert f"'--bits': {bits} is not in the range 2<=x<=8" in refused(*base, "--bits", bits)


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--assign", "uniform:gelu", "expected uniform:ivit|ibert|fqvit|lut, found uniform:gelu"),
        ("--calib-method", "max", "expected mse or minmax or percentile, found 'max'"),
        ("--range-form", "x", "expected ivit or paper, found 'x'"),
        ("--input", "int4", "expected uint8 or float, found 'int4'"),
        ("--images", 7, "7 is not in the range 8<=x<=1048576"),
        ("--batch", 0, "0 is not in the range 1<=x<=1048576"),
        ("--random-weights", 1 << 64, "is not in the range 0<=x<=4294967295"),
    ],
)
def test_bad_value(option: str, value: object, message: str, base: tuple[object, ...]) -> None:
    assert message in refused(*base, option, value)


def broken_map(**changes: object) -> str:
    return json.dumps({"format": "mnq-map/1", "model": "digits", **changes})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            broken_map(sites={"blocks.0.mlp.act": {"method": "fqvit"}}),
            "expected a gelu method at blocks.0.mlp.act (ivit, ibert, lut), found 'fqvit'",
        ),
        (broken_map(defaults={"softmax": "exact"}), "a softmax method at defaults (ivit, ibert,"),
        (
            broken_map(sites={"blocks.0.mlp": {"method": "lut"}}),
            "found 'blocks.0.mlp' (1 unknown in all); near it are blocks.0.mlp.act, ",
        ),
        (
            broken_map(sites={"norm": {"method": "ivit", "attention": "deferred"}}),
            "'attention' at softmax sites only, found it at norm",
        ),
        (broken_map(model="deit_t"), "expected a map of digits, found one of deit_t in "),
        (broken_map(bits={"activations": 9}), "at bits/activations of "),
        (broken_map(site={}), "'site' was unexpected"),
        (broken_map()[:-1] + ', "model": "x"}', "expected each key once, found 'model' twice"),
        ("{}", "'format' is a required property"),
        ("[" * 100_000, "expected a JSON file, found: "),
        ("{", "expected a JSON file, found: Expecting property name"),
    ],
)
def test_bad_map(text: str, message: str, base: tuple[object, ...], tmp_path: Path) -> None:
    path = tmp_path / "map.json"
    path.write_text(text)
    line = refused(*base, "--assign", path)
    assert line.startswith("mnq-export: error: map: expected ")
    assert message in line


def test_bits_that_contradict_the_map(base: tuple[object, ...], tmp_path: Path) -> None:
    path = tmp_path / "map.json"
    path.write_text(broken_map(bits={"activations": 6}))
    assert "--bits: expected 6 as in" in refused(*base, "--assign", path, "--bits", 8)


def damaged(weights: dict[str, Any], how: str) -> dict[str, Any]:
    import torch

    if how == "missing":
        del weights["norm.weight"]
    elif how == "extra":
        weights["norm.gamma"] = torch.ones(64)
    elif how == "shape":
        weights["norm.weight"] = torch.ones(65)
    else:
        weights["norm.weight"][3] = float(how)
    return weights


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("missing", "found 1 missing (norm.weight)"),
        ("extra", "found 1 unknown (norm.gamma)"),
        ("shape", "expected norm.weight of shape (64,)"),
        ("nan", "found 1 NaN or infinite of 64 in norm.weight"),
        ("-inf", "found 1 NaN or infinite of 64 in norm.weight"),
    ],
)
def test_weights_that_do_not_fit(
    how: str, message: str, base: tuple[object, ...], tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    path = tmp_path / "weights.safetensors"
    save_file(damaged(load_file(WEIGHTS), how), path)
    assert message in refused(*base, "--weights", path)


@pytest.mark.parametrize(
    ("name", "share"), [("w.safetensors", 0.5), ("w.safetensors", 0), ("w.pth", 0.5), ("w.txt", 1)]
)
def test_weights_that_cannot_be_read(
    name: str, share: float, base: tuple[object, ...], tmp_path: Path
) -> None:
    data = WEIGHTS.read_bytes()
    (tmp_path / name).write_bytes(data[: int(len(data) * share)])
    assert "weights: expected a " in refused(*base, "--weights", tmp_path / name)
    assert "found none" in refused(*base, "--weights", tmp_path / "nothing.pth")


@pytest.mark.parametrize("content", [None, "empty", "text", "few", "corrupt"])
def test_calibration_images_that_are_none_or_too_few(
    content: str | None, digits: Digits, output: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "images"
    if content is not None:
        folder.mkdir()
    if content in ("few", "corrupt"):
        for path in sorted(digits.train.glob("3/*.png"))[: 7 if content == "few" else 10]:
            shutil.copy(path, folder)
    for path in sorted(folder.glob("*.png"))[:3] if content == "corrupt" else []:
        path.write_bytes(path.read_bytes()[:60])
    if content == "text":
        (folder / "a.txt").write_text("no image")
    line = refused("export", "--model", "digits", "--calib", folder, "--output", output)
    assert {
        None: "expected a folder or a .zip file at ",
        "empty": "found 0; ",
        "text": "found 0; ",
        "few": "at least 8 image files (.jpg, .png, ...) in ",
        "corrupt": "expected at least 8 usable images in ",
    }[content] in line
    assert content != "corrupt" or line.count(".png (") == 3  # each is named


def test_calibration_statistics_that_do_not_belong(
    exported: Digits, output: Path, tmp_path: Path
) -> None:
    base = ("export", "--model", "digits", "--output", output, "--calib")
    assert "found none at " in refused(*base, tmp_path / "nothing.safetensors")
    assert "expected a mnq-calibration/1 file" in refused(*base, WEIGHTS)
    assert "found those of others" in refused(*base, exported.calib, "--random-weights", 1)
    assert "for --no-equalize" in refused(*base, exported.calib, "--no-equalize")


def test_output_that_cannot_be_written(digits: Digits, output: Path) -> None:
    base = ("export", "--model", "digits", "--calib", digits.train)
    missing = output.parent / "no" / "m.onnx"
    assert f"found none at {missing.parent}" in refused(*base, "--output", missing)
    assert "found a folder of that name" in refused(*base, "--output", output.parent)
    line = refused(*base, "--output", output, "--save-calib", missing)
    assert f"found none at {missing.parent}" in line
    assert "expected two files" in refused(*base, "--output", output, "--save-calib", output)


def test_output_in_a_read_only_folder(digits: Digits, tmp_path: Path) -> None:
    if os.geteuid() == 0:
        pytest.skip("missing user: root may write into a read-only folder, so run as another")
    tmp_path.chmod(0o555)
    base = ("export", "--model", "digits", "--calib", digits.train)
    line = refused(*base, "--output", tmp_path / "m.onnx")
    assert "found a folder without write permission" in line


def test_no_network_for_pretrained_weights(
    digits: Digits, output: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> list[object]:
        raise socket.gaierror(-2, "Name or service not known")

    constants = pytest.importorskip("huggingface_hub.constants")
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    start = time.monotonic()
    line = refused(
        *("export", "--model", "deit_t", "--calib", digits.train, "--output", output), status=3
    )
    assert "found no way to it" in line
    assert "--weights FILE" in line
    assert time.monotonic() - start < 20


def test_extra_that_is_not_installed(
    base: tuple[object, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    line = refused(*base, status=3)
    assert line.endswith("expected the module torch, found none; pip install 'mnq[train]'")
