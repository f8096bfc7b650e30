"""The toolchain knows operators, not models: no architecture has code of its own."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

FOLDER = Path(__file__).resolve().parents[2] / "toolchain"
SOURCES = sorted(FOLDER.glob("*.py"))

ARCHITECTURE = re.compile(r"vit|deit|swin|beit|dino|timm", re.IGNORECASE)
METHODS = re.compile(r"i-?vit|f?q-?vit", re.IGNORECASE)  # named after their papers
PACKAGE = {"export.py": {"timm"}, "peers.py": {"timm"}}  # whose version they record


def words(source: str) -> Iterator[tuple[int, str]]:
    """Identifiers, and strings that are no docstrings."""
    tree = ast.parse(source)
    docs = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    docs |= {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        line = getattr(node, "lineno", 0)
        if isinstance(node, ast.Constant):
            if isinstance(node.value, str) and id(node) not in docs:
                yield line, node.value
            continue
        for field in ("id", "attr", "arg", "name", "asname", "module"):
            value = getattr(node, field, None)
            if isinstance(value, str):
                yield line, value


def offences(source: str) -> list[tuple[int, str]]:
    return [(n, word) for n, word in words(source) if ARCHITECTURE.search(METHODS.sub("", word))]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_no_architecture_is_named_in_code(path: Path) -> None:
    allowed = PACKAGE.get(path.name, set())
    found = [(line, word) for line, word in offences(path.read_text()) if word not in allowed]
    assert not found


@pytest.mark.parametrize(
    "line",
    ["def swin(): ...", "x = 'deit_t'", "y.vit = 1", "import timm", "f(beit=1)", "class DinoV2: 1"],
)
def test_this_check_sees_names(line: str) -> None:
    assert offences(line)


def test_this_check_allows_methods_and_docs() -> None:
    assert not offences('"""Seen with DeiT."""\nm = "uniform:ivit"\nIVitGelu = "fqvit"  # Swin')


def test_there_is_something_to_check() -> None:
    assert len(SOURCES) > 10
