"""Messages: one line of bounded length, whatever is quoted in them."""

from __future__ import annotations

import pytest

from mnq.ops.errors import CheckFailed, EnvironmentLack, InputError, MnqError, one_line, printable


def test_printable_keeps_text_and_escapes_the_rest() -> None:
    assert printable("Größe 犬.jpg") == "Größe 犬.jpg"
    assert printable("a\nb\x1b[31m\udcff") == r"a\nb\x1b[31m\udcff"


def test_one_line_has_single_spaces() -> None:
    assert one_line("a\n b\t\x1b[2J\ud800\u202e") == r"a b \x1b[2J\ud800\u202e"
    assert one_line("größe") == "größe"


@pytest.mark.parametrize(
    ("kind", "status"), [(MnqError, 1), (CheckFailed, 1), (InputError, 2), (EnvironmentLack, 3)]
)
def test_a_message_is_one_printable_line(kind: type[MnqError], status: int) -> None:
    error = kind("x: expected this,\n  found \x1b[31m\ud800; do\tso")
    assert str(error) == r"x: expected this, found \x1b[31m\ud800; do so"
    assert error.exit_status == status


def test_a_long_message_keeps_its_beginning_and_what_to_do() -> None:
    text = str(InputError(f"map: expected a name, found {'n' * 5000}; choose another one"))
    assert len(text) == 800
    assert text.startswith("map: expected a name, found nnn")
    assert " ... nnn" in text and text.endswith("nnn; choose another one")
    exactly = "x" * 800
    assert str(InputError(exactly)) == exactly
