"""From a decoded image to the pixels that a model takes: resize, centre crop, normalize.

The geometry is torchvision's `Resize(int)` and `CenterCrop`, which timm's evaluation transform
is made of, redone in PIL and numpy so that the runtime needs no torch. Equal pixel for pixel.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from mnq.ops.errors import InputError

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["INTERPOLATIONS", "MAX_PIXELS", "MAX_SIDE", "Preprocess"]

INTERPOLATIONS = {
    "nearest": Image.Resampling.NEAREST,
    "box": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "hamming": Image.Resampling.HAMMING,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}

# Largest image taken or made. A 1 x 60000000 image is small, but not once its short side is 248.
MAX_PIXELS = 64_000_000
MAX_SIDE = 4096

_MODES = {1: "L", 3: "RGB"}
_MAX_JSON = 4096  # characters; six small fields need about 200
_MAX_MEAN = 16.0  # in units of the full pixel range; published ones lie in 0..1
_STD_RANGE = (1e-4, 16.0)  # 1/255, for models fed with 0..255, lies inside


def _reject(expected: str, found: object) -> InputError:
    # `found` may come from a hostile file: bounded, on one line.
    return InputError(
        f"preprocessing: expected {expected}, found {ascii(found)[:80]}; "
        "correct the file's preprocessing entry or export the model again"
    )


@dataclass(frozen=True)
class Preprocess:
    """How an image becomes a model's input. Invalid values raise InputError.

    Attributes:
        size: side of the square input in pixels, 1..4096.
        resize: what the shorter side becomes before the crop, in pixels, size..4096.
        interpolation: a key of INTERPOLATIONS, PIL's filter of that name.
        mean: per channel, subtracted after division by 255.
        std: per channel, the divisor that follows.
        channels: 3 (RGB) or 1 (luminance).
    """

    size: int
    resize: int
    interpolation: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    channels: int

    def __post_init__(self) -> None:
        for name, low in (("size", 1), ("resize", self.size), ("channels", 1)):
            value = getattr(self, name)
            if type(value) is not int or not low <= value <= MAX_SIDE:
                raise _reject(f"{name} an integer in {low}..{MAX_SIDE}", value)
        if self.channels not in _MODES:
            raise _reject("channels 1 or 3", self.channels)
        if not isinstance(self.interpolation, str) or self.interpolation not in INTERPOLATIONS:
            raise _reject(f"interpolation one of {', '.join(INTERPOLATIONS)}", self.interpolation)
        for name, low_f, high_f in (("mean", -_MAX_MEAN, _MAX_MEAN), ("std", *_STD_RANGE)):
            values = getattr(self, name)
            if not isinstance(values, tuple) or len(values) != self.channels:
                raise _reject(f"{name} with {self.channels} numbers", values)
            if not all(type(v) in (int, float) and low_f <= v <= high_f for v in values):
                raise _reject(f"{name} within {low_f:g}..{high_f:g}", values)

    def to_json(self) -> str:
        """One-line JSON object, keys sorted, that `from_json` reads back to an equal value."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Preprocess:
        """Read what `to_json` wrote. InputError for anything else: the text is not trusted."""
        if not isinstance(text, str) or len(text) > _MAX_JSON:
            raise _reject(f"JSON text of at most {_MAX_JSON} characters", type(text).__name__)
        try:
            data: Any = json.loads(text)
        except (ValueError, RecursionError):
            raise _reject("a JSON object", text) from None
        names = {field.name for field in fields(cls)}
        if not isinstance(data, dict) or set(data) != names:
            found = sorted(data) if isinstance(data, dict) else data
            raise _reject(f"a JSON object with the keys {', '.join(sorted(names))}", found)
        for name in ("mean", "std"):
            if not isinstance(data[name], list):
                raise _reject(f"{name} a list of numbers", data[name])
            data[name] = tuple(data[name])
        return cls(**data)

    def image(self, pil: Image.Image) -> npt.NDArray[np.uint8]:
        """Convert, resize and crop one image: uint8 (channels, size, size).

        InputError if it is empty, or would exceed MAX_PIXELS resized (an extreme aspect ratio).
        """
        # Resized in RGB or L, as timm does it: an interpolated palette index means nothing.
        pil = pil.convert(_MODES[self.channels])
        width, height = pil.size
        short, long = min(width, height), max(width, height)
        # torchvision truncates here, and rounds below.
        new_long = int(self.resize * long / short) if short else 0
        if not 0 < self.resize * new_long <= MAX_PIXELS:
            raise InputError(
                f"image: expected 1 to {MAX_PIXELS} pixels once the shorter side is "
                f"{self.resize}, found {width}x{height}; crop it or leave it out"
            )
        new = (self.resize, new_long) if width <= height else (new_long, self.resize)
        if new != pil.size:
            pil = pil.resize(new, INTERPOLATIONS[self.interpolation])
        left = round((new[0] - self.size) / 2)  # half to even, as torchvision's round
        top = round((new[1] - self.size) / 2)
        pixels = np.array(pil.crop((left, top, left + self.size, top + self.size)), dtype=np.uint8)
        planes = pixels.reshape(self.size, self.size, self.channels).transpose(2, 0, 1)
        return np.ascontiguousarray(planes)

    def normalize(self, pixels: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
        """(x / 255 - mean) / std in float32: uint8 (N, channels, H, W) to float32, same shape.

        InputError for another dtype or number of channels.
        """
        if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[1] != self.channels:
            raise InputError(
                f"normalize: expected uint8 (N, {self.channels}, H, W), found {pixels.dtype} "
                f"{pixels.shape}; pass what Preprocess.image returns, stacked"
            )
        # Each step in float32, in this order: then the floats equal ToTensor and Normalize's.
        mean = np.array(self.mean, dtype=np.float32).reshape(1, -1, 1, 1)
        std = np.array(self.std, dtype=np.float32).reshape(1, -1, 1, 1)
        return (pixels.astype(np.float32) / np.float32(255) - mean) / std
