"""The architecture, the preprocessing and the weights file of the digits model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from mnq.models.preprocess import Preprocess

if TYPE_CHECKING:
    import torch

__all__ = ["CLASSES", "PREPROCESS", "WEIGHTS", "build"]

WEIGHTS = Path(__file__).with_name("digits_vit.safetensors")

CLASSES = tuple(str(digit) for digit in range(10))

PREPROCESS = Preprocess(
    size=8, resize=8, interpolation="bicubic", mean=(0.5,), std=(0.5,), channels=1
)


def build(dropout: float = 0.0) -> torch.nn.Module:
    """Make the model with fresh weights: float32 (N, 1, 8, 8) to (N, 10), 202 k parameters.

    timm's own class, so that whatever works here works for timm's ViT and DeiT: 16 patches of
    2x2 pixels and a class token, 4 blocks, 4 heads of 16, GELU, LayerNorm. `dropout`, of
    projections and of whole residual branches, acts in training only and has no weights.
    """
    from timm.models.vision_transformer import VisionTransformer

    return VisionTransformer(
        img_size=8,
        patch_size=2,
        in_chans=1,
        num_classes=len(CLASSES),
        embed_dim=64,
        depth=4,
        num_heads=4,
        proj_drop_rate=dropout,
        drop_path_rate=dropout,
    )
