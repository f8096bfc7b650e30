"""Scales and quantizers: from a range of real values to codes, and back."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

RANGES = ("ivit", "paper")
"""How a range a becomes a scale: a / (2^(b-1) - 1), or Eq. 1 of the paper, 2a / (2^b - 1)."""

_SMALLEST_SCALE = 2.0**-23  # of an all-zero tensor (spec 1.1)


def steps(bits: int, form: str = "ivit") -> float:
    """Number of scale steps in the range [0, a] of a `bits`-bit signed quantizer (spec 1.1)."""
    return (2**bits - 1) / 2 if form == "paper" else float(2 ** (bits - 1) - 1)


def round_up_to_bf16(scale: ArrayLike) -> NDArray[np.float32]:
    """The smallest bf16 number (8 significant bits) that is >= the positive scale (spec 0.2).

    With such a scale code -> float32 -> code is exact for codes of up to 16 bits, and rounding
    up keeps the calibrated maximum representable.
    """
    s = np.asarray(scale, np.float64)
    f32 = s.astype(np.float32)
    f32 = np.where(f32 < s, np.nextafter(f32, np.float32(np.inf), dtype=np.float32), f32)
    bits = f32.astype(np.float32).view(np.uint32).astype(np.uint64)
    up = ((bits + 0xFFFF) & 0xFFFF0000).astype(np.uint32)
    return up.view(np.float32)


def activation_scale(largest: float, bits: int, form: str = "ivit") -> np.float32:
    """Scale of a tensor with values in [-largest, largest]: one number, a bf16 value."""
    scale = max(float(largest) / steps(bits, form), _SMALLEST_SCALE)
    return np.float32(round_up_to_bf16(scale))


def weight_scale(weight: torch.Tensor, bits: int, form: str = "ivit") -> NDArray[np.float32]:
    """Scale per output channel of float32 `weight` (O, K), float32 (O,) (spec 1.2)."""
    largest = weight.abs().amax(dim=1).cpu().numpy().astype(np.float64)
    return np.maximum(largest / steps(bits, form), _SMALLEST_SCALE).astype(np.float32)


def quantize(x: torch.Tensor, scale: ArrayLike, bits: ArrayLike) -> torch.Tensor:
    """int32 codes of `x`, in float32: clamp(rne(f32(f32(1/S) * x))) (spec 1.1); S, bits broadcast.

    Computed where `x` is: float32 products and roundings are the same on every device.
    """
    inverse = torch.as_tensor(np.float32(1.0) / np.asarray(scale, np.float32))
    codes = torch.round(x.to(torch.float32) * inverse.to(x.device))
    half = torch.as_tensor(np.exp2(np.asarray(bits, np.float32) - 1)).to(x.device)
    return codes.clamp(-half, half - 1).to(torch.int32)
