"""Runs model.onnx beside this file as it ran when its output was wrong, and compares.

    python run.py [libmnq_ops.so]

Needs onnx and onnxruntime, nothing else; the library only where kernels were wrong. Exit
status: 0 if the wrong integers are there again, 1 if not.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, numpy_helper

LEVELS = {
    "disabled": "ORT_DISABLE_ALL",
    "basic": "ORT_ENABLE_BASIC",
    "extended": "ORT_ENABLE_EXTENDED",
    "all": "ORT_ENABLE_ALL",
}
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


def run(
    model: ModelProto, feeds: dict[str, NDArray[Any]], place: Mapping[str, Any], library: str
) -> NDArray[Any]:
    """The first output at the place that report.json names."""
    if place["engine"] == "reference":
        from onnx.reference import ReferenceEvaluator

        first, *_ = ReferenceEvaluator(model).run(None, feeds)
        return np.asarray(first)
    if place.get("path"):
        os.environ["MNQ_CPU_PATH"] = place["path"]
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = getattr(ort.GraphOptimizationLevel, LEVELS[place["level"]])
    options.intra_op_num_threads = place["threads"]
    if place["engine"] == "kernels":
        options.register_custom_ops_library(library)
    providers = [PROVIDERS[place["provider"]]]
    session = ort.InferenceSession(model.SerializeToString(), options, providers=providers)
    first, *_ = session.run(None, feeds)
    return np.asarray(first)


def main(folder: Path, library: str) -> int:
    """Run and compare what is in a folder; returns the exit status."""
    data = folder / "test_data_set_0"

    def load(name: str) -> NDArray[Any]:
        return numpy_helper.to_array(TensorProto.FromString((data / name).read_bytes()))

    place = json.loads((folder / "report.json").read_text())["place"]
    if place["engine"] == "kernels" and not library:
        print("run: expected mnq's library, found none; python run.py libmnq_ops.so")
        return 2
    model = onnx.load(folder / "model.onnx")
    feeds = {v.name: load(f"input_{number}.pb") for number, v in enumerate(model.graph.input)}
    found, before = run(model, feeds, place, library), load("found_0.pb")
    again = bool(np.array_equal(found, before))
    if (data / "output_0.pb").is_file():
        expected = load("output_0.pb")
        if expected.shape == found.shape:
            wrong = np.argwhere(expected != found)
            print(f"{len(wrong)} of {expected.size} integers differ from output_0.pb")
            if len(wrong):
                at = tuple(wrong[0].tolist())
                print(f"index {list(at)}: expected {expected[at]}, found {found[at]}")
    print(f"{'the same integers as' if again else 'other integers than'} in found_0.pb")
    return 0 if again else 1


if __name__ == "__main__":
    sys.exit(main(Path(__file__).parent, sys.argv[1] if len(sys.argv) > 1 else ""))
