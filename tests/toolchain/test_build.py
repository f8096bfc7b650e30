"""Build: which operator each node becomes, with which scales, widths and constants."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import toolchain_models as models
import torch
from toolchain_harness import Quantized, sqnr, step

from mnq.ops import registry
from mnq.ops.errors import InputError
from mnq.ops.registry import UNIFORM
from mnq.ops.requantize.op import Constants, code_range
from mnq.toolchain import map as maps
from mnq.toolchain.build import UnusableMethod
from mnq.toolchain.map import Map
from mnq.toolchain.views import VIEWS


def test_steps_say_where_they_come_from(quantized: Quantized) -> None:
    program, graph = quantized.program("ivit"), quantized.graph
    for s in program.steps:
        node = graph.nodes[s.output]
        assert (s.module, s.site) == (node.module, node.site)
        assert math.prod(s.shape) == math.prod(node.shape)
    assert step(program, "blocks.0.attn.context").operator == "IVitPackedAttention"
    assert {s.site for s in program.steps} - {""} == set(graph.sites())


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


# --- what cannot be built ---


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
