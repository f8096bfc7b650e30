"""Random changes to training images: timm's transforms and mixing, by recipe and by seed.

Importing this module is light; torch, torchvision and timm are imported when a recipe is built.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageOps

from mnq.models.preprocess import Preprocess

if TYPE_CHECKING:
    import torch

__all__ = ["AUGMENTATIONS", "Augmentation", "mixing", "seeded", "to_pixels", "transform"]

# (float32 (B, C, H, W), int64 (B,)) to (float32 (B, C, H, W), float32 (B, num_classes)).
Mix = Callable[["torch.Tensor", "torch.Tensor"], tuple["torch.Tensor", "torch.Tensor"]]

_SMALL = 32  # side in pixels; a crop of a part, enlarged, leaves nothing to see of such images


@dataclass(frozen=True)
class Augmentation:
    """A recipe; the default is the one that I-ViT was trained with, which is DeiT's.

    Attributes:
        crop: range of the share of the image's area that a random crop keeps. Models of at most
            32 pixels shift the evaluation crop by up to an eighth instead. None: evaluation crop.
        flip: probability of a horizontal flip.
        auto_augment: timm's string for RandAugment and the like, or None.
        color_jitter: of brightness, contrast and saturation; only without auto_augment, as in timm.
        interpolation: of random crops, a key of INTERPOLATIONS.
        erasing: probability of filling a rectangle with noise.
        mixup, cutmix: alphas; 0 switches one off. One of both is applied to every batch.
        smoothing: label smoothing.
    """

    crop: tuple[float, float] | None = (0.08, 1.0)
    flip: float = 0.5
    auto_augment: str | None = "rand-m9-mstd0.5-inc1"
    color_jitter: float = 0.4
    interpolation: str = "bicubic"
    erasing: float = 0.25
    mixup: float = 0.8
    cutmix: float = 1.0
    smoothing: float = 0.1

    @property
    def mixes(self) -> bool:
        """True if images are mixed in pairs, for which a batch has to have an even size."""
        return self.mixup > 0 or self.cutmix > 0


_LIGHT = Augmentation(
    crop=(0.6, 1.0),
    auto_augment=None,
    color_jitter=0.0,
    erasing=0.0,
    mixup=0.0,
    cutmix=0.0,
    smoothing=0.0,
)

AUGMENTATIONS = {
    "ivit": Augmentation(),
    "light": _LIGHT,
    "none": replace(_LIGHT, crop=None, flip=0.0),
}


def transform(
    augmentation: Augmentation, preprocess: Preprocess
) -> Callable[[Image.Image], torch.Tensor]:
    """What makes an image, in any mode, a normalized float32 (C, size, size).

    It draws from the global generators (see `seeded`). The evaluation crop's InputError for
    extreme aspect ratios passes through.
    """
    from timm.data.transforms_factory import create_transform
    from torchvision import transforms

    made = create_transform(
        preprocess.size,
        is_training=True,
        scale=augmentation.crop,
        hflip=augmentation.flip,
        auto_augment=augmentation.auto_augment,
        color_jitter=augmentation.color_jitter,
        interpolation=augmentation.interpolation,
        mean=preprocess.mean,
        std=preprocess.std,
        re_prob=augmentation.erasing,
        re_mode="pixel",
    )
    # timm's first step is the crop. The one for small images is what DeiT puts in its place.
    crop = [partial(_convert, preprocess.channels), made.transforms[0]]
    if augmentation.crop is None or preprocess.size <= _SMALL:
        crop = [partial(_evaluation_crop, preprocess)]
        if augmentation.crop is not None:
            crop.append(transforms.RandomCrop(preprocess.size, padding=preprocess.size // 8))
    for operation in (one for step in made.transforms for one in getattr(step, "ops", [])):
        if operation.name.startswith("Posterize"):
            operation.aug_fn = _posterize
    composed: Callable[[Image.Image], torch.Tensor] = transforms.Compose(crop + made.transforms[1:])
    return composed


def _convert(channels: int, image: Image.Image) -> Image.Image:
    return image.convert("L" if channels == 1 else "RGB")


def _evaluation_crop(preprocess: Preprocess, image: Image.Image) -> Image.Image:
    pixels = preprocess.image(image)
    return Image.fromarray(pixels[0] if preprocess.channels == 1 else pixels.transpose(1, 2, 0))


def _posterize(image: Image.Image, bits_to_keep: int, **_: object) -> Image.Image:
    # RandAugment's largest magnitude keeps no bits, which Pillow 13 refuses to do.
    if bits_to_keep == 0:
        return Image.new(image.mode, image.size)
    return ImageOps.posterize(image, bits_to_keep)


def mixing(augmentation: Augmentation, num_classes: int) -> Mix:
    """What mixes a normalized batch of even size in place, and makes smoothed targets of labels."""
    if not augmentation.mixes:
        return partial(_smoothed, num_classes, augmentation.smoothing)
    from timm.data.mixup import Mixup

    mix: Mix = Mixup(
        mixup_alpha=augmentation.mixup,
        cutmix_alpha=augmentation.cutmix,
        label_smoothing=augmentation.smoothing,
        num_classes=num_classes,
    )
    return mix


def _smoothed(
    num_classes: int, smoothing: float, images: torch.Tensor, labels: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    from timm.data.mixup import mixup_target

    return images, mixup_target(labels, num_classes, smoothing=smoothing)


def to_pixels(images: torch.Tensor, preprocess: Preprocess) -> torch.Tensor:
    """The nearest pixels of normalized images: float32 (B, C, H, W) to uint8, same shape.

    The exact inverse of `Preprocess.normalize`.
    """
    import torch

    mean = torch.tensor(preprocess.mean).view(1, -1, 1, 1)
    std = torch.tensor(preprocess.std).view(1, -1, 1, 1)
    scaled = images.mul(std).add_(mean).mul_(255)
    return scaled.round_().clamp_(0, 255).to(torch.uint8)


@contextlib.contextmanager
def seeded(seed: int, epoch: int, stream: int, number: int) -> Iterator[None]:
    """Inside, the global generators that transforms draw from start from these four numbers.

    They are Python's, numpy's and torch's for the CPU; afterwards they are as they were before.
    Each number lies in 0..2^32-1.
    """
    import torch

    # Not torch.manual_seed, which would set the GPUs' generators as well.
    generator = torch.default_generator
    before = random.getstate(), np.random.get_state(), generator.get_state()
    words = np.random.SeedSequence((seed, epoch, stream, number)).generate_state(3)
    try:
        random.seed(int(words[0]))
        np.random.seed(int(words[1]))
        generator.manual_seed(int(words[2]))
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])
        generator.set_state(before[2])
