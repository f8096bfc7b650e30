"""A process of its own: its answer, or how it ended."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from mnq.runtime import child
from mnq.runtime.child import ChildFailed


@pytest.fixture
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of a module `answers` that a child can import."""
    monkeypatch.setattr(sys, "path", [*sys.path, str(tmp_path)])
    return tmp_path / "answers.py"


def test_the_last_line_is_the_answer(module: Path) -> None:
    module.write_text('import sys; print("chatter"); print(\'{"given": "%s"}\' % sys.argv[1])')
    assert child.run("answers", 7) == {"given": "7"}


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("raise ValueError('no such thing')", "ValueError: no such thing"),
        ("print(3)", "status 0"),
        ("print('{}'); raise SystemExit(4)", "status 4"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "signal SIGKILL"),
    ],
)
def test_without_an_answer_it_says_how_the_process_ended(
    code: str, reason: str, module: Path
) -> None:
    module.write_text(code)
    with pytest.raises(ChildFailed, match=reason):
        child.run("answers")
