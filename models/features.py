"""A timm model as a backbone: feature maps instead of logits."""

from __future__ import annotations

from typing import Any

import torch

__all__ = ["LAST", "FeatureMaps"]

LAST = 4
"""How many maps: the stages of a pyramid, or the last blocks of a plain transformer."""


class FeatureMaps(torch.nn.Module):
    """Images (N, C, H, W) to the maps (N, C', H', W') of the last `count` stages of `net`."""

    def __init__(self, net: Any, count: int) -> None:
        super().__init__()
        self.net, self.count = net, count

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The maps, from the first stage to the last."""
        maps = self.net.forward_intermediates(
            images, indices=self.count, intermediates_only=True, output_fmt="NCHW"
        )
        return tuple(maps)
