"""Bad input to mnq-assign: one line that helps, before anything slow, and nothing written."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pytest
from cli_runs import Digits, mnq, payload, refused

from mnq.cli import assign as command
from mnq.models import zoo


@pytest.fixture(autouse=True)
def output(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Where every test writes to; nothing may be there in the end."""
    folder = tmp_path_factory.mktemp("output")
    yield folder / "map.json"
    assert not list(folder.iterdir())


@pytest.fixture
def base(digits: Digits, output: Path) -> tuple[object, ...]:
    return ("assign", "--model", "digits", "--calib", digits.train, "--output", output)


@pytest.fixture
def unloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """No model may be loaded: what is wrong has to be found before."""
    monkeypatch.setattr(zoo, "load", lambda *_, **__: pytest.fail("a model was loaded"))


@pytest.mark.usefixtures("unloaded")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            ("--rule", "sqnr-drop", "--objective", "logits"),
            "found both (sqnr-drop, logits); drop one",
        ),
        (("--objective", "cost"), "expected --budget MS and --objective cost together"),
        (("--budget", 5), "expected --budget MS and --objective cost together"),
        (("--budget", 5, "--objective", "logits"), "expected --budget MS and --objective cost"),
        (("--budget", 5, "--rule", "sqnr-drop"), "expected --budget MS and --objective cost"),
        (("--objective", "cost", "--budget", 0), "'--budget': 0.0 is not in the range x>0"),
        (("--objective", "cost", "--budget", "nan"), "expected milliseconds, found nan"),
        (("--objective", "cost", "--budget", "inf"), "expected milliseconds, found inf"),
        (("--costs", "costs.json"), "expected --costs with --objective cost, found it alone"),
        (("--rule", "sqnr"), "'--rule': 'sqnr' is not one of 'sqnr-drop', "),
        (("--objective", "latency"), "'latency' is not one of 'logits', 'cost'"),
        (("--measure", "alone"), "'alone' is not one of 'isolated', 'joint'"),
        (("--methods", "lut"), "'lut' is not one of 'all', 'paper'"),
        (("--sites", "none"), "'none' is not one of 'all', 'paper'"),
        (("--bits", 1), "1 is not in the range 2<=x<=8"),
        (("--bits", 9), "9 is not in the range 2<=x<=8"),
        (("--sample", 0), "'--sample': 0 is not in the range 1<=x<=1048576"),
        (("--images", 7), "7 is not in the range 8<=x<=1048576"),
        (("--seed", -1), "'--seed': -1 is not in the range"),
        (("--threads", -1), "'--threads': -1 is not in the range"),
        (("--calib-method", "max"), "expected mse or minmax or percentile, found 'max'"),
        (("--range-form", "x"), "expected ivit or paper, found 'x'"),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, tuple) else "",
)
def test_bad_options(options: tuple[object, ...], message: str, base: tuple[object, ...]) -> None:
    assert message in refused(*base, *options)


@pytest.mark.usefixtures("unloaded")
@pytest.mark.parametrize(
    "widths", ["8,9", "1", "8,", ",", "8;6", "8 6", "eight", "8.0", "-8", "08"]
)
def test_widths_that_are_none(widths: str, base: tuple[object, ...]) -> None:
    line = refused(*base, "--sweep-bits", widths)
    assert f"expected widths from 2 to 8 like 8,6,4, found {widths!r}" in line


@pytest.mark.usefixtures("unloaded")
@pytest.mark.parametrize("option", ["--model", "--calib", "--output"])
def test_missing_option(option: str, base: tuple[object, ...]) -> None:
    at = base.index(option)
    line = refused(*base[:at], *base[at + 2 :])
    assert f"Missing option '{option}'" in line or f"expected {option}, found none; " in line


def test_unknown_model(base: tuple[object, ...]) -> None:
    line = refused(*base, "--model", "didgits")
    assert line.endswith("found 'didgits'; did you mean digits or deit_s or vit_s?")


# --- files ---


@pytest.mark.usefixtures("unloaded")
@pytest.mark.parametrize("option", ["--report", "--measurements", "--costs"])
def test_one_file_for_two_things(option: str, base: tuple[object, ...], output: Path) -> None:
    line = refused(*base, option, output)
    assert f"expected different files, found {output} twice" in line


@pytest.mark.usefixtures("unloaded")
@pytest.mark.parametrize("option", ["--output", "--report", "--measurements", "--costs"])
def test_place_that_cannot_be_written(
    option: str, base: tuple[object, ...], tmp_path: Path
) -> None:
    missing = tmp_path / "none" / "file"
    assert f"found none at {missing.parent}" in refused(*base, option, missing)
    assert "a folder of that name" in refused(*base, option, tmp_path)


@pytest.mark.usefixtures("unloaded")
def test_images_that_are_none(base: tuple[object, ...], digits: Digits, tmp_path: Path) -> None:
    at = base.index("--calib")
    rest = (*base[:at], *base[at + 2 :])
    assert str(tmp_path / "none") in refused(*rest, "--calib", tmp_path / "none")
    assert "at least 8 image files" in refused(*rest, "--calib", tmp_path)
    line = refused(*rest, "--calib", tmp_path / "none.safetensors")
    assert "expected a file that --save-calib made, found none" in line
    assert str(tmp_path / "no") in refused(*base, "--sample-from", tmp_path / "no")


@pytest.mark.onnxruntime
@pytest.mark.usefixtures("unloaded")
def test_calibration_file_alone_has_no_images_to_measure_on(exported: Digits, output: Path) -> None:
    line = refused("assign", "--model", "digits", "--calib", exported.calib, "--output", output)
    assert "found a calibration file alone; add --sample-from FOLDER" in line


@pytest.mark.onnxruntime
@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--random-weights", 1), "expected statistics of these weights"),
        (("--no-equalize",), "expected statistics without equalization for --no-equalize"),
    ],
)
def test_calibration_file_of_something_else(
    options: tuple[object, ...], message: str, exported: Digits, output: Path
) -> None:
    words = ("assign", "--model", "digits", "--calib", exported.calib, "--output", output)
    assert message in refused(*words, "--sample-from", exported.test, *options)


@pytest.mark.onnxruntime
def test_calibration_file_with_images_elsewhere_is_taken(exported: Digits, tmp_path: Path) -> None:
    words = ("assign", "--model", "digits", "--calib", exported.calib, "--sample", 8)
    found = payload(
        mnq(*words, "--sample-from", exported.test, "--output", tmp_path / "map.json", "--json")
    )
    assert (found["images"]["source"], found["images"]["count"]) == ("test", 8)


@pytest.mark.usefixtures("unloaded")
def test_module_that_is_not_installed(
    base: tuple[object, ...], output: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "matplotlib" else real(name)
    )
    line = refused(*base, "--report", output.parent / "report.html", status=3)
    assert "expected the module matplotlib, found none; pip install 'mnq[train]'" in line


def test_no_usable_method_at_a_site_is_named(
    base: tuple[object, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    from mnq.ops import registry
    from mnq.ops.errors import InputError

    def constants(*_: object) -> None:
        raise InputError("Norm: expected weights, found none; check them")

    for name, method in registry.LAYERNORM.items():
        changed = type(method)(
            method.prefix, method.operator, constants, method.reference, method.raw
        )
        monkeypatch.setitem(registry.LAYERNORM, name, changed)
    line = refused(*base, "--images", 8, "--sample", 8)
    assert "expected a usable method at site blocks.0.norm1, found none (ivit: Norm: " in line


def test_help_lists_the_rules_with_the_default_first() -> None:
    text = " ".join(mnq("assign", "--help").stdout.split())
    assert f"[{'|'.join(command.RULES)}]" in text
    assert f"[{command.RULES[0]}]" in text
