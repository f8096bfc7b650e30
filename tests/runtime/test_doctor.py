import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mnq.ops.errors import EnvironmentLack
from mnq.runtime import doctor
from mnq.runtime.doctor import CUDA, OK, PROBLEM, WARNING, Finding, examine

PYPROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())
COMPLETE = {**doctor.BASE, **doctor.TRAIN, "mnq": "0.1.0", "onnxruntime": "1.31.1"}
LEVELS = dict.fromkeys(("disabled", "basic", "extended", "all"), "")
RIGHT = {
    "version": "1.31.1",
    "providers": ["CPUExecutionProvider"],
    "levels": LEVELS,
    "refusal": "",
}
WITH_CUDA = {**RIGHT, "providers": [CUDA, "CPUExecutionProvider"]}

Machine = Callable[..., dict[str, Finding]]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Machine:
    """A function that examines a machine with these distributions and self-test answers."""

    def examined(
        versions: dict[str, str], cpu: Any = RIGHT, cuda: Any = None, log: str = ""
    ) -> dict[str, Finding]:
        answers = {"cpu": cpu, "cuda": cuda}
        monkeypatch.setattr(doctor, "_version", versions.get)
        monkeypatch.setattr(doctor, "_run_self_test", lambda provider: (answers[provider], log))
        return {finding.name: finding for finding in examine()}

    monkeypatch.setattr(doctor, "library_path", lambda: Path("/x/libmnq_ops.so"))
    monkeypatch.setattr(doctor, "cpu_path", lambda library: "avx512")
    monkeypatch.setattr(doctor, "cuda_lacking", lambda library: "")
    monkeypatch.setattr(doctor, "CPUINFO", tmp_path / "cpuinfo")
    monkeypatch.setattr(doctor, "QUOTA", tmp_path / "cpu.max")
    return examined


def without(*names: str) -> dict[str, str]:
    return {name: version for name, version in COMPLETE.items() if name not in names}


def test_oldest_versions_are_those_of_pyproject() -> None:
    project = PYPROJECT["project"]
    extras = project["optional-dependencies"]

    def least(lines: list[str]) -> dict[str, str]:
        return dict(line.split(";")[0].split(">=") for line in lines)

    assert least(project["dependencies"]) == doctor.BASE
    assert least(extras["train"]) == doctor.TRAIN
    assert least(extras["cpu"] + extras["gpu"]) == dict.fromkeys(doctor.WHEELS, doctor.RUNTIME)
    assert project["requires-python"] == ">=" + ".".join(map(str, doctor.PYTHON))


def test_importing_the_doctor_needs_the_standard_library_only() -> None:
    code = "import sys, mnq.runtime.doctor; print(*sys.modules)"
    loaded = subprocess.check_output([sys.executable, "-c", code], text=True).split()
    assert not {"click", "numpy", "onnx", "onnxruntime", "rich", "torch"} & set(loaded)


def test_a_complete_machine_has_nothing_to_mend(machine: Machine) -> None:
    found = machine(COMPLETE)
    assert {finding.status for finding in found.values()} == {OK}
    assert not any(finding.remedy for finding in found.values())
    assert {"python", "mnq", "providers", "self-test cpu", "cpu", "cores"} < set(found)
    assert found["onnxruntime"].found == "onnxruntime 1.31.1"
    assert found["self-test cpu"].found.endswith("disabled, basic, extended, all")


@pytest.mark.parametrize(
    ("versions", "found", "remedy"),
    [
        (without("onnxruntime"), "found none", "pip install 'mnq[cpu]'  # or 'mnq[gpu]'"),
        (
            COMPLETE | {"onnxruntime-gpu": "1.30"},
            "found onnxruntime 1.31.1 and onnxruntime-gpu 1.30: they overwrite each other",
            "pip uninstall -y onnxruntime onnxruntime-gpu && pip install 'mnq[cpu]'",
        ),
        (COMPLETE | {"onnxruntime": "1.20.2"}, "1.21 or newer, found onnxruntime 1.20.2",
         "pip install -U 'onnxruntime>=1.21'"),
        (without("onnxruntime") | {"onnxruntime-gpu": "1.9"}, "found onnxruntime-gpu 1.9",
         "pip install -U 'onnxruntime-gpu>=1.21'"),
    ],
)  # fmt: skip
def test_without_one_usable_runtime_no_model_runs(
    machine: Machine, monkeypatch: pytest.MonkeyPatch,
    versions: dict[str, str], found: str, remedy: str,
) -> None:  # fmt: skip
    monkeypatch.setattr(doctor, "find_spec", lambda name: SimpleNamespace(origin=None))
    findings = machine(versions)
    assert findings["onnxruntime"].status == PROBLEM
    assert found in findings["onnxruntime"].found
    assert findings["onnxruntime"].remedy.startswith(remedy)
    not_run = "not run: it needs a usable onnxruntime"
    assert findings["self-test cpu"] == Finding("self-test cpu", PROBLEM, not_run)
    assert "providers" not in findings


def test_a_build_of_another_name_is_tested_too(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "find_spec", lambda name: SimpleNamespace(origin="/x/__init__.py"))
    findings = machine(without("onnxruntime"))
    assert findings["onnxruntime"].status == findings["self-test cpu"].status == OK


@pytest.mark.parametrize("name", doctor.BASE)
def test_a_missing_or_old_base_package_is_a_problem(machine: Machine, name: str) -> None:
    for versions in (without(name), COMPLETE | {name: "0.9.1"}):
        found = machine(versions)
        assert found[name].status == PROBLEM
        assert found[name].remedy == f"pip install -U '{name}>={doctor.BASE[name]}'"
        assert found["self-test cpu"].found == f"not run: it needs {name}"


@pytest.mark.parametrize("name", doctor.TRAIN)
def test_a_missing_or_old_training_package_is_a_warning(machine: Machine, name: str) -> None:
    for versions in (without(name), COMPLETE | {name: "0.0.9"}):
        found = machine(versions)
        assert found[name].status == WARNING
        assert found[name].remedy == "pip install -U 'mnq[train]'"
        assert PROBLEM not in {finding.status for finding in found.values()}


@pytest.mark.parametrize(
    ("version", "least", "older"),
    [("1.9", "1.21", True), ("2.14.1+cu130", "2.6", False), ("1.21.0", "1.21", False),
     ("1.21.dev1", "1.21", False), ("10", "10", False), ("9.5", "10", True), ("?", "1", True)],
)  # fmt: skip
def test_versions_compare_by_their_numbers(version: str, least: str, older: bool) -> None:
    assert doctor._older(version, least) is older


def test_mnq_that_is_not_installed_is_a_warning(machine: Machine) -> None:
    assert machine(without("mnq"))["mnq"].status == WARNING


def test_an_old_python_is_a_problem(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "PYTHON", (99, 0))
    found = machine(COMPLETE)["python"]
    assert (found.status, found.remedy.split()[0]) == (PROBLEM, "python99.0")


def test_wrong_integers_are_a_problem(machine: Machine) -> None:
    levels = {**LEVELS, "extended": "codes[0]: expected 1, found 2", "all": "codes: other"}
    found = machine(COMPLETE, {**RIGHT, "levels": levels})["self-test cpu"]
    assert found.status == PROBLEM
    assert found.found.endswith("at 2 of 4 levels; extended: codes[0]: expected 1, found 2")
    assert found.remedy == "pip install -U onnxruntime"


def test_a_runtime_that_does_not_run_is_a_problem(machine: Machine) -> None:
    found = machine(COMPLETE, {"error": "ended with signal SIGILL"})
    assert found["self-test cpu"].status == PROBLEM
    assert found["self-test cpu"].found == "ended with signal SIGILL"
    assert found["self-test cpu"].remedy.startswith("pip uninstall -y onnxruntime onnxruntime-gpu")


@pytest.mark.parametrize(
    ("library", "remedy"),
    [("libcuda.so.1", "pip uninstall -y onnxruntime onnxruntime-gpu && pip install 'mnq[cpu]'"),
     ("libcublasLt.so.13", "pip install -U 'onnxruntime-gpu[cuda,cudnn]'")],
)  # fmt: skip
def test_cuda_that_is_listed_but_does_not_start_is_a_warning(
    machine: Machine, library: str, remedy: str
) -> None:
    log = f"Failed to load x.so with error: {library}: cannot open shared object file: No such"
    found = machine(COMPLETE, WITH_CUDA, {"error": "expected it to start"}, log)
    assert found["self-test cpu"].status == OK
    assert found["self-test cuda"].status == WARNING
    assert f"does not start: {library} is missing" in found["self-test cuda"].found
    assert found["self-test cuda"].remedy.startswith(remedy)


def test_cuda_is_tested_where_it_is_listed_only(machine: Machine) -> None:
    assert machine(COMPLETE, WITH_CUDA, RIGHT)["self-test cuda"].status == OK
    wrong = {**RIGHT, "levels": {**LEVELS, "all": "codes: other"}}
    assert machine(COMPLETE, WITH_CUDA, wrong)["self-test cuda"].status == WARNING
    other = machine(COMPLETE, WITH_CUDA, {"error": "ended with signal SIGSEGV"})["self-test cuda"]
    assert other.found.endswith("does not start: ended with signal SIGSEGV")
    assert "self-test cuda" not in machine(COMPLETE)


@pytest.mark.onnxruntime
def test_the_self_test_runs_in_a_process_of_its_own() -> None:
    answer, _ = doctor._run_self_test("cpu")
    assert answer["levels"] == LEVELS


@pytest.mark.parametrize(
    ("script", "error"),
    [("kill -SEGV $$", "ended with signal SIGSEGV"), ("exec sleep 20", "did not end"),
     ("echo oops >&2; exit 7", "ended with status 7: oops"),
     ("exit 1", "ended with status 1: no message"),
     ("echo text", "ended with status 0"), ("echo 3", "ended with status 0")],
)  # fmt: skip
def test_a_process_that_dies_is_survived(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, script: str, error: str
) -> None:
    path = tmp_path / "python"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(path))
    monkeypatch.setattr(doctor, "TIMEOUT", 0.5 if "sleep" in script else 60)
    answer, _ = doctor._run_self_test("cpu")
    assert f"the self-test {error}" in answer["error"]


def test_the_library_and_its_path_are_named(machine: Machine) -> None:
    found = machine(COMPLETE)["kernels"]
    assert found == Finding("kernels", OK, "/x/libmnq_ops.so, path avx512")


def test_a_library_that_onnxruntime_refuses_is_a_warning(machine: Machine) -> None:
    """As one that was compiled against headers of a newer onnxruntime."""
    text = "kernels: expected onnxruntime to load x.so, found: API 99; or run without them"
    found = machine(COMPLETE, {**RIGHT, "refusal": text})["kernels in onnxruntime"]
    assert found.status == WARNING and found.remedy.startswith("pip install -U onnxruntime")
    assert found.found.endswith("to load x.so, found: API 99, so models are slow")
    assert "kernels in onnxruntime" not in machine(COMPLETE)


def test_a_missing_library_is_a_warning(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine(COMPLETE)
    monkeypatch.setattr(doctor, "library_path", lambda: None)
    monkeypatch.setattr(doctor, "why_no_library", lambda: "expected g++, found none; install it")
    text = "expected libmnq_ops.so, found none, so models are slow: expected g++, found none"
    assert doctor._kernels() == Finding("kernels", WARNING, text, "install it")


def test_a_library_that_cannot_be_used_is_a_warning(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(library: Path) -> str:
        raise EnvironmentLack("MNQ_CPU_PATH: expected avx2, found 'x'; unset it")

    machine(COMPLETE)
    monkeypatch.setattr(doctor, "cpu_path", refuse)
    text = "MNQ_CPU_PATH: expected avx2, found 'x'"
    assert doctor._kernels() == Finding("kernels", WARNING, text, "unset it")


@pytest.mark.parametrize(
    ("wheel", "lacking", "finding"),
    [(COMPLETE, "", Finding("kernels for GPUs", OK, "they run here")),
     (COMPLETE, "expected a GPU, found none; get one",
      Finding("kernels for GPUs", OK, "expected a GPU, found none")),
     ({**COMPLETE, "onnxruntime-gpu": "1.31.1"}, "expected a GPU, found none; get one",
      Finding("kernels for GPUs", WARNING, "expected a GPU, found none", "get one"))],
)  # fmt: skip
def test_kernels_for_gpus_are_missed_beside_the_wheel_for_gpus_only(
    machine: Machine,
    monkeypatch: pytest.MonkeyPatch,
    wheel: dict[str, str],
    lacking: str,
    finding: Finding,
) -> None:
    machine(wheel)
    monkeypatch.setattr(doctor, "cuda_lacking", lambda _: lacking)
    assert [*doctor._gpu()] == [finding]
    monkeypatch.setattr(doctor, "library_path", lambda: None)
    assert [*doctor._gpu()] == []


@pytest.mark.parametrize(
    ("flags", "status", "found"),
    [("fpu avx2 avx512_vnni avx512vbmi", OK,
      "avx2 yes, avx512_vnni yes, avx512vbmi yes, amx_int8 no"),
     ("fpu avx2", OK, "avx2 yes, avx512_vnni no, avx512vbmi no, amx_int8 no"),
     ("fpu avx512_vnnix", WARNING,
      "avx2 no, avx512_vnni no, avx512vbmi no, amx_int8 no: right integers, but slow")],
)  # fmt: skip
def test_cpu_features_are_read_from_cpuinfo(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, flags: str, status: str, found: str
) -> None:
    monkeypatch.setattr(doctor.platform, "machine", lambda: "x86_64")
    doctor.CPUINFO.write_text(f"processor\t: 0\nflags\t\t: {flags}\nbugs\t\t: none\n" * 2)
    assert machine(COMPLETE)["cpu"] == Finding("cpu", status, found)


def test_other_cpus_are_named(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.platform, "machine", lambda: "aarch64")
    assert "not known" in machine(COMPLETE)["cpu"].found
    doctor.CPUINFO.write_text("Features\t: fp asimd\n")
    assert machine(COMPLETE)["cpu"] == Finding("cpu", OK, "aarch64")


@pytest.mark.parametrize(
    ("quota", "allowed"),
    [("max 100000", 8), ("800000 100000", 8), ("250000 100000", 2), ("50000 100000", 1), ("", 8)],
)
def test_a_quota_below_the_cores_is_a_warning(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, quota: str, allowed: int
) -> None:
    monkeypatch.setattr(doctor.os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    doctor.QUOTA.write_text(quota)
    found = machine(COMPLETE)["cores"]
    assert found.status == (OK if allowed == 8 else WARNING)
    assert re.match(rf"add --threads {allowed} to" if allowed < 8 else "$", found.remedy)


def test_a_finding_is_plain_json() -> None:
    data = {"name": "a", "status": OK, "found": "b", "remedy": ""}
    assert Finding("a", OK, "b").to_json() == data
