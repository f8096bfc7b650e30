"""A runtime for check.py: the operators' own definitions, on torch tensors."""

from __future__ import annotations

import torch
from kit import Array, Vector, element_type

from mnq.ops.registry import OPERATORS


def run(vector: Vector) -> list[Array] | None:
    """Operators only; the models' integers are torch's already."""
    if not vector.operator:
        return None
    arrays = {**vector.inputs, **vector.constants}
    names = OPERATORS[vector.operator].inputs
    to = {} if vector.to is None else {"to": element_type(vector.to)}
    tensors = [torch.from_numpy(arrays[name]) for name in names]
    found: torch.Tensor = OPERATORS[vector.operator](*tensors, **to)
    return [found.numpy()]
