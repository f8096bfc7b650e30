"""onnxruntime on its CPU provider, from the operators' own functions: standard operators only."""

from __future__ import annotations

from typing import Any

import onnxruntime
from kit import Vector


def run(vector: Vector) -> list[Any]:
    """The outputs of `vector.model`."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        vector.model.SerializeToString(), options, ["CPUExecutionProvider"]
    )
    found: list[Any] = session.run(list(vector.expected), dict(vector.inputs))
    return found
