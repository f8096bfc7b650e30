import importlib.util
import json
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from mnq.cli.common import (
    Command,
    Screen,
    counted,
    map_text,
    need_train,
    new_folder,
    output_options,
)
from mnq.ops.errors import CheckFailed, EnvironmentLack, InputError


def run(error: BaseException | None = None, *arguments: str) -> Result:
    """Run a command whose work raises `error`, or prints every kind of output."""

    @click.command(cls=Command)
    @click.option("--size", type=click.IntRange(1, 9), default=1)
    @output_options
    def work(size: int, as_json: bool, quiet: bool) -> None:
        if error is not None:
            raise error
        screen = Screen(as_json, quiet)
        screen.note("a note " * 30)
        screen.warn("a warning")
        with screen.progress("working", 3) as advance:
            assert list(counted("abc", advance, len)) == ["a", "b", "c"]
        screen.result({"size": size}, f"size {size}")

    return CliRunner().invoke(work, list(arguments), prog_name="mnq-work", catch_exceptions=False)


@pytest.mark.parametrize(
    ("error", "status"), [(CheckFailed, 1), (InputError, 2), (EnvironmentLack, 3)]
)
def test_an_error_is_one_line_with_its_status(error: type[Exception], status: int) -> None:
    result = run(error("expected this,\n found   that; do so"))
    assert result.exit_code == status
    assert result.stdout == ""
    assert result.stderr == "mnq-work: error: expected this, found that; do so\n"


def test_ctrl_c_has_status_130() -> None:
    result = run(KeyboardInterrupt())
    assert result.exit_code == 130
    assert result.stderr == "mnq-work: interrupted; no file was left half-written\n"


def test_a_bug_is_not_hidden() -> None:
    with pytest.raises(ZeroDivisionError):
        run(ZeroDivisionError())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sizes", "1"], "No such option '--sizes'. Did you mean '--size'?"),
        (["--size"], "Option '--size' requires an argument"),
        (["--size", "x"], "Invalid value for '--size': 'x' is not a valid integer range"),
        (["--size", "10"], "Invalid value for '--size': 10 is not in the range 1<=x<=9"),
        (["x"], "Got unexpected extra argument (x)"),
    ],
)
def test_wrong_use_is_one_line_with_status_2(arguments: list[str], message: str) -> None:
    result = run(None, *arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr == f"mnq-work: error: {message}; see mnq-work --help\n"


def test_results_go_to_stdout_and_notes_to_stderr() -> None:
    result = run()
    assert result.stdout == "size 1\n"
    assert result.stderr.startswith("a note " * 30 + "\nwarning: a warning\n")  # not wrapped
    assert "3/3" in result.stderr


def test_quiet_prints_results_and_warnings_only() -> None:
    result = run(None, "--quiet")
    assert (result.stdout, result.stderr) == ("size 1\n", "warning: a warning\n")


def test_json_is_alone_on_stdout() -> None:
    result = run(None, "--json", "--size", "3")
    assert json.loads(result.stdout) == {"size": 3}
    assert result.stderr == "warning: a warning\n"


def test_need_train_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    need_train()
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(EnvironmentLack, match=r"found none; pip install 'mnq\[train\]'"):
        need_train()


def test_new_folder_appears_whole(tmp_path: Path) -> None:
    target = tmp_path / "new"
    with new_folder(target) as folder:
        (folder / "file").write_text("x")
        assert not target.exists()
    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*")] == [
        "new",
        "new/file",
    ]


def test_new_folder_may_be_there_if_empty(tmp_path: Path) -> None:
    target = tmp_path / "new"
    target.mkdir()
    with new_folder(target) as folder:
        (folder / "file").write_text("x")
    assert (target / "file").is_file()


@pytest.mark.parametrize("error", [InputError("no"), KeyboardInterrupt()])
def test_new_folder_leaves_nothing_after_an_error(tmp_path: Path, error: BaseException) -> None:
    with pytest.raises(type(error)), new_folder(tmp_path / "new") as folder:
        (folder / "file").write_text("x")
        raise error
    assert not list(tmp_path.iterdir())


def test_new_folder_without_a_target_is_removed() -> None:
    with new_folder(None) as folder:
        (folder / "file").write_text("x")
    assert not folder.exists()


def test_new_folder_refuses_a_place_in_use(tmp_path: Path) -> None:
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "file").touch()
    for path in (tmp_path / "used", tmp_path / "used" / "file", tmp_path / "no" / "new"):
        with pytest.raises(InputError, match=r"expected .*, found .*; "), new_folder(path):
            pass
    assert sorted(tmp_path.rglob("*")) == [tmp_path / "used", tmp_path / "used" / "file"]


def test_map_text_has_a_line_for_each_site() -> None:
    data = {
        "format": "f",
        "sites": {"a.b": {"method": "x"}, 'c"{': {"method": "}"}},
        "provenance": {},
    }
    text = map_text(data)
    assert json.loads(text) == data
    assert text.splitlines()[3] == '    "a.b": {"method": "x"},'
    assert len(text.splitlines()) == 8
    assert json.loads(map_text({"sites": {}})) == {"sites": {}}


def test_a_reader_that_leaves_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdout", sys.stdout)
    assert run(BrokenPipeError()).exit_code == 0
