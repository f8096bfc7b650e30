"""Build: which operator each node becomes, with which scales, widths and constants."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import toolchain_models as models
import torch
from toolchain_harness import METHODS, Quantized, sqnr, step

from mnq.ops import registry
from mnq.ops.errors import InputError
from mnq.ops.registry import UNIFORM
from mnq.ops.requantize.op import Constants, code_range
from mnq.toolchain import map as maps
from mnq.toolchain.build import UnusableMethod, build
from mnq.toolchain.edges import assign_edges
from mnq.toolchain.graph import Graph, Node
from mnq.toolchain.image import image_input
from mnq.toolchain.map import Map
from mnq.toolchain.program import Codes
from mnq.toolchain.views import VIEWS

Refusal = Callable[..., str]
SCORES = "blocks.0.attn.context.scores"


def test_steps_say_where_they_come_from(quantized: Quantized) -> None:
    program, graph = quantized.program("ivit"), quantized.graph
    for s in program.steps:
        node = graph.nodes[s.output]
        assert (s.module, s.site) == (node.module, node.site)
        assert math.prod(s.shape) == math.prod(node.shape)
    assert step(program, "blocks.0.attn.context").operator == "IVitPackedAttention"
    assert {s.site for s in program.steps} - {""} == set(graph.sites())


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


def test_norm_that_feeds_the_residual_stream_has_16_bits(normalized: torch.Tensor) -> None:
    """As in models with a norm before the first block."""
    found = Quantized(models.tiny(depth=1, pre_norm=True), normalized)
    program = found.program("ibert")
    codes = program.run(models.pixels(16))["norm_pre"]
    assert codes.dtype == torch.int16 and int(codes.abs().max()) > 2**14
    expected = found.values["norm_pre"]
    assert sqnr(expected, codes.double() * step(program, "norm_pre").scale) > 35  # 42; 8 bits: 30


def test_a_map_with_several_methods_uses_each_at_its_site(quantized: Quantized) -> None:
    sites = {"blocks.0.attn.softmax": {"method": "lut", "attention": "normalized"}}
    sites["blocks.1.mlp.act"] = {"method": "ivit"}
    program = quantized.build(Map("tiny", defaults=UNIFORM["ibert"], sites=sites))
    operators = {s.site: s.operator for s in program.steps if s.site}
    assert operators["blocks.0.attn.softmax"] == "LutNormalizedPackedAttention"
    assert operators["blocks.1.attn.softmax"] == "IBertPackedAttention"
    assert operators["blocks.1.mlp.act"] == "IVitGelu"
    assert operators["blocks.0.mlp.act"] == "QLinearLut"
    alone = quantized.build_sites(Map("tiny", defaults=UNIFORM["ibert"], sites=sites))
    assert step(alone, "blocks.0.mlp.act").operator == "IBertGelu"


def test_building_leaves_the_scales_alone(quantized: Quantized) -> None:
    found = quantized.scales()
    before = dict(found)
    quantized.build(maps.uniform("tiny", "ibert"), found)
    assert found == before


@pytest.mark.parametrize("form", ["ivit", "paper"])
@pytest.mark.parametrize("bits", [8, 4])
def test_accumulators_of_linear_layers_fit_int32(
    quantized: Quantized, bits: int, form: str
) -> None:
    """For any input codes, not only for those of some images."""
    program = quantized.build(maps.uniform("tiny", "lut", bits), form=form)
    layers = [s for s in program.steps if s.operator.startswith("QLinear")]
    assert len(layers) == 2 * 4 + 2
    for s in layers:
        weight, bias = (np.asarray(s.constants[k], np.int64) for k in ("w", "bias"))
        lo, hi = code_range(bits)
        assert lo <= weight.min() and weight.max() <= hi
        worst = 128 * np.abs(weight).sum(axis=0) + np.abs(bias)
        assert worst.max() < 2**31, s.output


def test_class_token_shares_the_scale_of_the_patches(quantized: Quantized) -> None:
    """Both are calibrated: neither saturates at the other's range."""
    program = quantized.program("lut")
    tensors = program.run(models.pixels(16))
    assert step(program, "patch_embed.proj").scale == step(program, "expand").scale
    patches = tensors["patch_embed.proj"]
    assert int(patches.abs().max()) < 2**15 - 1
    values = quantized.values
    largest = max(float(values[n].abs().max()) for n in ("constant", "patch_embed.proj"))
    assert step(program, "expand").scale == pytest.approx(largest / 32767, rel=2.0**-7)


def test_views_are_steps_of_their_own_name(quantized: Quantized) -> None:
    program = quantized.program("lut")
    views = [s for s in program.steps if s.operator in VIEWS]
    assert len(views) >= 8 and all(not s.constants for s in views)


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


# --- what cannot be built ---


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


@pytest.mark.parametrize("site", ["blocks.1.norm2", "blocks.0.attn.softmax", "blocks.1.mlp.act"])
def test_method_that_refuses_a_site_is_an_error_of_that_site(
    quantized: Quantized, site: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first call for the site's scale fails, as an operator out of its range does."""
    kind = quantized.graph.sites()[site]
    table = {"softmax": registry.SOFTMAX, "gelu": registry.GELU, "layernorm": registry.LAYERNORM}
    method = table[kind]["ivit"]
    key = "weight_constants" if kind == "softmax" else "constants"
    number = [s for s, k in quantized.graph.sites().items() if k == kind].index(site)
    calls = []

    def refusing(*arguments: object) -> Constants:
        calls.append(arguments)
        if len(calls) == number + 1:
            raise InputError("i-Thing: expected a better scale, found this; choose another")
        return getattr(method, key)(*arguments)

    monkeypatch.setitem(table[kind], "ivit", replace(method, **{key: refusing}))
    with pytest.raises(UnusableMethod) as caught:
        quantized.build(maps.uniform("tiny", "ivit"))
    assert caught.value.site == site
    assert str(caught.value) == "i-Thing: expected a better scale, found this; choose another"
    assert isinstance(caught.value, InputError)


def test_fault_elsewhere_is_no_fault_of_a_method(quantized: Quantized) -> None:
    """A linear layer's ratio of scales out of range: no other method would help."""
    found = quantized.scales() | {"blocks.0.mlp.fc1": np.float32(1e-30)}
    with pytest.raises(InputError, match="ratio of scales") as caught:
        quantized.build(maps.uniform("tiny", "ibert"), found)
    assert not isinstance(caught.value, UnusableMethod)
