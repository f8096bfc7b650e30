"""The commands of docs/ are true: those of `console` blocks run and print what the page shows.

Figures may differ between machines, so digits are compared as `#`; progress bars are left out.
Blocks fenced as `sh` need data that is not here: their commands and options have to exist.
"""

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cli_runs import Digits, mnq

from mnq.ops.kernels import paths
from mnq.toolchain import map as maps

pytestmark = pytest.mark.onnxruntime

DOCS = Path(__file__).resolve().parents[2] / "docs"
PAGES = [DOCS / name for name in ("commands.md", "map.md", "assign.md", "qat.md", "models.md")]
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.M | re.S)
MAPS: dict[str, dict[str, Any]] = {
    "wrong_site.json": {"sites": {"blocks.0.mlp": {"method": "lut"}}},
    "wrong_method.json": {"sites": {"blocks.0.mlp.act": {"method": "fqvit"}}},
    "wrong_key.json": {"bits": {"weight": 8}},
}


def blocks(page: Path, language: str) -> list[str]:
    return [text for name, text in BLOCK.findall(page.read_text()) if name == language]


def sessions(page: Path) -> Iterator[tuple[str, str]]:
    """Each command of a page, without its prompt, and the output that it shows."""
    for block in blocks(page, "console"):
        for part in re.split(r"^\$ ", block, flags=re.M)[1:]:
            command, _, output = part.partition("\n")
            yield command, output


def masked(text: str) -> list[str]:
    """The lines with every number as `#`, aligned columns as one space, and no progress.

    Kernels' paths that this machine lacks are left out.
    """
    lacking = re.compile(rf"(not run: )?kernels, (?!cuda|{'|'.join(paths())})")
    lines = [
        " ".join(re.sub(r"\d+", "#", line).split())
        for line in text.splitlines()
        if not lacking.match(line)
    ]
    return [line for line in lines if line and "\N{BOX DRAWINGS HEAVY HORIZONTAL}" not in line]


@pytest.fixture
def workplace(exported: Digits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with what `mnq-demo --output digits` leaves behind, and some wrong maps."""
    (tmp_path / "digits").mkdir()
    for name in ("train", "test"):
        (tmp_path / "digits" / name).symlink_to(exported.root / name)
    (tmp_path / "digits" / "mixed.onnx").symlink_to(exported.onnx)
    for name, entries in MAPS.items():
        text = json.dumps({"format": "mnq-map/1", "model": "digits", **entries})
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)


def run(command: str) -> str:
    """Run a command line as a shell does and return all that it prints."""
    name, *words = shlex.split(command)
    target = None
    if ">" in words:
        words, (target,) = words[: words.index(">")], words[words.index(">") + 1 :]
    result = mnq(name.removeprefix("mnq-"), *words)
    if target is None:
        return result.output
    Path(target).write_text(result.stdout)
    return result.stderr


@pytest.mark.slow
@pytest.mark.native  # the page of mnq-verify shows its rows
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_sessions_print_what_the_page_shows(page: Path, workplace: None) -> None:
    for command, shown in sessions(page):
        if not command.startswith("mnq-demo"):  # has a test of its own
            assert masked(run(command)) == masked(shown), command


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_and_options_of_the_page_exist(page: Path) -> None:
    lines = [command for command, _ in sessions(page)]
    lines += [line for block in blocks(page, "sh") for line in block.splitlines()]
    assert lines
    for line in lines:
        name, *words = shlex.split(line)
        if name == "torchrun":  # its own options, and then a module of ours
            module, *words = words[words.index("-m") + 1 :]
            name = module.removeprefix("mnq.cli.")
        subcommand = words[:1] if name == "mnq-report" else []
        help_text = mnq(name.removeprefix("mnq-"), *subcommand, "--help").stdout
        for option in (word for word in words if word.startswith("--")):
            assert f"  {option}" in help_text, line


@pytest.mark.parametrize(
    "verb", ["demo", "assign", "export", "qat", "search", "verify", "lint", "eval", "bench"]
)
def test_every_option_of_a_command_is_on_its_page(verb: str) -> None:
    (page,) = re.findall(rf"^## mnq-{verb}\n(.*?)(?=^## |\Z)", PAGES[0].read_text(), re.M | re.S)
    shared = {"--json", "--quiet", "--help"}
    options = re.findall(r"^  (?:-h, )?(--[\w-]+)", mnq(verb, "--help").stdout, re.M)
    for option in set(options) - shared:
        assert f"`{option}" in page, option


def test_maps_of_the_page_are_valid() -> None:
    examples = [json.loads(block) for block in blocks(DOCS / "map.md", "json")]
    assert examples
    for example in examples:
        maps.from_json(example, example["model"], "docs/map.md")
