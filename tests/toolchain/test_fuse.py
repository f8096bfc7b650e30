"""Fuse: fewer tensors, the same integers; what does not fit exactly stays as it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import toolchain_models as models
import torch
from toolchain_harness import FORMS, METHODS, Quantized, given_images
from toolchain_harness import same_integers as check
from toolchain_models import OnPixels, Tokens, case
from torch import nn

from mnq.toolchain.program import Program

Forward = Callable[[Any, torch.Tensor], torch.Tensor]


@pytest.fixture
def unfused() -> Callable[..., Program]:
    """A function that builds a uniform program without the pass."""
    return lambda quantized, *arguments, **keywords: quantized.unfused(*arguments, **keywords)


@pytest.mark.parametrize("kind", ["uint8", "float"])
@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("method", METHODS)
def test_fused_program_computes_the_same_integers(
    quantized: Quantized, unfused: Callable[..., Program], method: str, form: str, bits: int,
    kind: str,
) -> None:  # fmt: skip
    fused = quantized.program(method, form, bits, kind)
    plain = unfused(quantized, method, form, bits, kind)
    check(fused, plain)
    tables = 0 if method in ("ivit", "fqvit") else 2  # ShiftGELU looks at rows
    assert sum(s.operator == "QLinearLut" for s in fused.steps) == tables
    assert len(plain.steps) - len(fused.steps) == 3 + 2 * 5 + tables


def test_only_reshapes_are_left_in_a_block(quantized: Quantized) -> None:
    steps = quantized.program("ibert").steps
    inside = [s for s in steps if s.output.startswith("blocks.0.attn")]
    assert [s.operator for s in inside] == [
        "QLinear", "reshape", "IBertPackedAttention", "reshape", "QLinearAdd",
    ]  # fmt: skip
    assert "transpose" not in {s.operator for s in steps}


@pytest.mark.parametrize("kind", ["uint8", "float"])
def test_image_enters_as_rows_of_patches(quantized: Quantized, kind: str) -> None:
    program = quantized.program("lut", kind=kind)
    assert program.image.patch == (8, 8)
    first = program.steps[0]
    assert (first.operator, first.inputs) == ("QLinear", (program.image.name,))
    source = given_images(kind)
    rows = program.run(source)[program.image.name]
    whole = replace(program.image, patch=None)
    unfolded = nn.functional.unfold(whole.codes(source).double(), 8, stride=8)
    assert torch.equal(rows.reshape(5, 16, -1), unfolded.transpose(1, 2).to(torch.int8))


# --- what does not fit ---


def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    return nn.functional.scaled_dot_product_attention(q, k, v)


def other_order(m: Any, t: torch.Tensor) -> torch.Tensor:
    k, q, v = m.heads(t)
    return m.join(t, attend(q, k, v))


def same_twice(m: Any, t: torch.Tensor) -> torch.Tensor:
    q, _, v = m.heads(t)
    return m.join(t, attend(q, q, v))


def two_sources(m: Any, t: torch.Tensor) -> torch.Tensor:
    q, _, _ = m.heads(t)
    _, k, v = m.heads(t * 0.5)
    return m.join(t, attend(q, k, v))


def four_parts(m: Any, t: torch.Tensor) -> torch.Tensor:
    parts = m.qkv(m.norm(t)).reshape(t.shape[0], -1, 4, 2, 12).permute(2, 0, 3, 1, 4)
    context = attend(parts[0], parts[1], parts[2]).transpose(1, 2).flatten(2)
    return t + m.proj(torch.cat([context, context[:, :, :8]], -1))


def heads_first(m: Any, t: torch.Tensor) -> torch.Tensor:
    parts = m.qkv(m.norm(t)).reshape(t.shape[0], -1, 2, 3, 16).permute(3, 0, 2, 1, 4)
    return m.join(t, attend(*parts.unbind(0)))


def read_twice(m: Any, t: torch.Tensor) -> torch.Tensor:
    context = attend(*m.heads(t))
    return m.join(m.join(t, context), context)


def normed(m: Any, t: torch.Tensor) -> torch.Tensor:
    q, k, v = m.heads(t)
    return m.join(t, attend(nn.functional.layer_norm(q, (16,)), k, v))


@pytest.mark.parametrize(
    "middle", [other_order, same_twice, two_sources, four_parts, heads_first, read_twice, normed]
)
def test_attention_on_other_views_stays(
    middle: Forward, normalized: torch.Tensor, unfused: Callable[..., Program]
) -> None:
    quantized = Quantized(case(middle), normalized)
    fused = quantized.program("lut")
    operators = {s.operator for s in fused.steps}
    assert "LutAttention" in operators and "LutPackedAttention" not in operators
    check(fused, unfused(quantized, "lut"))


def test_views_that_something_else_reads_stay(
    normalized: torch.Tensor, unfused: Callable[..., Program]
) -> None:
    def middle(m: Any, t: torch.Tensor) -> torch.Tensor:
        q, k, v = m.heads(t)
        return m.join(m.join(t, attend(q, k, v)), v)

    quantized = Quantized(case(middle), normalized)
    fused = quantized.program("lut")
    operators = [s.operator for s in fused.steps]
    assert "LutPackedAttention" in operators and operators.count("select") == 2  # v, first token
    check(fused, unfused(quantized, "lut"))


class TwoEmbeddings(Tokens):
    """Patches of two sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.other = nn.Conv2d(3, 32, 16, 16)

    def tokens(self, x: torch.Tensor) -> torch.Tensor:
        other = self.other(x).flatten(2).transpose(1, 2)
        return torch.cat([super().tokens(x), other], 1)


class Wide(Tokens):
    """Patches that are no squares."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, 32, (8, 4), (8, 4))


@pytest.mark.parametrize(
    ("build", "patch"), [(OnPixels, None), (TwoEmbeddings, None), (Wide, (8, 4))]
)
def test_only_an_image_that_is_cut_once_enters_as_patches(
    build: Callable[[], nn.Module],
    patch: tuple[int, int] | None,
    normalized: torch.Tensor,
    unfused: Callable[..., Program],
) -> None:
    quantized = Quantized(models.randomize(build()), normalized)
    for kind in ("uint8", "float"):
        fused = quantized.program("lut", kind=kind)
        assert fused.image.patch == patch
        check(fused, unfused(quantized, "lut", kind=kind))
