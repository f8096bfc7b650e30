"""The processor's name, from Linux's list of processors or from what Python knows."""

from __future__ import annotations

import os
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


def test_features_are_those_that_matter(cpuinfo: Path) -> None:
    cpuinfo.write_text("flags\t\t: fpu avx2 sse avx512_vnni amx_int8\nflags\t\t: other\n")
    assert machine.features() == ["avx2", "avx512_vnni", "amx_int8"]
    cpuinfo.write_text("Features\t: fp asimd asimddp\n")
    assert machine.features() == ["asimddp"]
    cpuinfo.write_text("")
    assert machine.features() == []
    cpuinfo.unlink()
    assert machine.features() == []


def test_seconds_worked_are_all_but_idle_and_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also those that the host took away; guests' seconds are among the first two."""
    path = tmp_path / "stat"
    monkeypatch.setattr(machine, "_STAT", path)
    monkeypatch.setattr(os, "sysconf", lambda name: 100)
    path.write_text("cpu  100 20 30 9999 8888 4 5 41 70 7\ncpu0 1 2 3\n")
    assert machine.busy_seconds() == 2.0
    path.write_text("intr 1\n")
    assert machine.busy_seconds() is None
    path.unlink()
    assert machine.busy_seconds() is None


def test_peak_memory_grows_with_what_is_held() -> None:
    held = bytearray(b"x" * (100 << 20))
    assert machine.peak_bytes() > len(held)


def test_without_a_status_file_the_system_call_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = machine.peak_bytes()
    monkeypatch.setattr(machine, "_STATUS", tmp_path / "none")
    assert 0.5 < machine.peak_bytes() / known < 20  # it may be a parent's


def test_this_machine_has_cores_and_counts_preemptions() -> None:
    assert machine.cores() >= 1
    assert machine.preemptions() >= 0
