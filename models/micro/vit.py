"""The architecture and the weights file of micro_vit."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mnq.models.micro.data import CLASSES, PREPROCESS

if TYPE_CHECKING:
    import torch

__all__ = ["CLASSES", "PREPROCESS", "WEIGHTS", "build"]

WEIGHTS = Path(__file__).with_name("micro_vit.safetensors")


def build() -> torch.nn.Module:
    """Make the model with fresh weights: float32 (N, 3, 32, 32) to (N, 10), 460 k parameters.

    64 patches of 4x4 pixels and a class token, 4 blocks, 3 heads of 32.
    """
    from timm.models.vision_transformer import VisionTransformer

    return VisionTransformer(
        img_size=32,
        patch_size=4,
        num_classes=len(CLASSES),
        embed_dim=96,
        depth=4,
        num_heads=3,
    )
