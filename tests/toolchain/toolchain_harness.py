"""What several tests of the toolchain do: quantize a model, run it, measure, find a tensor."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import cache, cached_property
from typing import Any

import numpy as np
import torch
from hypothesis import settings
from numpy.typing import NDArray
from onnx import ModelProto
from toolchain_models import MEAN, SIZE, STD, normalize, prepared

from mnq.runtime.session import open_session, with_all_outputs
from mnq.toolchain import map as maps
from mnq.toolchain.build import build
from mnq.toolchain.calibrate import Statistics, collect, scales
from mnq.toolchain.edges import Edges, assign_edges
from mnq.toolchain.equalize import equalize
from mnq.toolchain.evaluate import evaluate
from mnq.toolchain.graph import Graph
from mnq.toolchain.image import image_input
from mnq.toolchain.map import Map
from mnq.toolchain.measurements import Measurements
from mnq.toolchain.program import Program, Step
from mnq.toolchain.sensitivity import Batches, isolated, joint
from mnq.toolchain.variants import Methods, Variants, variants

# Hypothesis: the same examples in every run, and no limit on time, which a busy machine breaks.
exact = settings(deadline=None, derandomize=True, max_examples=150, database=None)

Run = Callable[[NDArray[Any]], dict[str, NDArray[Any]]]

METHODS = ("ivit", "ibert", "fqvit", "lut")
FORMS = ("deferred", "normalized")


class Quantized:
    """A float model and its calibration on `normalized` images.

    prepared: the graph as it was captured; graph: the equalized one that programs are built of.
    """

    def __init__(
        self, model: torch.nn.Module, normalized: torch.Tensor, equalized: bool = True
    ) -> None:
        self.model = model
        self.normalized = normalized
        self.prepared: Graph = prepared(lambda: model)
        self.statistics: Statistics = collect(
            self.prepared, lambda: normalized.split(7), {}, equalized
        )
        self.graph: Graph = equalize(self.prepared, self.statistics.equalization)
        self.edges: Edges = assign_edges(self.graph)
        self.program = cache(self._program)
        self.variants = cache(self._variants)

    def _program(
        self, method: str, form: str = "deferred", bits: int = 8, kind: str = "uint8"
    ) -> Program:
        """The program of a uniform map."""
        return self.build(maps.uniform("tiny", method, bits, form), kind=kind)

    def _variants(self, bits: int = 8) -> Variants:
        """Every method at every site."""
        return variants("tiny", self.graph.sites(), bits, self.build)

    def build(
        self,
        mapping: Map,
        found: dict[str, np.float32] | None = None,
        kind: str = "uint8",
        form: str = "ivit",
    ) -> Program:
        """The program of any map; `found` replaces the calibrated scales."""
        found = self.scales(mapping.activation_bits) if found is None else found
        choices = mapping.resolve(self.graph.sites())
        image = image_input(kind, MEAN, STD, (3, SIZE, SIZE))
        return build(self.graph, self.edges, found, mapping, choices, image, form)

    def measure(
        self,
        how: str,
        given: Batches,
        names: Iterable[str] = METHODS,
        found: Measurements | None = None,
        done: Callable[[int], None] = lambda count: None,
    ) -> Measurements:
        """Measure uniform maps ("joint") or single sites ("isolated"), going on from `found`."""
        found = found or Measurements("tiny", {"weights": "w"}, self.graph.sites())
        made = self.variants(8)
        if how == "isolated":
            isolated(found, self.graph, made, names, given, done)
        else:
            programs = {name: made.uniform(name) for name in names}
            joint(found, self.graph, made, programs, given, done)
        return found

    def scales(self, bits: int = 8) -> dict[str, np.float32]:
        """Calibrated scales by group, a new table each time."""
        return scales(self.statistics, self.edges, bits)

    @cached_property
    def values(self) -> dict[str, torch.Tensor]:
        """Every float tensor of the graph on the calibration images."""
        seen: dict[str, torch.Tensor] = {}
        with torch.no_grad():
            evaluate(self.graph, self.normalized, seen.__setitem__)
        return seen

    @cached_property
    def logits(self) -> torch.Tensor:
        """What the torch model itself returns for the calibration images."""
        with torch.no_grad():
            return self.model(self.normalized)


def worst_error(found: torch.Tensor, expected: torch.Tensor) -> float:
    """Largest absolute error, relative to the largest expected magnitude."""
    assert found.shape == expected.shape
    return float((found - expected).abs().max() / expected.abs().max())


def sqnr(expected: torch.Tensor, found: torch.Tensor) -> float:
    """Signal to quantization noise in dB."""
    assert found.shape == expected.shape
    signal, noise = expected.double(), expected.double() - found.double()
    return 10 * math.log10(float(signal.square().sum() / noise.square().sum()))


def logit_sqnr(quantized: Quantized, program: Program, images: torch.Tensor) -> float:
    """SQNR of a program's logits against the float model's."""
    codes = program.run(images)[program.output]
    return sqnr(quantized.logits, codes.double() * program.output_scale)


def mix_sqnr(quantized: Quantized, methods: Methods, given: Batches) -> float:
    """Logit SQNR of a mix of methods, by runs of the whole program on each batch."""
    program = quantized.variants(8).program(methods)
    with torch.no_grad():
        exactly = torch.cat([evaluate(quantized.graph, images) for _, images in given])
    logits = torch.cat([program.run(pixels)[program.output] for pixels, _ in given])
    return sqnr(exactly, logits.double() * program.output_scale)


def step(program: Program, name: str) -> Step:
    """The step that makes a tensor."""
    return next(s for s in program.steps if s.output == name)


def separate(inputs: list[torch.Tensor]) -> list[torch.Tensor]:
    """Queries, keys and values (B, H, N, d) of what an attention step reads."""
    if len(inputs) == 3:
        return inputs
    (qkv,) = inputs
    return [qkv[:, :, part].transpose(1, 2) for part in range(3)]


def batches(images: torch.Tensor, size: int = 4) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Images as measurements take them: pixels and normalized, `size` at a time."""
    return [(part, normalize(part)) for part in images.split(size)]


def every_tensor(proto: ModelProto, names: list[str], level: str) -> Run:
    """A function from images to every named tensor, on onnxruntime's CPU provider."""
    watched = with_all_outputs(proto, names)
    session = open_session(watched, level=level, threads=1, kernels=False)
    return lambda images: dict(zip(names, session.run(None, {"image": images}), strict=True))
