"""LSQ, LSQ+ and Q-ViT's quantizer: the published codes, the slopes of a loss, the formulas."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from toolchain_harness import exact

from mnq.toolchain.lsq import Grid, gradients, least_square_scale, step_factor

ONE = torch.zeros((), dtype=torch.int64)
KINDS = {"s": (False, False), "u": (True, False), "uo": (True, True)}


def grid(
    scale: float, bits: int, lo: float | None = None, dtype: torch.dtype = torch.float64
) -> Grid:
    """Of one part, unsigned if `lo` is given."""
    low = -(2.0 ** (bits - 1)) if lo is None else lo
    numbers = (torch.tensor(x, dtype=dtype) for x in (scale, low, float(bits)))
    return Grid(*numbers, ONE, 1, lo is not None)


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("kind", KINDS)
def test_codes_are_the_published_ones(golden_dir: Path, kind: str, bits: int) -> None:
    data = np.load(golden_dir / "qvit_act.npz")
    x, name = torch.from_numpy(data[f"x_{kind}"]), f"{kind}_b{bits}"
    unsigned, offset = KINDS[kind]
    made = grid(float(data[f"alpha_{name}"]), bits, 0.0 if unsigned else None, torch.float32)
    beta = float(data[f"beta_{name}"]) if offset else 0.0
    np.testing.assert_array_equal(made.codes(x - beta).numpy(), data[f"out_{name}"])


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("kind", ["s", "u"])
def test_first_scales_are_the_published_ones(golden_dir: Path, kind: str, bits: int) -> None:
    data = np.load(golden_dir / "qvit_act.npz")
    scale, beta = least_square_scale(torch.from_numpy(data[f"x_{kind}"]), bits, KINDS[kind][0])
    assert beta == 0
    assert scale == pytest.approx(float(data[f"alpha_{kind}_b{bits}"]), rel=1e-6)  # float32


def test_first_offsets_are_close_to_the_published_ones(golden_dir: Path) -> None:
    """Both end where a scale changes by less than 1e-5; the order of their steps may differ."""
    data = np.load(golden_dir / "qvit_act.npz")
    for bits in range(2, 9):
        scale, beta = least_square_scale(torch.from_numpy(data["x_uo"]), bits, True, True)
        assert scale == pytest.approx(float(data[f"alpha_uo_b{bits}"]), rel=2e-3)
        assert beta == pytest.approx(float(data[f"beta_uo_b{bits}"]), abs=6e-4)


@pytest.mark.parametrize("layer", ["qkv", "proj"])
def test_weights_with_bits_by_head_are_the_published_ones(golden_dir: Path, layer: str) -> None:
    """Three heads of 2, 4 and 7 bits, along the axes that the published code has (spec 6.3)."""
    data = np.load(golden_dir / "qvit_headwise_weight.npz")
    part = torch.arange(24) // 8 if layer == "qkv" else torch.arange(48)[:, None] // 16
    bits = torch.from_numpy(np.rint(data["nbits"]))[part]
    scale = torch.from_numpy(data[f"alpha_{layer}"])[(bits - 2).long()]
    made = Grid(scale, -torch.exp2(bits - 1), bits, part, 3)
    values = made.codes(torch.from_numpy(data["w"])) * scale
    np.testing.assert_array_equal(values.numpy(), data[f"wq_{layer}"])


def drawn(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Values of which many are clipped, and the gradient of a loss."""
    draw = torch.Generator().manual_seed(seed)
    values = torch.randn(3, 40, generator=draw, dtype=torch.float64) * 2
    return values, torch.randn(3, 40, generator=draw, dtype=torch.float64)


def clipped_loss(scale: float, bits: float, beta: float, unsigned: bool) -> float:
    """A loss whose slopes are those of the clipped values alone: nothing else is quantized."""
    values, upstream = drawn()
    low = 0.0 if unsigned else -(2.0 ** (bits - 1))
    high = 2.0**bits - 1 if unsigned else 2.0 ** (bits - 1) - 1
    u = ((values - beta) / scale).clamp(low, high)
    inside = (u > low) & (u < high)
    return float((torch.where(inside, values, u * scale + beta) * upstream).sum())


def slope(function: object, at: float, step: float = 1e-6) -> float:
    return (function(at + step) - function(at - step)) / (2 * step)  # type: ignore[operator]


@pytest.mark.parametrize("bits", [2, 3, 5])
@pytest.mark.parametrize("unsigned", [False, True])
def test_gradients_of_clipped_values_are_the_slopes_of_the_loss(bits: int, unsigned: bool) -> None:
    """Of bits and offset: only what is clipped gives them. Finite differences."""
    values, upstream = drawn()
    scale, steps = 0.26, 1
    beta = -scale * steps if unsigned else 0.0
    found = gradients(values, grid(scale, bits, -steps if unsigned else None), upstream)
    of_bits = slope(lambda b: clipped_loss(scale, b, beta, unsigned), bits)
    assert float(found.bits) == pytest.approx(of_bits, rel=1e-4)
    if unsigned:
        of_offset = slope(lambda b: clipped_loss(scale, bits, b, unsigned), beta)
        assert float(found.offset) == pytest.approx(of_offset, rel=1e-4)


@pytest.mark.parametrize("unsigned", [False, True])
def test_the_gradient_of_a_scale_is_the_formula(unsigned: bool) -> None:
    """Outside it is the slope of the loss, inside rne(x/S) - x/S (spec 6.2)."""
    values, upstream = drawn()
    scale, bits, steps = 0.26, 3, 1
    beta = -scale * steps if unsigned else 0.0
    made = grid(scale, bits, -steps if unsigned else None)
    ratio = values / scale
    inside = (ratio > made.lo) & (ratio < made.hi)
    rounded = float((torch.where(inside, ratio.round() - ratio, 0) * upstream).sum())
    of_clipped = slope(lambda s: clipped_loss(s, bits, beta, unsigned), scale)
    found = float(gradients(values, made, upstream).scale)
    assert found == pytest.approx(rounded + of_clipped, rel=1e-4)


@exact
@given(st.integers(2, 8), st.booleans(), st.integers(0, 1000))
def test_parts_get_the_gradients_of_their_own_values(bits: int, unsigned: bool, seed: int) -> None:
    """As if every part were a tensor of its own; the order of sums is another."""
    values, upstream = drawn(seed)
    index = torch.arange(40) % 3
    low = torch.tensor(-1.0 if unsigned else -(2.0 ** (bits - 1)), dtype=torch.float64)
    scales = torch.tensor([0.1, 0.3, 0.7], dtype=torch.float64)
    every = torch.full((40,), float(bits), dtype=torch.float64)
    found = gradients(values, Grid(scales[index], low, every, index, 3, unsigned), upstream)
    for part in range(3):
        own = grid(float(scales[part]), bits, -1.0 if unsigned else None)
        alone = gradients(values[:, index == part], own, upstream[:, index == part])
        assert torch.equal(found.values[:, index == part], alone.values)
        for name in ("scale", "bits", "offset"):
            one, other = getattr(found, name)[part], getattr(alone, name)[0]
            assert float(one) == pytest.approx(float(other), rel=1e-4, abs=1e-4)


def test_values_inside_pass_their_gradient_and_clipped_ones_none() -> None:
    values = torch.tensor([-3.0, -0.6, 0.4, 0.9, 5.0], dtype=torch.float64)
    found = gradients(values, grid(0.5, 3), torch.ones_like(values))
    assert found.values.tolist() == [0, 1, 1, 1, 0]


def test_the_step_factor_is_that_of_lsq() -> None:
    found = step_factor(torch.tensor([100.0]), torch.tensor([7.0]))
    assert float(found) == pytest.approx(1 / math.sqrt(700))


def test_a_tensor_of_zeros_has_a_scale_of_zero() -> None:
    assert least_square_scale(torch.zeros(9), 4) == (0.0, 0.0)


@exact
@given(st.integers(2, 8), st.integers(0, 1000))
def test_the_first_scale_is_better_than_the_largest_values(bits: int, seed: int) -> None:
    values, _ = drawn(seed)

    def error(scale: float) -> float:
        return float((grid(scale, bits).codes(values) * scale - values).square().sum())

    scale, _ = least_square_scale(values, bits)
    assert error(scale) <= error(float(values.abs().max()) / (2 ** (bits - 1) - 1)) * (1 + 1e-9)
