import json

import pytest
from click.testing import CliRunner, Result

from mnq.cli.doctor import main
from mnq.runtime import doctor
from mnq.runtime.doctor import OK, PROBLEM, WARNING, Finding

FINE = Finding("python", OK, "3.11.7, Linux x86_64")
SLOW = [
    Finding(name, WARNING, "expected 1 or newer, found none", "pip install -U 'mnq[train]'")
    for name in ("timm", "torch")
]
BAD = Finding("onnxruntime", PROBLEM, "expected [one], found [/none]", "pip install 'mnq[cpu]'")


def doctor_finds(
    monkeypatch: pytest.MonkeyPatch, findings: list[Finding], *arguments: str
) -> Result:
    monkeypatch.setattr(doctor, "examine", lambda: findings)
    return CliRunner().invoke(main, list(arguments))


def test_a_fine_machine_has_status_0(monkeypatch: pytest.MonkeyPatch) -> None:
    result = doctor_finds(monkeypatch, [FINE])
    assert result.exit_code == 0
    assert "3.11.7, Linux x86_64" in result.stdout
    assert "To mend" not in result.stdout


def test_warnings_have_status_0_and_one_command_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    result = doctor_finds(monkeypatch, [FINE, *SLOW])
    assert result.exit_code == 0
    assert result.stdout.endswith("\nTo mend timm, torch:\n  pip install -U 'mnq[train]'\n")


def test_a_problem_has_status_3_and_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    result = doctor_finds(monkeypatch, [FINE, BAD, *SLOW])
    assert result.exit_code == 3
    assert "expected [one], found [/none]" in result.stdout  # brackets are no markup
    assert "  pip install 'mnq[cpu]'\n" in result.stdout
    assert result.stderr.splitlines()[-1] == (
        "main: error: doctor: expected a machine that runs models, found a problem with "
        "onnxruntime; first pip install 'mnq[cpu]'"
    )


def test_long_commands_are_not_wrapped(monkeypatch: pytest.MonkeyPatch) -> None:
    remedy = "pip install " + " ".join(f"package-{i}" for i in range(40))
    result = doctor_finds(monkeypatch, [Finding("x", WARNING, "y", remedy)])
    assert f"  {remedy}\n" in result.stdout


@pytest.mark.parametrize("findings", [[FINE], [FINE, BAD]])
def test_json_is_the_only_output(monkeypatch: pytest.MonkeyPatch, findings: list[Finding]) -> None:
    result = doctor_finds(monkeypatch, findings, "--json")
    assert json.loads(result.stdout) == {
        "passed": len(findings) == 1,
        "findings": [finding.to_json() for finding in findings],
    }
    assert result.exit_code == (0 if len(findings) == 1 else 3)


def test_quiet_prints_the_table_only(monkeypatch: pytest.MonkeyPatch) -> None:
    result = doctor_finds(monkeypatch, [FINE], "--quiet")
    assert result.stderr == ""
    assert "python" in result.stdout


def test_help_shows_examples() -> None:
    result = CliRunner().invoke(main, ["--help"])
    assert result.exit_code == 0
    assert "Examples:\n    mnq-doctor  " in result.stdout


@pytest.mark.onnxruntime
def test_this_machine_runs_models() -> None:
    result = CliRunner().invoke(main, ["--json"])
    assert result.exit_code == 0, result.output
    statuses = {f["name"]: f["status"] for f in json.loads(result.stdout)["findings"]}
    assert statuses["self-test cpu"] == OK
