"""Models to capture: tiny transformers of timm and torchvision, and hand-written modules.

Weights are random but not small: LayerNorm weights differ per channel and one in five is
negative, biases are not zero, attention is not flat.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from timm.layers import set_fused_attn, use_fused_attn
from timm.models.beit import Beit
from timm.models.deit import VisionTransformerDistilled
from timm.models.swin_transformer import SwinTransformer
from timm.models.swin_transformer_v2 import SwinTransformerV2
from timm.models.vision_transformer import VisionTransformer
from torch import nn
from torchvision.models import swin_transformer as torchvision_swin
from torchvision.models import vision_transformer as torchvision_vit

from mnq.models.features import FeatureMaps
from mnq.models.preprocess import Preprocess
from mnq.models.weights import digest
from mnq.models.zoo import LoadedModel
from mnq.toolchain.capture import capture
from mnq.toolchain.graph import Graph
from mnq.toolchain.prepare import prepare

SIZE = 32
CLASSES = 10
MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)  # other for every channel: a mix-up shows
TINY = {
    "img_size": SIZE,
    "patch_size": 8,
    "embed_dim": 32,
    "depth": 2,
    "num_heads": 2,
    "num_classes": CLASSES,
}

# 8x8 tokens in four windows, the second block's shifted; merged to 4x4, one window.
WINDOWS = {
    "img_size": SIZE,
    "patch_size": 4,
    "window_size": 4,
    "embed_dim": 16,
    "depths": (2, 1),
    "num_heads": (2, 4),
    "mlp_ratio": 2.0,
    "num_classes": CLASSES,
}


def randomize(model: nn.Module, seed: int = 1) -> nn.Module:
    """`model` in eval mode with weights that depend on the seed alone."""
    draw = torch.Generator().manual_seed(seed)

    def normal(shape: torch.Size) -> torch.Tensor:
        return torch.randn(shape, generator=draw)

    with torch.no_grad():
        for name, p in model.named_parameters():
            if p.ndim in (2, 4):
                p.copy_(normal(p.shape) * 1.5 / p[0].numel() ** 0.5)
            elif name.endswith("logit_scale"):  # log of what cosines are multiplied by
                p.copy_(normal(p.shape) * 0.5 + 2.0)
            elif p.ndim == 3:  # tokens and position embeddings
                p.copy_(normal(p.shape) * 0.5)
            elif name.endswith("weight"):
                sign = torch.where(torch.rand(p.shape, generator=draw) < 0.2, -1.0, 1.0)
                p.copy_((torch.rand(p.shape, generator=draw) + 0.5) * sign)
            else:
                p.copy_(normal(p.shape) * 0.3)
    return model.eval()


def tiny(**overrides: Any) -> nn.Module:
    """A timm VisionTransformer of two blocks on 32x32 images."""
    return randomize(VisionTransformer(**{**TINY, **overrides}))


def distilled() -> nn.Module:
    """timm's DeiT with a class and a distillation token: the mean of two heads."""
    return randomize(VisionTransformerDistilled(**TINY))


def registers() -> nn.Module:
    """As DINOv2: register tokens without a position, and LayerScale, also negative."""
    return tiny(reg_tokens=2, no_embed_class=True, init_values=0.5)


def relative_positions() -> nn.Module:
    """As BEiT: a bias per head on the scores, LayerScale, and the mean of the tokens."""
    options = {"use_abs_pos_emb": False, "use_rel_pos_bias": True, "init_values": 0.5}
    return randomize(Beit(**TINY, **options))


def windows(**overrides: Any) -> nn.Module:
    """timm's Swin transformer of two stages."""
    return randomize(SwinTransformer(**{**WINDOWS, **overrides}))


def fused_windows() -> nn.Module:
    """The same weights; attention, with its mask, is one operator of torch."""
    with fused_attention(True, experimental=True):
        return windows()


def padded_windows() -> nn.Module:
    """Windows of three do not divide 8 or 4 tokens: zeros around them, and cut off again."""
    return windows(window_size=3)


def cosine_windows() -> nn.Module:
    """timm's Swin V2: cosine attention, norms behind the branches; windows of three, as above."""
    return randomize(SwinTransformerV2(**{**WINDOWS, "window_size": 3}))


def torchvision_windows() -> nn.Module:
    """torchvision's Swin transformer of the same sizes."""
    return randomize(
        torchvision_swin.SwinTransformer(
            patch_size=[4, 4],
            embed_dim=16,
            depths=[2, 1],
            num_heads=[2, 4],
            window_size=[4, 4],
            mlp_ratio=2.0,
            stochastic_depth_prob=0.0,
            num_classes=CLASSES,
        )
    )


def torchvision_plain() -> nn.Module:
    """torchvision's vision transformer: torch's own attention module."""
    return randomize(
        torchvision_vit.VisionTransformer(
            image_size=SIZE,
            patch_size=8,
            num_layers=1,
            num_heads=2,
            hidden_dim=32,
            mlp_dim=64,
            num_classes=CLASSES,
        )
    )


def pyramid() -> nn.Module:
    """The maps of both stages."""
    return FeatureMaps(windows(), 2).eval()


ARCHITECTURES = [
    registers,
    relative_positions,
    windows,
    fused_windows,
    padded_windows,
    cosine_windows,
    torchvision_windows,
    torchvision_plain,
    pyramid,
]


@contextmanager
def fused_attention(enable: bool, experimental: bool = False) -> Iterator[None]:
    """Let timm's attention, built inside, be one fused operator or three."""
    before = use_fused_attn(experimental=True), use_fused_attn()
    set_fused_attn(enable, experimental)
    try:
        yield
    finally:
        set_fused_attn(before[1], experimental=before[0])


def loaded(seed: int = 1) -> LoadedModel:
    """`tiny()` as the zoo would load it."""
    model = randomize(tiny(), seed)
    preprocess = Preprocess(SIZE, SIZE, "bicubic", MEAN, STD, 3)
    return LoadedModel("tiny", None, model, preprocess, None, CLASSES, digest(model))


def pixels(count: int, seed: int = 0) -> torch.Tensor:
    """Random uint8 images (count, 3, 32, 32), the first two all black and all white."""
    draw = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (count, 3, SIZE, SIZE), generator=draw, dtype=torch.uint8)
    images[0] = 0
    images[1:2] = 255
    return images


def normalize(images: torch.Tensor) -> torch.Tensor:
    """(p / 255 - mean) / std."""
    mean, std = (torch.tensor(v).reshape(1, 3, 1, 1) for v in (MEAN, STD))
    return (images / 255.0 - mean) / std


def prepared(build: Callable[[], nn.Module]) -> Graph:
    """The prepared graph of a model for 32x32 images."""
    return prepare(capture(build(), torch.zeros(2, 3, SIZE, SIZE)))


class Tokens(nn.Module):
    """A patch embedding, `middle`, and a head on the first token; a case overrides a part."""

    def __init__(self) -> None:
        super().__init__()
        self.embed: nn.Module = nn.Conv2d(3, 32, 8, 8)
        self.norm = nn.LayerNorm(32)
        self.qkv = nn.Linear(32, 96)
        self.proj = nn.Linear(32, 32)
        self.head = nn.Linear(32, CLASSES)

    def tokens(self, x: torch.Tensor) -> torch.Tensor:
        return self.embed(x).flatten(2).transpose(1, 2)

    def heads(self, t: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """q, k, v of shape (B, 2, N, 16)."""
        split = self.qkv(self.norm(t)).reshape(t.shape[0], -1, 3, 2, 16)
        return split.permute(2, 0, 3, 1, 4).unbind(0)

    def maps(self, t: torch.Tensor) -> torch.Tensor:
        """Tokens (B, 16, 32) as maps (B, 32, 4, 4)."""
        return t.transpose(1, 2).unflatten(2, (4, 4))

    def rows(self, maps: torch.Tensor) -> torch.Tensor:
        """And back."""
        return maps.flatten(2).transpose(1, 2)

    def join(self, t: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        return t + self.proj(context.transpose(1, 2).flatten(2))

    def middle(self, t: torch.Tensor) -> torch.Tensor:
        return t

    def out(self, t: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(t)[:, 0])

    def forward(self, x: torch.Tensor) -> Any:
        return self.out(self.middle(self.tokens(x)))


class OnPixels(Tokens):
    """A linear layer on the image itself, its channels in three blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3 * SIZE * SIZE, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.first(x.flatten(1))


def case(middle: Callable[[Any, torch.Tensor], torch.Tensor]) -> nn.Module:
    """A `Tokens` model with this method between the embedding and the head."""
    kind = type(middle.__name__, (Tokens,), {"middle": middle})
    return randomize(kind())
