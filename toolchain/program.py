"""The integer program: what is deployed, as a list of steps that torch can run.

`run` executes the steps with the operators' torch definitions; lower.py writes the same steps
as ONNX. Both therefore have the same constants, and `mnq-verify` compares what they compute.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mnq.ops.kernels import run as run_kernel
from mnq.ops.registry import OPERATORS
from mnq.toolchain.image import ImageInput
from mnq.toolchain.views import VIEWS

Inputs = Mapping[str, "NDArray[np.generic] | torch.Tensor"]
"""Constant inputs of an operator by name; weights are tensors, on the device that trains them."""


@dataclass(frozen=True)
class Codes:
    """What the codes of a tensor mean: value of one code, and their width."""

    scale: float
    bits: int


@dataclass(frozen=True)
class Weight:
    """A linear layer's weight: int8 codes (O, K), and their float32 scales (O, 1) or (O, K)."""

    codes: torch.Tensor
    scale: NDArray[np.float32]

    def values(self) -> torch.Tensor:
        """What the codes stand for, float32 (O, K)."""
        return self.codes.to(torch.float32) * torch.from_numpy(self.scale).to(self.codes.device)


@dataclass(frozen=True)
class Step:
    """One tensor of the program.

    operator: an `mnq` operator's name, or a view of views.py.
    inputs: tensors read, in the operator's order; constants: the operator's other inputs.
    settings: attributes (`to`), or the view's settings.
    shape: of the output, -1 where it grows with the batch; scale: value of one code of it, or
    one for each part that has its own (heads.Parts).
    module: the torch module it comes from, or several with commas; site: its non-linear site, ""
    if none.
    reads: at a site, the codes that its non-linear function reads: in attention the scores.
    """

    output: str
    operator: str
    inputs: tuple[str, ...]
    constants: Inputs
    settings: dict[str, Any]
    shape: tuple[int, ...]
    scale: float | tuple[float, ...]
    module: str
    site: str
    reads: Codes | None = None

    def run(self, inputs: list[torch.Tensor], batch: int, kernels: bool = False) -> torch.Tensor:
        """The output tensor for the tensors of `inputs`; `batch` is the number of images.

        kernels: by the native kernels, on the CPU: the same integers, many times faster.
        """
        if self.operator in VIEWS:
            return VIEWS[self.operator].run(inputs, batch, self.settings)
        operator = OPERATORS[self.operator]
        constants = {name: self.constants[name] for name in operator.inputs[len(inputs) :]}
        if kernels:
            activations = dict(zip(operator.inputs, map(torch.Tensor.numpy, inputs), strict=False))
            others = {name: np.asarray(value) for name, value in constants.items()}
            threads = torch.get_num_threads()
            to = self.settings.get("to", 0)
            return torch.from_numpy(run_kernel(operator.name, activations, others, to, threads))
        device = inputs[0].device
        tensors = [torch.as_tensor(value).to(device) for value in constants.values()]
        result: torch.Tensor = operator(*inputs, *tensors, **self.settings)
        return result


@dataclass(frozen=True)
class Program:
    """Steps in execution order; `constants` are code tensors that steps read by name.

    weights: of linear layers, by their output, whole.
    features: scales of other tensors that the model returns, before `output`, by their names.
    """

    image: ImageInput
    steps: list[Step]
    constants: dict[str, NDArray[np.generic]]
    output: str
    output_scale: float
    weights: dict[str, Weight] = field(default_factory=dict)
    features: dict[str, float] = field(default_factory=dict)

    @property
    def outputs(self) -> dict[str, float]:
        """Scales of all tensors that the model returns, by their names, in its order."""
        return {**self.features, self.output: self.output_scale}

    def run(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Every tensor of the program for images (B, C, H, W), uint8 or float by `image.kind`.

        Integers only behind the input quantizer; the order is that of execution.
        """
        values = self.start(images)
        results = {self.image.name: values[self.image.name]}
        results.update((step.output, value) for step, _, value in self.walk(values, len(images)))
        return results

    def logits(self, images: torch.Tensor, kernels: bool = False) -> torch.Tensor:
        """Real values (B, classes), float32, of the program's output for these images."""
        values = self.start(images)
        for _ in self.walk(values, len(images), kernels=kernels):
            pass
        return values[self.output].to(torch.float32) * self.output_scale

    def start(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """The tensors that are there before the first step: constants and the image's codes."""
        values = {
            name: torch.from_numpy(value).to(images.device)
            for name, value in self.constants.items()
        }
        return values | {self.image.name: self.image.codes(images)}

    def walk(
        self,
        values: dict[str, torch.Tensor],
        batch: int,
        first: int = 0,
        stop: int | None = None,
        kernels: bool = False,
    ) -> Iterator[tuple[Step, list[torch.Tensor], torch.Tensor]]:
        """Run the steps first..stop - 1; yield each with its inputs and its output.

        `values` holds what the steps read. It gets every output, and loses every tensor that
        no later step reads, so that memory does not grow with depth.
        """
        for index, step in enumerate(self.steps[first:stop], first):
            inputs = [values[name] for name in step.inputs]
            value = values[step.output] = step.run(inputs, batch, kernels)
            yield step, inputs, value
            for name in set(step.inputs):
                if self._last_reader[name] == index and name not in self.outputs:
                    del values[name]

    @cached_property
    def _last_reader(self) -> dict[str, int]:
        return {name: index for index, step in enumerate(self.steps) for name in step.inputs}
