"""The input of an integer model: raw uint8 pixels, or normalized floats through one quantizer."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from mnq.ops.errors import InputError
from mnq.ops.patches.op import constants as patches_constants
from mnq.ops.patches.op import patches
from mnq.ops.requantize.op import Constants
from mnq.toolchain.edges import INPUT_BITS
from mnq.toolchain.graph import Graph
from mnq.toolchain.quantizers import activation_scale
from mnq.toolchain.views import VIEWS

KINDS = ("uint8", "float")
OFFSET = 128  # uint8 pixel p becomes the int8 code p - 128


@dataclass(frozen=True)
class ImageInput:
    """How images enter.

    kind: "uint8" (pixels 0..255, mean and std folded into the first layer) or "float"
        (normalized images, one ONNX QuantizeLinear).
    scale: value of one code: 1 pixel step, or the quantizer's bf16 scale.
    mean, std: per channel, of pixels divided by 255; shape: (C, H, W).
    patch: (P, Q) if the codes enter as rows of patches, (B, H/P, W/Q, C*P*Q); None: as images.
    """

    kind: str
    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    shape: tuple[int, int, int]
    name: str = "input.codes"
    patch: tuple[int, int] | None = None

    def codes(self, images: torch.Tensor) -> torch.Tensor:
        """int8 codes of images (B, C, H, W): p - 128, or rne(x / S) as ONNX defines it."""
        if self.kind == "float":
            scale = torch.tensor(self.scale, dtype=torch.float32)
            codes = torch.round(images.to(torch.float32) / scale)
            images = codes.clamp(-128, 127).to(torch.int8)
        if self.patch is not None:
            values = (torch.as_tensor(value) for value in self.constants().values())
            rows: torch.Tensor = patches(images, *values)
            return rows
        return (images.to(torch.int16) - self.offset).to(torch.int8)

    def from_pixels(self, pixels: torch.Tensor) -> torch.Tensor:
        """uint8 pixels (B, C, H, W) as the program takes them: themselves, or normalized."""
        return pixels if self.kind == "uint8" else self._normalized(pixels)

    def values(self, images: torch.Tensor) -> torch.Tensor:
        """What images that the program takes are to the float model: normalized, float32."""
        return images if self.kind == "float" else self._normalized(images)

    def _normalized(self, pixels: torch.Tensor) -> torch.Tensor:
        mean = torch.tensor(self.mean, device=pixels.device).reshape(1, -1, 1, 1)
        std = torch.tensor(self.std, device=pixels.device).reshape(1, -1, 1, 1)
        return (pixels.to(torch.float32) / 255 - mean) / std

    @property
    def offset(self) -> int:
        """What is subtracted from pixels, or from the codes of the quantizer."""
        return OFFSET if self.kind == "uint8" else 0

    def constants(self) -> Constants:
        """Constant inputs of the operator Patches, in its order; none for whole images."""
        if self.patch is None:
            return {}
        return patches_constants(self.offset, self.shape, self.patch)

    def fold(
        self,
        graph: Graph,
        reads: str,
        weight: torch.Tensor,
        bias: NDArray[np.float64],
    ) -> tuple[torch.Tensor, NDArray[np.float64]]:
        """The first layer's float32 weight (O, K) and bias (O,) for codes, not normalized values.

        x = (p / 255 - mean) / std and p = code + 128, so w x + b = (w / (255 std)) code + b'.
        """
        if self.kind == "float":
            return weight, bias
        channel = _channels(graph, reads, self.shape)
        std, mean = np.asarray(self.std), np.asarray(self.mean)
        folded = weight.cpu().numpy().astype(np.float64) / (255.0 * std[channel])
        shift = folded * (OFFSET - 255.0 * mean[channel])
        return torch.from_numpy(folded).to(weight), bias + shift.sum(axis=1)


def image_input(
    kind: str, mean: tuple[float, ...], std: tuple[float, ...], shape: tuple[int, int, int]
) -> ImageInput:
    """The input of `kind` for a preprocessing; all values of 8-bit pixels are representable."""
    if kind not in KINDS:
        raise InputError(f"input: expected {' or '.join(KINDS)}, found {kind!r}")
    scale = 1.0
    if kind == "float":
        largest = max(max(m, 1.0 - m) / s for m, s in zip(mean, std, strict=True))
        scale = float(activation_scale(largest, INPUT_BITS))
    return ImageInput(kind, scale, mean, std, shape)


def _channels(graph: Graph, reads: str, shape: tuple[int, int, int]) -> NDArray[np.int64]:
    """The image channel of each of the K inputs of the layer that reads tensor `reads`."""
    channels = torch.arange(shape[0]).reshape(1, -1, 1, 1).expand(1, *shape)

    def value(name: str) -> torch.Tensor:
        node = graph.nodes[name]
        if node.op == "input":
            return channels
        if node.op not in VIEWS or node.op == "pad":  # code 0 is a pixel of 128, not the value 0
            raise InputError(
                f"input: expected a linear layer or patch embedding on the raw image, found "
                f"{node.op} in module {node.module or '(top)'!r} before it; "
                "export with --input float"
            )
        settings = {"shape": node.shape, **node.settings}
        return VIEWS[node.op].run([value(n) for n in node.inputs], 1, settings)

    rows = value(reads)
    rows = rows.reshape(-1, rows.shape[-1])
    if not bool((rows == rows[:1]).all()):
        raise InputError(
            "input: expected a first layer that reads the channels in one order, found several; "
            "export with --input float"
        )
    result: NDArray[np.int64] = rows[0].numpy().astype(np.int64)
    return result
