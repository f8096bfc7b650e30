"""Models with learned quantizers, and bits drawn for them."""

from __future__ import annotations

from typing import Any

import torch
from toolchain_harness import Quantized
from toolchain_models import MEAN, SIZE, STD

from mnq.toolchain import map as maps
from mnq.toolchain.bit_search import BitSearch, SearchRecipe
from mnq.toolchain.first_scales import initialize
from mnq.toolchain.heads import find_parts
from mnq.toolchain.image import image_input
from mnq.toolchain.learned import LearnedQuantizers
from mnq.toolchain.qat import QuantizedModel


def learned(
    quantized: Quantized,
    method: str = "lut",
    heads: str = "paper",
    kind: str = "qvit",
    bits: int = 4,
    switchable: bool = True,
    inputs: str = "uint8",
    seed: int | None = None,
    **options: Any,
) -> tuple[QuantizedModel, LearnedQuantizers]:
    """The model of a uniform map; seed: of bits from 2 to 8 in the place of the first ones."""
    mapping, graph = maps.uniform("tiny", method), quantized.graph
    image = image_input(inputs, MEAN, STD, (3, SIZE, SIZE))
    quantizers = LearnedQuantizers(
        quantized.statistics,
        graph,
        quantized.edges,
        find_parts(graph, heads),
        mapping.resolve(graph.sites()),
        kind,
        bits,
        switchable,
    )
    initialize(quantizers, graph, image, quantized.normalized)
    if seed is not None and quantizers.bits is not None:
        draw = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            quantizers.bits.copy_(torch.rand(quantizers.bits.shape, generator=draw) * 6 + 2)
    return QuantizedModel(graph, mapping, quantizers, image, **options), quantizers


def search(quantized: Quantized, batches: int = 2, **options: Any) -> BitSearch:
    """A trainer of the tiny transformer; options: of the recipe."""
    values = {"epochs": 2, "batch_size": 4, "learning_rate": 1e-3, "ranges": "learned", **options}
    recipe = SearchRecipe(**values)
    kind, bits, switchable = recipe.quantizer, recipe.bits, recipe.switchable
    model, quantizers = learned(quantized, "lut", recipe.heads, kind, bits, switchable)
    return BitSearch(model, quantizers, recipe, batches, quantized.graph)
