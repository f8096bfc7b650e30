"""Doctor: what this machine has, what it lacks, and the command that mends it.

Imports the standard library only: it must run where a package of the base is missing.
"""

from __future__ import annotations

import json
import os
import platform
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mnq.ops.errors import EnvironmentLack
from mnq.ops.library import NAME, cpu_path, cuda_lacking, library_path, why_no_library

OK, WARNING, PROBLEM = "ok", "warning", "problem"

# Oldest versions, as in pyproject.toml.
PYTHON = (3, 11)
BASE = {"click": "8.1", "numpy": "1.26", "onnx": "1.17", "pillow": "10", "rich": "13"}
RUNTIME = "1.21"
TRAIN = {
    "jsonschema": "4.18",
    "matplotlib": "3.8",
    "onnx-graphsurgeon": "0.6",
    "safetensors": "0.4",
    "scikit-learn": "1.4",
    "timm": "1.0.15",
    "torch": "2.6",
    "torchvision": "0.21",
}
WHEELS = ("onnxruntime", "onnxruntime-gpu")
CUDA = "CUDAExecutionProvider"
CPU_FEATURES = ("avx2", "avx512_vnni", "avx512vbmi", "amx_int8")

CPUINFO = Path("/proc/cpuinfo")
QUOTA = Path("/sys/fs/cgroup/cpu.max")
TIMEOUT = 120  # seconds for one self-test; it takes about one

_EITHER = "  # or 'mnq[gpu]'"
_INSTALL = "pip install 'mnq[cpu]'"
_UPGRADE = "pip install -U onnxruntime  # or onnxruntime-gpu; or install mnq again"
_REINSTALL = f"pip uninstall -y {' '.join(WHEELS)} && {_INSTALL}"


@dataclass(frozen=True)
class Finding:
    """One check.

    status: OK, WARNING (something is slower or missing that models run without) or PROBLEM (no
    model runs right). remedy: the command that mends it, "" if there is none.
    """

    name: str
    status: str
    found: str
    remedy: str = ""

    def to_json(self) -> dict[str, str]:
        """The finding as a JSON object."""
        return asdict(self)


def examine() -> list[Finding]:
    """Check everything, in the order in which it should be mended."""
    base = [_package(name, least, PROBLEM) for name, least in BASE.items()]
    lacking = [finding.name for finding in base if finding.status == PROBLEM]
    wheel = _wheel()
    if lacking or wheel.status == PROBLEM:
        reason = f"not run: it needs {' and '.join(lacking) or 'a usable onnxruntime'}"
        tests = [Finding("self-test cpu", PROBLEM, reason)]
    else:
        tests = list(_self_tests())
    train = [_package(name, least, WARNING) for name, least in TRAIN.items()]
    return [_python(), _mnq(), *base, wheel, *tests, *train, _kernels(), *_gpu(), _cpu(), _cores()]


def _python() -> Finding:
    found = f"{platform.python_version()}, {platform.system()} {platform.machine()}"
    if sys.version_info[:2] >= PYTHON:
        return Finding("python", OK, found)
    least = ".".join(map(str, PYTHON))
    text = f"expected {least} or newer, found {found}"
    return Finding("python", PROBLEM, text, f"python{least} -m venv .venv  # and install mnq there")


def _mnq() -> Finding:
    version = _version("mnq")
    if version is not None:
        return Finding("mnq", OK, version)
    return Finding("mnq", WARNING, "not installed, runs from its sources", "pip install -e .")


def _version(name: str) -> str | None:
    """The installed version of a distribution, without importing it."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _older(version: str, least: str) -> bool:
    """Whether `version` is below `least`, by the numbers at its front."""

    def numbers(text: str) -> list[int]:
        front = re.match(r"\d+(\.\d+)*", text)
        return [int(part) for part in front.group().split(".")] if front else []

    return numbers(version) < numbers(least)


def _package(name: str, least: str, severity: str) -> Finding:
    version = _version(name)
    if version is not None and not _older(version, least):
        return Finding(name, OK, version)
    found = "none" if version is None else version
    remedy = f"pip install -U '{name}>={least}'"
    if severity == WARNING:
        remedy = "pip install -U 'mnq[train]'"
        found += "; only mnq-export and float models need it"
    return Finding(name, severity, f"expected {least} or newer, found {found}", remedy)


def _wheel() -> Finding:
    """Which onnxruntime is installed, by its metadata."""
    installed = {name: version for name in WHEELS if (version := _version(name)) is not None}
    found = " and ".join(f"{name} {version}" for name, version in installed.items())
    if len(installed) > 1:
        text = f"expected one of the two, found {found}: they overwrite each other's files"
        return Finding("onnxruntime", PROBLEM, text, _REINSTALL + _EITHER)
    if not installed:
        spec = find_spec("onnxruntime")
        if spec is not None and spec.origin is not None:  # None: a folder left by an uninstall
            return Finding("onnxruntime", OK, "a build that is neither onnxruntime nor -gpu")
        text = f"expected {RUNTIME} or newer, found none"
        return Finding("onnxruntime", PROBLEM, text, _INSTALL + _EITHER)
    ((name, version),) = installed.items()
    if _older(version, RUNTIME):
        text = f"expected {RUNTIME} or newer, found {found}"
        return Finding("onnxruntime", PROBLEM, text, f"pip install -U '{name}>={RUNTIME}'")
    return Finding("onnxruntime", OK, found)


def _self_tests() -> Iterator[Finding]:
    """Providers, and a self-test on the CPU and on CUDA where that is listed."""
    answer, log = _run_self_test("cpu")
    if "error" in answer:
        yield Finding("self-test cpu", PROBLEM, answer["error"], _REINSTALL + _EITHER)
        return
    yield Finding("providers", OK, f"{', '.join(answer['providers'])} (of {answer['version']})")
    yield _verdict("cpu", answer, PROBLEM)
    if answer["refusal"]:
        found = f"{answer['refusal'].rpartition('; ')[0]}, so models are slow"
        yield Finding("kernels in onnxruntime", WARNING, found, _UPGRADE)
    if CUDA not in answer["providers"]:
        return
    answer, log = _run_self_test("cuda")
    if "error" not in answer:
        yield _verdict("cuda", answer, WARNING)
        return
    missing = re.search(r"with error: (\S+): cannot open shared object", log)
    library = missing.group(1) if missing else ""
    found = f"{CUDA} is listed but does not start: "
    if library.startswith("libcuda.so"):
        found += f"{library} is missing, which comes with NVIDIA's driver"
        remedy = f"{_REINSTALL}  # or install the driver"
    else:
        found += f"{library} is missing" if library else answer["error"]
        remedy = "pip install -U 'onnxruntime-gpu[cuda,cudnn]'"
    yield Finding("self-test cuda", WARNING, found, remedy)


def _verdict(provider: str, answer: dict[str, Any], severity: str) -> Finding:
    levels: dict[str, str] = answer["levels"]
    wrong = {level: reason for level, reason in levels.items() if reason}
    name = f"self-test {provider}"
    if not wrong:
        return Finding(name, OK, f"right integers at levels {', '.join(levels)}")
    level, reason = next(iter(wrong.items()))
    found = f"wrong integers at {len(wrong)} of {len(levels)} levels; {level}: {reason}"
    wheel = next((wheel for wheel in WHEELS if _version(wheel) is not None), None)
    remedy = f"pip install -U {wheel}" if wheel else _REINSTALL + _EITHER
    return Finding(name, severity, found, remedy)


def _run_self_test(provider: str) -> tuple[dict[str, Any], str]:
    """The answer of `mnq.runtime.selftest` in a process of its own, and what it logged."""
    command = [sys.executable, "-P", "-m", "mnq.runtime.selftest", provider]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=TIMEOUT
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return {"error": f"the self-test did not end: {error}"}, ""
    try:
        answer = json.loads(done.stdout.splitlines()[-1])
        if isinstance(answer, dict):
            return answer, done.stderr
    except (IndexError, ValueError):
        pass
    return {"error": f"the self-test ended with {_ending(done)}"}, done.stderr


def _ending(done: subprocess.CompletedProcess[str]) -> str:
    if done.returncode < 0:
        return f"signal {signal.Signals(-done.returncode).name}"
    lines = done.stderr.strip().splitlines()
    return f"status {done.returncode}: {lines[-1] if lines else 'no message'}"


def _kernels() -> Finding:
    """The native library, and the inner loops that it chooses on this CPU."""
    try:
        library = library_path()
        if library is not None:
            return Finding("kernels", OK, f"{library}, path {cpu_path(library)}")
        lack = f"expected {NAME}, found none, so models are slow: {why_no_library()}"
    except EnvironmentLack as error:
        lack = str(error)
    found, _, remedy = lack.rpartition("; ")
    return Finding("kernels", WARNING, found, remedy)


def _gpu() -> Iterator[Finding]:
    """The kernels for GPUs, which only an onnxruntime with CUDA can use."""
    try:
        library = library_path()
        lacking = "" if library is None else cuda_lacking(library)
    except EnvironmentLack:
        return  # as the kernels' own finding says
    if library is None:
        return
    wanted = _version("onnxruntime-gpu") is not None
    found, _, remedy = lacking.partition("; ")
    if lacking and wanted:
        yield Finding("kernels for GPUs", WARNING, found, remedy)
    else:
        yield Finding("kernels for GPUs", OK, found or "they run here")


def _cpu() -> Finding:
    try:
        text = CPUINFO.read_text(errors="replace")
    except OSError:
        return Finding("cpu", OK, f"{platform.machine()}, features not known on this system")
    line = re.search(r"^(?:flags|Features)\s*:\s*(.*)$", text, re.MULTILINE)
    features = set(line.group(1).split()) if line else set()
    states = [f"{name} {'yes' if name in features else 'no'}" for name in CPU_FEATURES]
    if platform.machine() not in ("x86_64", "AMD64"):
        return Finding("cpu", OK, platform.machine())
    if "avx2" not in features:
        return Finding("cpu", WARNING, f"{', '.join(states)}: right integers, but slow")
    return Finding("cpu", OK, ", ".join(states))


def _cores() -> Finding:
    cores = os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    try:
        quota, period = QUOTA.read_text().split()
        allowed = max(1, int(quota) // int(period))
    except (OSError, ValueError, ZeroDivisionError):  # no limit reads "max 100000"
        allowed = cores
    if allowed >= cores:
        return Finding("cores", OK, str(cores))
    found = f"{cores}, but this container may use the time of {allowed}"
    return Finding("cores", WARNING, found, f"add --threads {allowed} to mnq-verify and mnq-eval")
