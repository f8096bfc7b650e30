"""The pages about operators are true: their examples run, their tables are the code's.

A page is a SPEC.md in a folder of ops/, or a file of docs/. The blocks fenced as `python` are run
in order, in one namespace per page, and print exactly the block fenced as `text` that follows each
(nothing, if none follows). Code that is not meant to run is fenced as `py`.
"""

import contextlib
import io
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from mnq.ops.body import DOMAIN, DOMAIN_VERSION
from mnq.ops.registry import OPERATORS

ROOT = Path(__file__).resolve().parents[2]
SPECS = sorted((ROOT / "ops").glob("*/SPEC.md"))
DOCS = sorted((ROOT / "docs").glob("*.md"))

EXAMPLE = re.compile(r"^```python\n(.*?)^```\n(?:\n*```text\n(.*?)^```$)?", re.M | re.S)
CODE_SPAN = re.compile(r"`(\w+)`")
LAYOUTS = ("Packed", "Window")
"""Layouts of attention that are part of an operator's name; the others are "separate"."""


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def pages_with_examples() -> Iterator[object]:
    for page in SPECS + DOCS:
        examples = EXAMPLE.findall(page.read_text())
        if examples:
            runs_onnx = any("onnxruntime" in code for code, _ in examples)
            marks = [pytest.mark.onnxruntime] if runs_onnx else []
            yield pytest.param(page, marks=marks, id=name_of(page))


def section(page: Path, heading: str) -> str:
    """The text under a `##` heading."""
    found = re.search(rf"^## {heading}\n(.*?)(?=^## |\Z)", page.read_text(), re.M | re.S)
    assert found, f"{name_of(page)}: expected a section '## {heading}', found none"
    return found[1]


def tables(text: str) -> list[list[list[str]]]:
    """Each table of a text as rows of cells, without its head."""
    found = re.findall(r"(?:^\|.*\|\n)+", text, re.M)
    return [
        [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()[2:]]
        for table in found
    ]


def operators_of(page: Path) -> list[str]:
    """The operators that a page defines: those of its paragraph "Domain `mnq`, version 1: ..."."""
    domain = re.search(r"^Domain `(\w+)`, version (\d+):((?:.+\n)+)", page.read_text(), re.M)
    assert domain, f"{name_of(page)}: expected a paragraph 'Domain `mnq`, version 1: `Name`.'"
    assert (domain[1], int(domain[2])) == (DOMAIN, DOMAIN_VERSION)
    return CODE_SPAN.findall(domain[3])


def inputs_in(page: Path, operator: str) -> tuple[str, ...]:
    """The inputs that a page lists for an operator.

    The first code span of a row names an input, further ones the only operators that have it.
    Names of layouts in parentheses, as in "(packed, window)", limit it to their operators: all else
    they have in common. A row without a code span stands for the operator's own row in the
    section's second table.
    """
    rows, *more = tables(section(page, "Inputs"))
    own = {
        CODE_SPAN.findall(row[0])[0]: CODE_SPAN.findall(row[1]) for table in more for row in table
    }
    layout = next((each for each in LAYOUTS if each in operator), "Separate")
    names: list[str] = []
    for row in rows:
        spans = CODE_SPAN.findall(row[0])
        limits = re.search(r"\(([a-z, ]+)\)", row[0])
        if limits and layout.lower() not in limits[1].split(", "):
            continue
        if not spans:
            names += own[operator.replace(layout, "")]
        elif not spans[1:] or operator in spans[1:]:
            names.append(spans[0])
    return tuple(names)


@pytest.mark.parametrize("page", list(pages_with_examples()))
def test_examples_of_the_page_print_what_it_shows(page: Path) -> None:
    text = page.read_text()
    namespace: dict[str, object] = {"__name__": "example"}
    for example in EXAMPLE.finditer(text):
        line = text.count("\n", 0, example.start(1))
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):  # a traceback names the page and its line
            exec(compile("\n" * line + example[1], str(page), "exec"), namespace)
        assert printed.getvalue() == (example[2] or ""), f"{name_of(page)}, line {line + 1}"


def test_every_operator_folder_has_a_page_with_an_example() -> None:
    folders = {path.parent for path in (ROOT / "ops").glob("*/op.py")}
    assert {page.parent for page in SPECS} == folders
    assert not [name_of(page) for page in SPECS if not EXAMPLE.search(page.read_text())]


def test_every_operator_is_defined_on_exactly_one_page() -> None:
    assert sorted(name for page in SPECS for name in operators_of(page)) == sorted(OPERATORS)


@pytest.mark.parametrize("page", SPECS, ids=name_of)
def test_tables_list_the_inputs_and_attributes_of_the_code(page: Path) -> None:
    attributes = tuple(
        CODE_SPAN.findall(row[0])[0]
        for table in tables(section(page, "Attributes"))
        for row in table
    )
    for operator in operators_of(page):
        assert inputs_in(page, operator) == OPERATORS[operator].inputs, operator
        assert attributes == OPERATORS[operator].attributes, operator
