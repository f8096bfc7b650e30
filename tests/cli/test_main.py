import subprocess
import sys

import pytest
from cli_runs import mnq
from click.testing import CliRunner

from mnq.cli.main import VERBS, main


def test_help_lists_every_verb_and_imports_none_of_them() -> None:
    code = (
        "import sys; from mnq.cli.main import main\n"
        "try: main(['--help'])\n"
        "finally: print({'torch', 'onnx', 'numpy'} & {*sys.modules}, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0
    assert done.stderr == "set()\n"
    assert all(f"  {verb} " in done.stdout for verb in VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_every_command_has_help_with_examples(verb: str) -> None:
    result = mnq(verb, "--help")
    assert result.exit_code == 0
    assert f"Usage: mnq-{verb} " in result.stdout
    assert "Examples:\n" in result.stdout
    assert f"  mnq-{verb}" in result.stdout.split("Examples:\n")[1]
    assert mnq(verb, "-h").stdout == result.stdout


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_is_the_command_of_that_name(verb: str) -> None:
    result = CliRunner().invoke(main, [verb, "--help"], prog_name="mnq", catch_exceptions=False)
    assert result.exit_code == 0
    assert result.stdout.replace(f"mnq {verb}", f"mnq-{verb}", 1) == mnq(verb, "--help").stdout


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["exprot"], "mnq: error: No such command 'exprot'"),
        (["--foo"], "mnq: error: No such option '--foo'"),
        (["qat"], "mnq qat: error: Missing option '--model'; see mnq qat --help"),
        (["verify", "nothing.onnx"], "mnq verify: error: model: expected an .onnx file"),
    ],
)
def test_wrong_use_is_one_line_with_status_2(arguments: list[str], message: str) -> None:
    result = CliRunner().invoke(main, arguments, prog_name="mnq", catch_exceptions=False)
    assert result.exit_code == 2
    assert len(result.stderr.splitlines()) == 1
    assert result.stderr.startswith(message)


def test_without_a_verb_the_help_is_shown() -> None:
    result = CliRunner().invoke(main, [], prog_name="mnq", catch_exceptions=False)
    assert result.exit_code == 2
    assert "Verbs:" in result.output
