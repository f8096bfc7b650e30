"""onnxruntime with mnq's kernels in place of the functions: MNQ_OPS_LIBRARY names libmnq_ops.so."""

from __future__ import annotations

import os
import sys
from typing import Any

import onnxruntime
from kit import Vector

LIBRARY = os.environ.get("MNQ_OPS_LIBRARY") or sys.exit("check: MNQ_OPS_LIBRARY is not set")


def run(vector: Vector) -> list[Any]:
    """The outputs of `vector.model`."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    options.register_custom_ops_library(LIBRARY)
    session = onnxruntime.InferenceSession(
        vector.model.SerializeToString(), options, ["CPUExecutionProvider"]
    )
    found: list[Any] = session.run(list(vector.expected), dict(vector.inputs))
    return found
