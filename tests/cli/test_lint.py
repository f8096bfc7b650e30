"""mnq-lint: status, texts, JSON, and clean errors."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest
from click.testing import CliRunner, Result
from onnx import TensorProto, helper

from mnq.cli.lint import main


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(a) for a in arguments])


@pytest.fixture
def divides(tmp_path: Path) -> Path:
    """A model with one warning."""
    x, y = (helper.make_tensor_value_info(n, TensorProto.INT32, [2]) for n in "xy")
    graph = helper.make_graph([helper.make_node("Div", ["x", "x"], ["y"])], "g", [x], [y])
    path = tmp_path / "divides.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)]), path)
    return path


def test_warnings_pass_and_strict_fails_on_them(divides: Path) -> None:
    result = run(divides)
    assert result.exit_code == 0 and "truncating-division" in result.stdout
    result = run(divides, "--strict")
    assert result.exit_code == 1
    assert "expected a model without findings, found 1" in result.stderr


def test_json_holds_every_finding(divides: Path) -> None:
    payload = json.loads(run(divides, "--strict", "--json").stdout)
    assert payload["passed"] is False
    assert [finding["rule"] for finding in payload["findings"]] == ["truncating-division"]


def test_missing_and_broken_files_are_one_line(tmp_path: Path) -> None:
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"\xff" * 100)
    for path in (tmp_path / "none.onnx", broken):
        result = run(path)
        assert result.exit_code == 2
        assert result.stderr.startswith("mnq-lint: error:") or "error" in result.stderr
        assert len(result.stderr.strip().splitlines()) == 1
