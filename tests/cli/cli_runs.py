"""Runs the commands as a user does, and says what an error has to look like."""

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result


@dataclass(frozen=True)
class Digits:
    """Files of the digits model in one folder."""

    root: Path

    @property
    def train(self) -> Path:
        return self.root / "train"

    @property
    def test(self) -> Path:
        return self.root / "test"

    @property
    def onnx(self) -> Path:
        return self.root / "digits.onnx"

    @property
    def calib(self) -> Path:
        return self.root / "calib.safetensors"


def mnq(verb: str, *arguments: object) -> Result:
    """Run a command in this process. An exception that it does not handle fails the test."""
    command = import_module(f"mnq.cli.{verb}").main
    words = [str(argument) for argument in arguments]
    return CliRunner().invoke(command, words, prog_name=f"mnq-{verb}", catch_exceptions=False)


def start(verb: str, *arguments: object, before: str = "", **env: str) -> subprocess.Popen[str]:
    """Start a command as a process of its own; `before` is Python to run first."""
    code = f"import sys; sys.argv[0] = 'mnq-{verb}'\n{before}\n"
    code += f"from mnq.cli.{verb} import main; main()"
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **env},
    )


def refused(*words: object, status: int = 2) -> str:
    """Run a command that must refuse; return its error, which must be one helpful line.

    It says what was expected and what was found, and after a semicolon what to do.
    """
    verb, *arguments = words
    result = mnq(str(verb), *arguments, "--quiet")
    assert result.exit_code == status, result.output
    assert result.stdout == ""
    lines = result.stderr.splitlines()
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith(f"mnq-{verb}: error: ")
    assert "; " in lines[0]
    assert ("expected" in lines[0] and "found" in lines[0]) or lines[0].endswith("--help")
    return lines[0]


def payload(result: Result) -> dict[str, Any]:
    """The JSON object that a command with --json printed."""
    assert result.exit_code == 0, result.output
    decoded: dict[str, Any] = json.loads(result.stdout)
    return decoded


def faulty_library(folder: Path) -> Path:
    """The native library with a wrong kernel, of `cli_fault.cc` and the objects of `make native`.

    Skips the test where those are not there.
    """
    root = Path(__file__).parents[2]
    build = root / "build" / "native"
    objects = sorted(build.glob("CMakeFiles/mnq_*.dir/**/*.o"))
    compiler = shutil.which("g++")
    if not objects or compiler is None or sys.platform != "linux":
        pytest.skip(f"missing objects: {build}, from make native, and g++ on Linux")
    library = folder / "libmnq_fault.so"
    command = [
        compiler,
        "-std=c++17",
        "-O1",
        "-fPIC",
        "-shared",
        "-fvisibility=hidden",
        f"-I{root}",
    ]
    command += [str(Path(__file__).with_name("cli_fault.cc")), *map(str, objects)]
    command += ["-Wl,--wrap=_ZN3mnq11definitionsEv", "-pthread", "-o", str(library)]
    command += [f"-Wl,--version-script={root / 'ops/native/exports.map'}"]
    cache = (build / "CMakeCache.txt").read_text()
    runtime = re.search(r"^CUDA_cudart_static_LIBRARY:FILEPATH=(/.*)$", cache, re.MULTILINE)
    if runtime is not None:  # the objects have kernels for GPUs
        command += [runtime.group(1), "-ldl", "-lrt"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-4000:]
    return library
