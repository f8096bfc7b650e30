import json
import re
import tempfile
from pathlib import Path

import pytest
from cli_runs import mnq, payload, refused

from mnq.cli import demo
from mnq.runtime import verify
from mnq.toolchain import map as maps

pytestmark = pytest.mark.onnxruntime


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A demo of the mixed map alone, and the folder for temporary files."""
    monkeypatch.setattr(demo, "UNIFORM", ())
    monkeypatch.setattr(demo, "COMPARED_IMAGES", 4)
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    return temporary


@pytest.mark.slow
def test_every_map_gives_the_integers_of_pytorch_and_keeps_the_accuracy(tmp_path: Path) -> None:
    output = tmp_path / "kept"
    found = payload(mnq("demo", "--output", output, "--json"))
    rows = {row["name"]: row for row in found["maps"]}
    assert list(rows) == ["ivit", "ibert", "fqvit", "lut", "mixed"]
    reference = found["float"]
    assert reference["top1"] > 98  # the bundled weights: 98.6 %
    for row in rows.values():
        tensors = 49 if row["name"] in ("ivit", "fqvit") else 45  # ShiftGELU is no table
        assert (row["images"], row["tensors"], row["differing_integers"]) == (355, tensors, 0)
        assert row["bytes"] == (output / f"{row['name']}.onnx").stat().st_size
        # 99.4 % of the answers or more as measured; one answer is 0.3 %.
        assert row["agreement"] > 98.5
        assert row["top1"] > reference["top1"] - 1
    # Exact tables beat every approximation, and the log2 codes of FQ-ViT cost most.
    sqnr = {name: row["logit_sqnr_db"] for name, row in rows.items()}
    assert min(sqnr, key=lambda name: sqnr[name]) == "fqvit"
    assert sqnr["lut"] > max(sqnr["ivit"], sqnr["ibert"], sqnr["fqvit"])
    assert sqnr["mixed"] > sqnr["ibert"]


def test_people_get_a_table_next_steps_and_the_files(short: Path, tmp_path: Path) -> None:
    output = tmp_path / "kept"
    result = mnq("demo", "--output", output)
    assert result.exit_code == 0, result.output
    head, *rows = result.stdout.splitlines()
    assert re.split(r"\s{2,}", head) == [
        *("map", "top-1 %", "agree with float %", "SQNR dB", "KB"),
        *("tensors verified", "differing"),
    ]
    assert [row.split()[0] for row in rows] == ["float", "mixed"]
    assert rows[1].split()[-3:] == ["45", "0", "integers"]
    assert "calibrating" in result.stderr
    assert "exporting, verifying" in result.stderr
    assert "  mnq-export --model deit_t --calib PHOTOS " in result.stderr
    assert result.stderr.endswith(
        f"\nThe files are in {output}: open {output}/report.html in a browser.\n"
    )
    assert sorted(path.name for path in tmp_path.rglob("*.*") if path.suffix != ".png") == [
        "measurements.json",
        "mixed.json",
        "mixed.onnx",
        "report.html",
    ]
    mixed = maps.read(output / "mixed.json", "digits")
    assert mixed.provenance["rule"] == "logits"
    assert "</html>" in (output / "report.html").read_text()
    assert len(list((output / "test").glob("?/*.png"))) == 355
    checked = payload(mnq("verify", output / "mixed.onnx", "--level", "all", "--json"))
    assert checked["passed"] is True


def test_next_steps_are_commands_with_options_that_exist() -> None:
    commands = [line.split() for line in demo.NEXT.splitlines() if line.startswith("  mnq-")]
    assert len(commands) == 6
    for command, *words in commands:
        help_text = mnq(command.removeprefix("mnq-"), "--help").stdout
        for option in (word for word in words if word.startswith("--")):
            assert f"  {option}" in help_text, (command, option)


def test_ctrl_c_leaves_nothing(
    short: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(demo, "calibrate", interrupted)
    for arguments in ([], ["--output", tmp_path / "kept"]):
        result = mnq("demo", *arguments)
        assert result.exit_code == 130
        assert list(tmp_path.iterdir()) == [short]
        assert not list(short.iterdir())


def test_a_difference_is_status_1_after_the_table(
    short: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def differing(*_: object) -> verify.Run:
        first = verify.Divergence("norm", "norm")
        return verify.Run("x", images=2, tensors=49, differing_tensors=1, first=first)

    monkeypatch.setattr(verify, "check_certificate", differing)
    result = mnq("demo", "--json")
    assert result.exit_code == 1
    assert [row["name"] for row in json.loads(result.stdout)["maps"]] == ["mixed"]
    assert not list(short.iterdir())
    assert "found a difference with mixed: tensor 'norm' of torch module" in result.stderr


def test_output_that_is_in_use_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for place in (tmp_path, tmp_path / "file"):
        assert "expected a new or an empty folder" in refused("demo", "--output", place)
    assert "found none at" in refused("demo", "--output", tmp_path / "no" / "kept")
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
