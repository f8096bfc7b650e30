"""SQNR: how much of a tensor's power is left when it is quantized (paper section 3.2)."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

import torch

from mnq.ops.errors import InputError

CEILING = 1e12
"""Largest power ratio of an image: what a tensor without any noise counts as (spec 5.2)."""

DIGITS = 6
"""Of a figure in dB that count: methods that differ by less are equal, and the order decides."""


@dataclass
class Powers:
    """Mean squares of a tensor and of its quantization noise, one of each per image."""

    signal: list[float] = field(default_factory=list)
    noise: list[float] = field(default_factory=list)

    def update(self, x: torch.Tensor, q: torch.Tensor) -> None:
        """Add the images of a batch: float x (B, ...) and dequantized q, as many in that order.

        Raises InputError if x is not finite.
        """
        exact = x.detach().double().flatten(1)
        if not bool(exact.isfinite().all()):
            raise InputError(
                "sqnr: expected finite values in the float model, found NaN or infinity; check "
                "the weights and the images"
            )
        self.signal += exact.square().mean(dim=1).tolist()
        self.noise += (exact - q.double().reshape(exact.shape)).square().mean(dim=1).tolist()

    def ratios(self) -> list[float]:
        """Signal over noise per image, at most CEILING; 0 / 0 is CEILING, too."""
        return [
            min(signal / noise, CEILING) if noise > 0 else CEILING
            for signal, noise in zip(self.signal, self.noise, strict=True)
        ]

    def asqnr(self, images: Iterable[int] | None = None) -> float:
        """Eq. 10 as printed: 20 log10 of the mean of the images' power ratios.

        Twice the usual decibels, and led by the best images (spec 5.2). `images` picks some.
        """
        ratios = self.ratios()
        chosen = ratios if images is None else [ratios[i] for i in images]
        return 20.0 * math.log10(max(sum(chosen) / len(chosen), 1.0 / CEILING))

    def sqnr_db(self, images: Iterable[int] | None = None) -> float:
        """The usual SQNR: 10 log10 of the power of all images over that of all their noise."""
        chosen = range(len(self.signal)) if images is None else list(images)
        signal = sum(self.signal[i] for i in chosen)
        noise = sum(self.noise[i] for i in chosen)
        return decibels(signal, noise)


def decibels(signal: float, noise: float) -> float:
    """10 log10(signal / noise), the ratio kept within [1 / CEILING, CEILING]."""
    ratio = signal / noise if noise > 0 else CEILING
    return 10.0 * math.log10(min(max(ratio, 1.0 / CEILING), CEILING))
