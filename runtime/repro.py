"""Repro: a folder with the smallest wrong part of a model, which runs without mnq."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any

from numpy.typing import NDArray
from onnx import numpy_helper

from mnq.runtime import causes, replay
from mnq.runtime.contents import Change
from mnq.runtime.finding import Finding
from mnq.runtime.machine import features, processor
from mnq.runtime.modelfile import ModelFile

FORMAT = "mnq-repro/1"
DATA = "test_data_set_0"
_PACKAGES = ("mnq", "onnx", "onnxruntime", "onnxruntime-gpu", "numpy")

_README = """\
The smallest part of model {name!r} that gives wrong integers.

{text}

model.onnx                  the part: {nodes}
{data}/input_*.pb  its inputs, which are right
{data}/output_0.pb the output that is expected{no_output}
{data}/found_0.pb  the output that was found
report.json                 all of this for machines: place, versions, processor, causes
run.py                      runs it again: python run.py{library}

run.py needs onnx and onnxruntime, and nothing of mnq{but}.
"""


def write(
    folder: Path, model: ModelFile, finding: Finding, changes: Iterable[Change], lines: list[str]
) -> None:
    """Write a finding into an empty folder. lines: the finding in words."""
    part = finding.smallest
    kernels = finding.place.engine == "kernels"
    data = folder / DATA
    data.mkdir()
    (folder / "model.onnx").write_bytes(part.piece.model.SerializeToString())
    names = [value.name for value in part.piece.model.graph.input]
    for number, name in enumerate(names):
        _write(data / f"input_{number}.pb", name, part.feeds[name])
    if part.expected is not None:
        _write(data / "output_0.pb", part.piece.target, part.expected)
    _write(data / "found_0.pb", part.piece.target, part.found)
    (folder / "report.json").write_text(json.dumps(report(model, finding, changes), indent=2))
    (folder / "run.py").write_text(Path(replay.__file__).read_text())
    text = _README.format(
        name=model.name,
        text="\n".join(lines),
        nodes=_few([node.op_type for node in part.piece.nodes]),
        data=DATA,
        no_output="" if part.expected is not None else ": missing, only its digest is certified",
        library=" libmnq_ops.so" if kernels else "",
        but=", but for the library whose kernels are wrong" if kernels else "",
    )
    (folder / "README.txt").write_text(text)


def report(model: ModelFile, finding: Finding, changes: Iterable[Change]) -> dict[str, Any]:
    """What is known of a finding, as a JSON object."""
    changed = list(changes)
    return {
        "format": FORMAT,
        "model": model.name,
        **finding.to_json(),
        "certified_digest": model.certificate["tensors"].get(finding.tensor),
        "causes": causes.likely(finding, changed),
        "changes": [str(change) for change in changed],
        "versions": {"python": platform.python_version(), **_versions(), "file": model.versions},
        "processor": {"name": processor(), "features": features()},
    }


def _versions() -> Mapping[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _few(names: list[str]) -> str:
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _write(path: Path, name: str, values: NDArray[Any]) -> None:
    path.write_bytes(numpy_helper.from_array(values, name).SerializeToString())
