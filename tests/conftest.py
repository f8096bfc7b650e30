"""What the tests need from outside the repository, and a loud count of the tests it stopped.

A test that lacks something is skipped with the reason `missing <kind>: <what, and where it was
looked for>`; the end of every run counts those reasons, so that a short run never looks whole.
"""

import importlib.util
import os
import sys
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))  # for fuzz_cases.py and fake_gpu.py

ROOT = Path(__file__).resolve().parent.parent
SHARED = Path(os.environ.get("MNQ_SHARED", ROOT.parent / "shared"))

DATA_FILES = {
    "deit_tiny_patch16_224.safetensors": "DeiT-T float weights",
    "imagenet_calib_1000.zip": "1000 ImageNet training images, for calibration",
    "imagenet_eval_500.zip": "500 labelled photographs, for evaluation only",
    "cifar10.zip": "CIFAR-10 as JPEG",
}


def existing(path: Path, content: str) -> Path:
    """Return `path`, or skip the calling test with a reason that names it."""
    if not path.exists():
        pytest.skip(f"missing data: {path} ({content})")
    return path


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real weights and images."""
    return existing(SHARED / "data", "real weights and images")


@pytest.fixture(scope="session")
def shared_file(shared_data: Path) -> Callable[[str], Path]:
    """A function from a name in DATA_FILES to the file's path; it skips if there is no file."""
    return lambda name: existing(shared_data / name, DATA_FILES[name])


@pytest.fixture(scope="session")
def golden_dir() -> Path:
    """The folder of test vectors made with the published implementations."""
    return existing(SHARED / "golden", "test vectors of the published implementations")


@cache
def lacking(marker: str) -> str | None:
    """Say what a test with this marker lacks on this machine; None if it can run."""
    if marker == "onnxruntime" and importlib.util.find_spec("onnxruntime") is None:
        return "missing onnxruntime: install the extra cpu or gpu"
    if marker == "native":
        from mnq.ops.library import library_path, why_no_library

        if library_path() is None:
            return f"missing native library: {why_no_library()}"
    if marker == "gpu":
        if importlib.util.find_spec("torch") is None:
            return "missing GPU: torch, which would find one, is not installed"
        import torch

        if not torch.cuda.is_available():
            return "missing GPU: torch.cuda finds none"
    return None


def pytest_configure() -> None:
    if "MNQ_SHARED" in os.environ and not SHARED.is_dir():
        raise pytest.UsageError(f"MNQ_SHARED names a folder that does not exist: {SHARED}")


@pytest.hookimpl(tryfirst=True)  # before -m selects
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if {"shared_data", "golden_dir"} & set(getattr(item, "fixturenames", ())):
            item.add_marker("data")


def pytest_runtest_setup(item: pytest.Item) -> None:
    for marker in item.iter_markers():
        if reason := lacking(marker.name):
            pytest.skip(reason)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reasons = Counter(
        report.longrepr[2].removeprefix("Skipped: ")
        for report in terminalreporter.stats.get("skipped", [])
        if isinstance(report.longrepr, tuple)
    )
    if not reasons:
        return
    terminalreporter.section("NOT RUN", sep="!", yellow=True, bold=True)
    for reason, count in sorted(reasons.items()):
        terminalreporter.line(f"{count:5} x {reason}", yellow=True)
    kinds = Counter[str]()
    for reason, count in reasons.items():
        kind = reason.partition(":")[0] if reason.startswith("missing ") else "other reasons"
        kinds[kind] += count
    parts = ", ".join(f"{count} for {kind}" for kind, count in sorted(kinds.items()))
    terminalreporter.line(f"{reasons.total()} tests did not run: {parts}", yellow=True, bold=True)
