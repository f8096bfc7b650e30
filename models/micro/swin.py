"""The architecture and the weights file of micro_swin."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mnq.models.micro.data import CLASSES, PREPROCESS

if TYPE_CHECKING:
    import torch

__all__ = ["CLASSES", "PREPROCESS", "WEIGHTS", "build"]

WEIGHTS = Path(__file__).with_name("micro_swin.safetensors")


def build() -> torch.nn.Module:
    """Make the model with fresh weights: float32 (N, 3, 32, 32) to (N, 10), 302 k parameters.

    Two stages of 16x16 and 8x8 tokens with 2 blocks each, every other one with its windows of
    4x4 tokens shifted; heads of 16.
    """
    from timm.models.swin_transformer import SwinTransformer

    return SwinTransformer(
        img_size=32,
        patch_size=2,
        window_size=4,
        num_classes=len(CLASSES),
        embed_dim=48,
        depths=(2, 2),
        num_heads=(3, 6),
        drop_path_rate=0.0,
    )
