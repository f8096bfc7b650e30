"""Lookup: a GELU moves into the layer that it alone reads; any other stays as it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from toolchain_harness import Quantized, same_integers, step
from toolchain_models import case, pixels
from torch.nn.functional import gelu

from mnq.ops.integer import INT16
from mnq.ops.registry import OPERATORS
from mnq.toolchain.lookup import look_up
from mnq.toolchain.map import Map, uniform
from mnq.toolchain.program import Program

Forward = Callable[[Any, torch.Tensor], torch.Tensor]
CODES = torch.arange(-128, 128).to(torch.int8)
ACT, LAYER = "blocks.0.mlp.act", "blocks.0.mlp.fc1"


@pytest.fixture
def plain(quantized: Quantized) -> Program:
    """The program of a uniform map with a step for every site."""
    return quantized.build_sites(uniform("tiny", "ibert"))


def operators(program: Program) -> dict[str, str]:
    return {s.output: s.operator for s in program.steps}


def same_tensors(fused: Program, plain: Program) -> None:
    """All tensors of `fused` are those of `plain`."""
    found, expected = (program.run(pixels(5, seed=41)) for program in (fused, plain))
    for name, value in found.items():
        assert torch.equal(value, expected[name]), name


def changed(program: Program, name: str, **fields: Any) -> Program:
    """The program with other fields of one step."""
    return replace(
        program,
        steps=[replace(s, **fields) if s.output == name else s for s in program.steps],
    )


@pytest.mark.parametrize("method", ["ibert", "lut"])
@pytest.mark.parametrize("bits", [8, 6, 4])
def test_table_is_what_the_operator_gives_for_every_code(
    quantized: Quantized, method: str, bits: int
) -> None:
    before = quantized.build_sites(uniform("tiny", method, bits))
    after = look_up(before)
    layer, act, made = step(before, LAYER), step(before, ACT), step(after, ACT)
    operator = OPERATORS[act.operator]
    given = [torch.as_tensor(act.constants[name]) for name in operator.inputs[1:]]
    assert made.operator == "QLinearLut" and made.inputs == layer.inputs
    expected = operator(CODES, *given, **act.settings)
    np.testing.assert_array_equal(made.constants["table"], expected.numpy(), strict=True)
    assert all(made.constants[name] is value for name, value in layer.constants.items())
    assert (made.site, made.reads, made.scale) == (act.site, act.reads, act.scale)
    assert made.module == "blocks.0.mlp.fc1, blocks.0.mlp.act"


def test_tensor_of_the_layer_is_gone_and_all_others_keep_their_integers(plain: Program) -> None:
    fused = look_up(plain)
    assert set(operators(plain)) - set(operators(fused)) == {LAYER, "blocks.1.mlp.fc1"}
    same_tensors(fused, plain)


def test_a_method_of_rows_stays(quantized: Quantized) -> None:
    mapping = Map("tiny", 8, 8, {"gelu": "ivit", "softmax": "lut", "layernorm": "ibert"})
    alone = quantized.build_sites(mapping)
    assert look_up(alone).steps == alone.steps


def test_codes_that_the_program_returns_stay(plain: Program) -> None:
    returned = replace(plain, features={LAYER: 0.5})
    fused = look_up(returned)
    assert operators(fused)[LAYER] == "QLinear" and operators(fused)[ACT] == "IBertGelu"
    assert operators(fused)["blocks.1.mlp.act"] == "QLinearLut"
    same_tensors(fused, returned)


@pytest.mark.parametrize("name", [LAYER, ACT])
def test_wider_codes_stay(plain: Program, name: str) -> None:
    wide = changed(plain, name, settings={"to": INT16})
    assert operators(look_up(wide))[ACT] == "IBertGelu"


def read_by_others(m: Any, t: torch.Tensor) -> torch.Tensor:
    y = m.proj(m.norm(t))
    return t + gelu(y) + y


def behind_a_view(m: Any, t: torch.Tensor) -> torch.Tensor:
    return t + gelu(m.proj(m.norm(t)).roll(1, 1))


def without_a_layer(m: Any, t: torch.Tensor) -> torch.Tensor:
    return t + m.proj(gelu(m.norm(t)))


@pytest.mark.parametrize("middle", [read_by_others, behind_a_view, without_a_layer])
def test_a_gelu_that_is_not_alone_behind_a_layer_stays(
    middle: Forward, normalized: torch.Tensor
) -> None:
    quantized = Quantized(case(middle), normalized)
    fused = quantized.program("lut")
    assert "LutGelu" in operators(fused).values()
    same_integers(fused, quantized.unfused("lut"))
