"""What torch.export records with an ATen node: its module and its shape."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import Node as FxNode

from mnq.ops.errors import InputError


def module_of(fx: FxNode) -> str:
    """Path of the innermost torch module that made this node; "" for the model itself."""
    stack = fx.meta.get("nn_module_stack") or {}
    path = list(stack.values())[-1][0] if stack else ""
    return "" if path.startswith("_empty") else str(path)


def place(fx: FxNode) -> str:
    """The module's path in quotes, for error messages."""
    return repr(module_of(fx) or "(top)")


def leaf(fx: FxNode, kind: str) -> str:
    """The module's own path if it is a module of this kind, else path.kind."""
    stack = fx.meta.get("nn_module_stack") or {}
    owner = str(list(stack.values())[-1][1]) if stack else ""
    module = module_of(fx)
    return module if kind in owner.rsplit(".", 1)[-1].lower() else f"{module}.{kind}".lstrip(".")


def grows(fx: FxNode) -> bool:
    """Whether the tensor that this node makes grows with the batch."""
    value = fx.meta.get("val")
    return isinstance(value, torch.Tensor) and -1 in sizes(value.shape)


def sizes(shape: Any) -> tuple[int, ...]:
    """A shape with -1 for every size that is not a number."""
    return tuple(size if isinstance(size, int) else -1 for size in shape)


def shape_of(fx: FxNode) -> tuple[int, ...]:
    """Shape of the node's tensor, -1 where it grows. Raises InputError if two axes do."""
    shape = sizes(fx.meta["val"].shape)
    if shape.count(-1) > 1:
        raise InputError(
            f"capture: expected shapes in which only the batch varies, found "
            f"{tuple(fx.meta['val'].shape)} in module {place(fx)}"
        )
    return shape
