"""Straight-through estimation: exact integers forward, a float function's gradient backward."""

from __future__ import annotations

from typing import Any

import torch


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, surrogate: torch.Tensor, exact: torch.Tensor) -> torch.Tensor:
        return exact.clone()

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        return gradients[0], None


def straight_through(surrogate: torch.Tensor, exact: torch.Tensor) -> torch.Tensor:
    """The value of `exact`, bit for bit, with the gradient of `surrogate` (spec 1.8).

    surrogate: the float function of the same inputs, connected to the autograd graph.
    exact: dequantized integer result of the same shape and dtype; no gradient flows into it.
    `surrogate + (exact - surrogate).detach()` would round; this does not.
    """
    result: torch.Tensor = _StraightThrough.apply(surrogate, exact.detach())
    return result
