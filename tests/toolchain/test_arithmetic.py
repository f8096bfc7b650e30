"""Arithmetic: the constants of each operator, and what it reads at a site."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import toolchain_models as models
from toolchain_harness import METHODS, Quantized, step

from mnq.toolchain import map as maps
from mnq.toolchain.build import build
from mnq.toolchain.edges import assign_edges
from mnq.toolchain.graph import Graph, Node
from mnq.toolchain.image import image_input
from mnq.toolchain.program import Codes

Refusal = Callable[..., str]
SCORES = "blocks.0.attn.context.scores"


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("method", METHODS)
def test_steps_of_sites_say_which_codes_their_function_reads(
    quantized: Quantized, method: str, bits: int
) -> None:
    """A LayerNorm the residual stream, GELU its input, attention its scores."""
    program = quantized.build_sites(maps.uniform("tiny", method, bits))
    found = quantized.scales(bits)
    scales = {program.image.name: 1.0, **{s.output: s.scale for s in program.steps}}
    for s in program.steps:
        if not s.site:
            assert s.reads is None
        elif s.operator.endswith("Attention"):
            scale = float(found[f"{s.output}.scores"])
            assert scale > 2.0**-8 and s.reads == Codes(scale, bits)
        else:
            width = 16 if s.operator.endswith("LayerNorm") else bits
            assert s.reads == Codes(scales[s.inputs[0]], width)


def test_scores_have_a_finest_scale(quantized: Quantized) -> None:
    """Flat attention: what differs by less than 2^-8 needs no finer codes."""
    built = []
    for scale in (2.0**-8, 2.0**-12, 2.0**-23):
        found = quantized.scales() | {SCORES: np.float32(scale)}
        context = step(
            quantized.build(maps.uniform("tiny", "ibert"), found), "blocks.0.attn.context"
        )
        assert context.reads == Codes(2.0**-8, 8)
        built.append(context.constants)
    for constants in built[1:]:
        for name, value in built[0].items():
            np.testing.assert_array_equal(constants[name], value, strict=True, err_msg=name)


def test_means_and_unit_vectors_have_constants_of_their_own(
    quantizations: Callable[..., Quantized],
) -> None:
    """The mean's number of tokens is in its ratio; unit vectors have no scale above them."""
    found = quantizations(models.cosine_windows)
    program = found.program("lut")
    scales = {s.output: s.scale for s in program.steps}
    (mean,) = [s for s in program.steps if s.operator == "MeanTokens"]
    m, e = (int(np.asarray(mean.constants[key])) for key in "me")
    ratio = scales[mean.inputs[0]] / mean.scale / 16  # 4x4 tokens
    assert m / 2**e == pytest.approx(ratio, rel=2.0**-30)
    unit = [s for s in program.steps if s.operator == "L2Normalize"]
    assert len(unit) == 2 * 3
    for s in unit:
        m, e = (int(np.asarray(s.constants[key])) for key in "me")
        assert m / 2**e == pytest.approx(2.0**-30 / s.scale, rel=2.0**-30)
        assert 2.0**-8 < s.scale <= 2.0**-6.9  # all codes for -1..1, or for the largest seen


def test_factors_of_heads_are_multipliers_of_heads(
    quantizations: Callable[..., Quantized],
) -> None:
    found = quantizations(models.cosine_windows)
    node = found.graph.nodes["layers.0.blocks.0.attn.context"]
    context = step(found.program("lut"), node.name)
    scale = {s.output: s.scale for s in found.program("lut").steps}
    product = scale[context.inputs[0]] * scale[context.inputs[1]]
    assert context.reads is not None
    wanted = product * node.parameters["factor"].double().numpy() / context.reads.scale
    m, e = (np.asarray(context.constants[key], np.float64) for key in ("m_s", "e_s"))
    assert m.shape == (2, 1, 1)
    np.testing.assert_allclose(m / 2**e, wanted, rtol=2.0**-29)


def test_mean_over_more_tokens_than_its_sum_holds_is_refused(
    quantized: Quantized, refusal: Refusal
) -> None:
    """Without a calibration, which would take long: the nodes are enough."""
    nodes = [
        Node("input", "input", (), (-1, 3, 4, 4), ""),
        Node("t", "reshape", ("input",), (-1, (1 << 16) + 1, 4), ""),
        Node("pool", "mean", ("t",), (-1, 4), "pool"),
    ]
    graph = Graph({node.name: node for node in nodes}, "input", "pool")
    image = image_input("float", (0.5,) * 3, (0.5,) * 3, (3, 4, 4))
    scales = {"input": np.float32(0.1), "pool": np.float32(0.1)}
    mapping = maps.uniform("tiny", "lut")
    text = refusal(build, graph, assign_edges(graph), scales, mapping, {}, image)
    assert "at most 65536 tokens, found 65537 in module 'pool'" in text
