"""Variants: every method at every site, what cannot be used, and programs of any mix."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from toolchain_harness import METHODS as NAMES
from toolchain_harness import Quantized, exact

from mnq.ops import registry
from mnq.ops.errors import InputError
from mnq.ops.registry import METHODS, UNIFORM
from mnq.toolchain.map import Map, uniform
from mnq.toolchain.program import Program
from mnq.toolchain.variants import FORM, PAPER_METHODS, Variants

Refusal = Callable[..., str]
TABLES: dict[str, dict[str, Any]] = {
    "softmax": registry.SOFTMAX,
    "gelu": registry.GELU,
    "layernorm": registry.LAYERNORM,
}
WHY = "i-Thing: expected a scale of at least 1, found less; choose another"


def but_for(real: Callable[..., Any], refused: Any) -> Callable[..., Any]:
    """A function of constants that refuses one scale."""

    def constants(*arguments: Any) -> Any:
        if any(np.isscalar(a) and a == refused for a in arguments):
            raise InputError(WHY)
        return real(*arguments)

    return constants


@contextmanager
def refusing(quantized: Quantized, site: str, *methods: str) -> Iterator[None]:
    """Inside, operators of these methods refuse the scales of one site, and only those."""
    kind = quantized.graph.sites()[site]
    key = "weight_constants" if kind == "softmax" else "constants"
    (node,) = (node for node in quantized.graph if node.site == site)
    found = quantized.scales()
    if kind == "softmax":
        refused: Any = np.float32(found[node.scores])
    else:
        refused = float(found[quantized.edges.edges[node.name].group])
    with pytest.MonkeyPatch.context() as patch:
        for method in methods:
            original = TABLES[kind][method]
            constants = but_for(getattr(original, key), refused)
            patch.setitem(TABLES[kind], method, replace(original, **{key: constants}))
        yield


def same_program(found: Program, expected: Program) -> None:
    """The same steps, whatever they hold."""
    assert (found.output, found.output_scale) == (expected.output, expected.output_scale)
    assert found.image == expected.image
    assert found.constants.keys() == expected.constants.keys()
    for name, value in expected.constants.items():
        np.testing.assert_array_equal(found.constants[name], value, strict=True)
    for s, e in zip(found.steps, expected.steps, strict=True):
        assert replace(s, constants={}) == replace(e, constants={})
        assert s.constants.keys() == e.constants.keys()
        for name, value in e.constants.items():
            np.testing.assert_array_equal(s.constants[name], value, strict=True, err_msg=s.output)


def as_map(methods: dict[str, str], bits: int = 8) -> Map:
    sites = {site: {"method": method} for site, method in methods.items()}
    return Map("tiny", bits, bits, {"attention": FORM}, sites)


@pytest.mark.parametrize("bits", [8, 4])
def test_every_method_is_there_at_every_site(quantized: Quantized, bits: int) -> None:
    found = quantized.variants(bits)
    assert (found.bits, found.sites) == (bits, quantized.graph.sites())
    assert list(found.sites) == [s.site for s in found.base.steps if s.site]
    for site, kind in found.sites.items():
        assert set(found.steps[site]) == set(METHODS[kind])
        assert found.unusable[site] == {}
        assert found.candidates(site, NAMES) == list(METHODS[kind])
        paper = [method for method in METHODS[kind] if method in PAPER_METHODS]
        assert found.candidates(site, PAPER_METHODS) == paper
        for method, s in found.steps[site].items():
            prefix = TABLES[kind][method].prefix
            assert s.site == site and s.operator.startswith(prefix)
            assert found.probe(site, method).step is s
            assert found.probe(site, method).choice.method == method


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("name", NAMES)
def test_uniform_maps_have_the_stand_ins_of_the_registry(
    quantized: Quantized, name: str, bits: int
) -> None:
    found = quantized.variants(bits)
    methods = found.uniform(name)
    assert methods == {site: UNIFORM[name][kind] for site, kind in found.sites.items()}
    same_program(found.program(methods), quantized.build_sites(uniform("tiny", name, bits, FORM)))


@settings(exact, max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_the_program_of_any_mix_is_the_one_that_its_map_builds(
    quantized: Quantized, data: st.DataObject
) -> None:
    found = quantized.variants(8)
    methods = {s: data.draw(st.sampled_from(METHODS[kind])) for s, kind in found.sites.items()}
    same_program(found.program(methods), quantized.build_sites(as_map(methods)))


def test_a_mix_leaves_the_others_alone(quantized: Quantized, pixels: torch.Tensor) -> None:
    """The steps are shared: no program changes another."""
    found = quantized.variants(8)
    before = found.program(found.uniform("lut")).run(pixels[:2])
    found.program(found.uniform("fqvit")).run(pixels[:2])
    after = found.program(found.uniform("lut")).run(pixels[:2])
    assert all(torch.equal(before[name], after[name]) for name in before)


# --- what a site refuses ---

REFUSED = [
    ("blocks.1.mlp.act", "ibert", "ivit"),
    ("blocks.0.attn.softmax", "lut", "ivit"),
    ("blocks.0.norm2", "ivit", "ibert"),
    ("norm", "fqvit", "ivit"),
]


@pytest.fixture(params=REFUSED, ids=lambda case: f"{case[1]} at {case[0]}")
def refused(request: pytest.FixtureRequest, quantized: Quantized) -> tuple[Variants, str, str, str]:
    """Variants of a model where one method refuses one site: site, method, the next one."""
    site, method, following = request.param
    with refusing(quantized, site, method):
        return Quantized._variants(quantized), site, method, following


def test_method_that_refuses_a_site_is_no_candidate_there(
    refused: tuple[Variants, str, str, str],
) -> None:
    found, site, method, _ = refused
    kind = found.sites[site]
    assert found.unusable[site] == {method: WHY}
    assert found.candidates(site, NAMES) == [m for m in METHODS[kind] if m != method]
    for other, other_kind in found.sites.items():
        if other != site:
            assert set(found.steps[other]) == set(METHODS[other_kind])
            assert found.unusable[other] == {}


def test_uniform_map_uses_the_next_usable_method(
    refused: tuple[Variants, str, str, str], quantized: Quantized
) -> None:
    found, site, method, following = refused
    for name in NAMES:
        expected = {s: UNIFORM[name][kind] for s, kind in found.sites.items()}
        if expected[site] == method:
            expected[site] = following
        assert found.uniform(name) == expected
        same_program(found.program(expected), quantized.build_sites(as_map(expected)))


def test_several_sites_may_refuse_several_methods(quantized: Quantized) -> None:
    with (
        refusing(quantized, "blocks.0.mlp.act", "ivit", "ibert"),
        refusing(quantized, "norm", "ivit", "ibert"),
    ):
        found = Quantized._variants(quantized)
    assert list(found.steps["blocks.0.mlp.act"]) == ["lut"]
    assert list(found.steps["norm"]) == ["fqvit"]
    assert found.unusable["norm"] == {"ivit": WHY, "ibert": WHY}
    assert {found.uniform(name)["blocks.0.mlp.act"] for name in NAMES} == {"lut"}


def test_nothing_usable_is_an_error_that_names_the_site_and_all_reasons(
    quantized: Quantized, refusal: Refusal
) -> None:
    with refusing(quantized, "blocks.1.mlp.act", "ivit", "ibert", "lut"):
        text = refusal(Quantized._variants, quantized)
    assert "expected a usable method at site blocks.1.mlp.act, found none" in text
    assert all(f"{method}: {WHY}" in text for method in METHODS["gelu"])


def test_nothing_usable_among_the_allowed_is_an_error(
    quantized: Quantized, refusal: Refusal
) -> None:
    with refusing(quantized, "blocks.1.mlp.act", "ivit", "ibert"):
        found = Quantized._variants(quantized)
    text = refusal(found.candidates, "blocks.1.mlp.act", PAPER_METHODS)
    assert "at site blocks.1.mlp.act, found none" in text and text.count(WHY) == 2
