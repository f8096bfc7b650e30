"""Two tiny models for the kit, exported as any other: random weights, every method once.

Nothing in them is calibrated or otherwise computed in floats that a machine might round otherwise:
weights and scales are short binary fractions.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from conformance_draw import Array, Draw
from onnx import ModelProto
from timm.models.swin_transformer import SwinTransformer
from timm.models.vision_transformer import VisionTransformer

from mnq.ops.registry import METHODS
from mnq.toolchain.build import build
from mnq.toolchain.capture import capture
from mnq.toolchain.edges import assign_edges
from mnq.toolchain.graph import Graph
from mnq.toolchain.image import image_input
from mnq.toolchain.lower import INPUT, OUTPUT, lower
from mnq.toolchain.map import Map
from mnq.toolchain.prepare import prepare
from mnq.toolchain.program import Program

CLASSES = 5
MEAN, STD = (0.5, 0.375, 0.25), (0.25, 0.5, 0.375)
FORMS = ("deferred", "normalized")


@dataclass(frozen=True)
class Model:
    """A model as ONNX, its input, what it returns, and every tensor in the order of execution."""

    proto: ModelProto
    inputs: dict[str, Array]
    outputs: dict[str, Array]
    tensors: dict[str, Array]


def plain() -> torch.nn.Module:
    """A class token and four patches, four blocks."""
    return VisionTransformer(
        img_size=8,
        patch_size=4,
        embed_dim=8,
        depth=4,
        num_heads=2,
        mlp_ratio=2.0,
        num_classes=CLASSES,
    )


def windows() -> torch.nn.Module:
    """4x4 tokens in four windows, shifted in every second block, merged to 2x2; no class token."""
    return SwinTransformer(
        img_size=8,
        patch_size=2,
        window_size=2,
        embed_dim=8,
        depths=(2, 2),
        num_heads=(1, 2),
        mlp_ratio=2.0,
        num_classes=CLASSES,
    )


BUILDERS = {"vit": (plain, 8, 2), "swin": (windows, 6, 1)}
"""By name the float model, the bits of its codes, and how many images it is given."""

RESIDUAL = 4.0
"""The residual stream reaches further than other tensors."""


def draw_weights(model: torch.nn.Module, draw: Draw) -> torch.nn.Module:
    """Multiples of 2^-8: matrices such that rows keep their size, LayerNorm weights near 1."""
    with torch.no_grad():
        for name, p in model.named_parameters():
            drawn = torch.from_numpy(draw.integers(-127, 127, tuple(p.shape)).astype(np.float32))
            if p.ndim in (2, 4) and "table" not in name:
                size = 2.0 ** np.round(np.log2(4.0 / p[0].numel() ** 0.5))
                p.copy_(drawn / 128 * float(size))
            elif name.endswith("weight"):
                p.copy_(1 + drawn / 256)
            else:
                p.copy_(drawn / 256)
    return model.eval()


def mixed(name: str, graph: Graph, bits: int) -> Map:
    """A map in which the sites of a kind take the methods in turn."""
    turns = {kind: itertools.cycle(methods) for kind, methods in METHODS.items()}
    forms = itertools.cycle(FORMS)
    sites: dict[str, dict[str, str]] = {}
    for site, kind in graph.sites().items():
        sites[site] = {"method": next(turns[kind])}
        if kind == "softmax":
            sites[site]["attention"] = next(forms)
    return Map(name, bits, bits, sites=sites)


def program(name: str) -> Program:
    """The integer program: scales are a little different from tensor to tensor."""
    make, bits, _ = BUILDERS[name]
    with torch.random.fork_rng(devices=[]):  # what the constructor draws is overwritten
        model = draw_weights(make(), Draw(f"model {name}"))
    graph = prepare(capture(model, torch.zeros(2, 3, 8, 8)))
    edges, mapping = assign_edges(graph), mixed(name, graph, bits)
    scales = {
        group: np.float32(
            (33 + 2 * (i % 7))
            / 1024
            * 2.0 ** (8 - edges.bits(group, bits))
            * (RESIDUAL if kind == "residual" else 1.0)
        )
        for i, (group, kind) in enumerate(edges.kinds.items())
    }
    image = image_input("uint8", MEAN, STD, (3, 8, 8))
    return build(graph, edges, scales, mapping.widths(), mapping.resolve(graph.sites()), image)


def models() -> Iterator[tuple[str, Model]]:
    """Every model by name."""
    for name, (_, _, count) in BUILDERS.items():
        made = program(name)
        images = Draw(f"images {name}").integers(0, 255, (count, 3, 8, 8)).astype(np.uint8)
        tensors = {key: x.numpy() for key, x in made.run(torch.from_numpy(images)).items()}
        yield name, Model(lower(made, {}), {INPUT: images}, {OUTPUT: tensors[made.output]}, tensors)
