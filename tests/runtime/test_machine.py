"""The processor's name, from Linux's list of processors or from what Python knows."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest

from mnq.runtime import machine

CPUINFO = """processor\t: 0
vendor_id\t: Acme
model name\t: Acme 9000: 2.5 GHz\t
processor\t: 1
model name\t: Other
"""


@pytest.fixture
def cpuinfo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "cpuinfo"
    monkeypatch.setattr(machine, "_CPUINFO", path)
    return path


def test_name_is_that_of_the_first_processor(cpuinfo: Path) -> None:
    cpuinfo.write_text(CPUINFO)
    assert machine.processor() == "Acme 9000: 2.5 GHz"


@pytest.mark.parametrize("text", [None, "", "processor: 0\nBogoMIPS: 50\n"])
def test_without_a_name_there_python_is_asked(
    text: str | None, cpuinfo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other systems have no such file, and on ARM it names no model."""
    if text is not None:
        cpuinfo.write_text(text)
    monkeypatch.setattr(platform, "processor", lambda: "arm")
    assert machine.processor() == "arm"
    monkeypatch.setattr(platform, "processor", lambda: "")
    monkeypatch.setattr(platform, "machine", lambda: "aarch64")
    assert machine.processor() == "aarch64"


def test_this_machine_has_a_name() -> None:
    assert machine.processor()
