"""onnx.reference: ONNX's own evaluator, in numpy."""

from __future__ import annotations

from typing import Any

from kit import Vector
from onnx.reference import ReferenceEvaluator


def run(vector: Vector) -> list[Any]:
    """The outputs of `vector.model`."""
    evaluator = ReferenceEvaluator(vector.model)
    return list(evaluator.run(list(vector.expected), dict(vector.inputs)))
