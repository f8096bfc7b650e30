"""Distillation: how far a model in training is from the float model, and in what direction.

With little data the labels say too little, and the float model's logits say one thing per image.
Its residual stream says something at every token of every block.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn.functional import kl_div, log_softmax

from mnq.toolchain.evaluate import evaluate
from mnq.toolchain.graph import Graph


def ask(teacher: Graph, images: torch.Tensor, names: Sequence[str] = ()) -> list[torch.Tensor]:
    """The float graph's logits for normalized images, and its tensors `names`; all float32."""
    found: dict[str, torch.Tensor] = {}

    def observe(name: str, value: torch.Tensor) -> None:
        if name in names:
            found[name] = value.float()

    with torch.no_grad():
        logits = evaluate(teacher, images, observe)
    return [logits.float(), *(found[name] for name in names)]


def divergence(logits: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Kullback-Leibler divergence of the classes that logits (B, classes) give from `wanted`'s."""
    return kl_div(
        log_softmax(logits, -1), log_softmax(wanted, -1), reduction="batchmean", log_target=True
    )


def distance(found: Sequence[torch.Tensor], wanted: Sequence[torch.Tensor]) -> torch.Tensor:
    """Power of the differences over the power of what is wanted, the mean over the tensors.

    1/SQNR of each tensor: tensors of any scale weigh alike.
    """
    parts = [
        (ours - theirs).square().sum() / theirs.square().sum().clamp_min(1e-30)
        for ours, theirs in zip(found, wanted, strict=True)
    ]
    return torch.stack(parts).mean()
