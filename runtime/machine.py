"""Machine: what a measurement says about where it was made."""

from __future__ import annotations

import os
import platform
import re
import sys
from pathlib import Path

if sys.platform != "win32":
    import resource

_CPUINFO = Path("/proc/cpuinfo")
_STATUS = Path("/proc/self/status")
_STAT = Path("/proc/stat")

FEATURES = (
    *("avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16"),
    *("amx_tile", "amx_int8", "amx_bf16", "asimddp", "i8mm", "bf16", "sve"),
)
"""Instruction sets as Linux names them, x86 and ARM."""


def processor() -> str:
    """The processor's name, as far as the system tells it."""
    if _CPUINFO.exists():
        for line in _CPUINFO.read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def features() -> list[str]:
    """Which of the instruction sets that matter to integers the processor has; [] if unknown."""
    try:
        text = _CPUINFO.read_text(errors="replace")
    except OSError:
        return []
    line = re.search(r"^(?:flags|Features)\s*:\s*(.*)$", text, re.MULTILINE)
    found = set(line.group(1).split()) if line else set()
    return [name for name in FEATURES if name in found]


def cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def preemptions() -> int:
    """How often threads of this process were made to wait for others; 0 where nobody counts."""
    if sys.platform == "win32":
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw


def peak_bytes() -> int:
    """The most memory that this process has held, in bytes; 0 where nobody counts.

    Linux hands ru_maxrss on from a process to the programs that it starts, so a small child of
    a large parent would seem large; VmHWM is the child's own.
    """
    if _STATUS.exists():
        line = re.search(r"^VmHWM:\s*(\d+) kB", _STATUS.read_text(), re.MULTILINE)
        if line:
            return int(line.group(1)) * 1024
    if sys.platform == "win32":
        return 0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def busy_seconds() -> float | None:
    """Seconds that all processors together have worked, or were taken from this machine, since
    it started; None where the system does not tell.
    """
    try:
        _cpu, *ticks = _STAT.read_text().split("\n", 1)[0].split()
        user, nice, system, _idle, _wait, irq, softirq, stolen = map(int, ticks[:8])
    except (OSError, ValueError):
        return None
    return (user + nice + system + irq + softirq + stolen) / os.sysconf("SC_CLK_TCK")
