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
from toolchain_models import MEAN, SIZE, STD, normalize, pixels, prepared

from mnq.runtime.session import infer, open_session, with_all_outputs
from mnq.toolchain import map as maps
from mnq.toolchain.build import assemble, build
from mnq.toolchain.calibrate import Statistics, collect, scales
from mnq.toolchain.edges import Edges, assign_edges
from mnq.toolchain.equalize import equalize
from mnq.toolchain.evaluate import evaluate
from mnq.toolchain.fuse import fuse_views
from mnq.toolchain.graph import Graph
from mnq.toolchain.image import image_input
from mnq.toolchain.lower import lower
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

    def unfused(
        self, method: str | Map, form: str = "deferred", bits: int = 8, kind: str = "uint8"
    ) -> Program:
        """The program of a map, or of a uniform one, before anything is fused."""
        mapping = maps.uniform("tiny", method, bits, form) if isinstance(method, str) else method
        return assemble(*self._source(mapping, kind=kind))

    def _variants(self, bits: int = 8) -> Variants:
        """Every method at every site."""
        return variants("tiny", self.graph.sites(), bits, self.build_sites)

    def build(
        self,
        mapping: Map,
        found: dict[str, np.float32] | None = None,
        kind: str = "uint8",
        form: str = "ivit",
    ) -> Program:
        """The program of any map; `found` replaces the calibrated scales."""
        return build(*self._source(mapping, found, kind, form))

    def build_sites(self, mapping: Map) -> Program:
        """The same with a step for every site alone."""
        return fuse_views(assemble(*self._source(mapping)))

    def _source(
        self,
        mapping: Map,
        found: dict[str, np.float32] | None = None,
        kind: str = "uint8",
        form: str = "ivit",
    ) -> tuple[Any, ...]:
        """The arguments of `build`."""
        found = self.scales(mapping.activation_bits) if found is None else found
        choices = mapping.resolve(self.graph.sites())
        image = image_input(kind, MEAN, STD, (3, SIZE, SIZE))
        return self.graph, self.edges, found, mapping.widths(), choices, image, form

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
        (logits,) = self.outputs
        return logits

    @cached_property
    def outputs(self) -> list[torch.Tensor]:
        """The same, where it returns several tensors."""
        with torch.no_grad():
            return listed(self.model(self.normalized))


def returned(graph: Graph, images: torch.Tensor) -> list[torch.Tensor]:
    """Everything that a graph returns in float, in its order."""
    seen: dict[str, torch.Tensor] = {}
    with torch.no_grad():
        evaluate(graph, images, seen.__setitem__)
    return [seen[name] for name in graph.outputs]


def listed(result: Any) -> list[torch.Tensor]:
    """Everything that a torch model returned, in the order of its graph."""
    return [*result] if isinstance(result, tuple) else [result]


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


def given_images(kind: str) -> torch.Tensor:
    """Five images as a program takes them; beyond all pixels where the input is float."""
    given = pixels(5, seed=41)
    return given if kind == "uint8" else normalize(given) * 1.5


def same_integers(fused: Program, plain: Program) -> None:
    """All tensors of `fused` are those of `plain`; attention's in their other layout."""
    source = given_images(fused.image.kind)
    found, expected = fused.run(source), plain.run(source)
    if fused.image.patch is not None:
        del found[fused.image.name], expected[fused.image.name]
    assert fused.outputs == plain.outputs
    for name, value in found.items():
        made = None if name == fused.image.name else step(fused, name)
        if made is not None and name not in expected:  # a view of the qkv tensor
            assert (made.operator, name) == ("reshape", f"{name.removesuffix('.qkv')}.qkv")
            want = expected[made.inputs[0]].reshape(value.shape)
        elif made is not None and len(made.inputs) == 1 and made.operator.endswith("Attention"):
            want = by_token(expected[name], made)
        else:
            want = expected[name]
        assert value.dtype == want.dtype and torch.equal(value, want), name


def by_token(value: torch.Tensor, made: Step) -> torch.Tensor:
    """Results of attention by head, (B, H, N, d) or of windows, as the step that packs them."""
    tokens, heads, depth = made.shape[1:]
    inverse = np.asarray(made.constants.get("inverse", np.arange(tokens)))
    windows = len(np.asarray(made.constants.get("order", inverse[None])))
    rows = value.reshape(-1, windows, heads, tokens // windows, depth).transpose(2, 3)
    return rows.reshape(-1, tokens, heads, depth)[:, torch.from_numpy(inverse)]


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
    return lambda images: dict(zip(names, infer(session, images), strict=True))


LEVELS = ("disabled", "all")


def images_for(kind: str, batch: int) -> NDArray[Any]:
    """Black and white, or random; beyond all pixels where the input is float."""
    given = pixels(batch, seed=batch)
    if batch == 1:
        given = pixels(5, seed=11)[4:]
    return given.numpy() if kind == "uint8" else (normalize(given) * 1.5).numpy()


def assert_same(found: NDArray[Any], expected: NDArray[Any], what: str) -> None:
    """The same type and the same integers."""
    assert found.dtype == expected.dtype, what
    np.testing.assert_array_equal(found, expected, strict=True, err_msg=what)


def check_on_onnxruntime(
    program: Program, levels: tuple[str, ...] = LEVELS, deployed: bool = True
) -> None:
    """Every tensor at every level, for one image and for three; `deployed`: the outputs alone."""
    proto = lower(program, {})
    names = [program.image.name, *(step.output for step in program.steps)]
    for level in levels:
        run = every_tensor(proto, names, level)
        for batch in (1, 3):
            images = images_for(program.image.kind, batch)
            expected = {n: v.numpy() for n, v in program.run(torch.from_numpy(images)).items()}
            for name, values in run(images).items():
                assert_same(values, expected[name], f"{name}, level {level}, batch {batch}")
        if not deployed:
            continue
        alone = open_session(proto, level=level, threads=1, kernels=False)
        for name, values in zip(program.outputs, infer(alone, images), strict=True):
            assert_same(values, expected[name], f"{name} as output, level {level}")
