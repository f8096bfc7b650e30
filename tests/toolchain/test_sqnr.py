"""SQNR: both averages against their formulas in plain Python, and the edges of the ratio."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from toolchain_harness import exact

from mnq.toolchain.sqnr import CEILING, Powers, decibels

Refusal = Callable[..., str]
Array = NDArray[np.float64]


def powers(x: Array, q: Array, batch: int = 100) -> Powers:
    """Powers of float32 x and float64 q, `batch` images at a time."""
    found = Powers()
    for i in range(0, len(x), batch):
        part = slice(i, i + batch)
        found.update(torch.from_numpy(x[part].astype(np.float32)), torch.from_numpy(q[part]))
    return found


def eq10(x: Array, q: Array) -> float:
    """20 log10( (1/N) sum_i E[x_i^2] / E[(x_i - q_i)^2] )."""
    ratios = []
    for image, code in zip(x, q, strict=True):
        exactly = np.float64(np.float32(image))
        ratios.append(np.mean(exactly**2) / np.mean((exactly - code) ** 2))
    return 20 * math.log10(sum(ratios) / len(ratios))


def usual(x: Array, q: Array) -> float:
    """10 log10( sum x^2 / sum (x - q)^2 )."""
    exactly = np.float64(np.float32(x))
    return float(10 * math.log10((exactly**2).sum() / ((exactly - q) ** 2).sum()))


def sample(images: int, seed: int, shape: tuple[int, ...] = (3, 5)) -> tuple[Array, Array]:
    """Images of very different power, and what quantization leaves of them."""
    rng = np.random.default_rng(seed)
    size = 10 ** rng.uniform(-1.5, 1.5, (images, *[1] * len(shape)))
    x = rng.normal(size=(images, *shape)) * size
    return x, x + rng.normal(size=x.shape) * 0.01 * size ** rng.uniform(-1, 1)


@exact
@given(st.integers(1, 6), st.integers(0, 10_000), st.integers(1, 7))
def test_both_figures_are_their_formulas(images: int, seed: int, batch: int) -> None:
    x, q = sample(images, seed)
    found = powers(x, q, batch)
    assert found.asqnr() == pytest.approx(eq10(x, q), abs=1e-6)
    assert found.sqnr_db() == pytest.approx(usual(x, q), abs=1e-6)


@exact
@given(st.integers(2, 6), st.integers(0, 10_000), st.data())
def test_images_can_be_picked(images: int, seed: int, data: st.DataObject) -> None:
    x, q = sample(images, seed)
    chosen = data.draw(st.lists(st.integers(0, images - 1), min_size=1))
    found = powers(x, q)
    assert found.asqnr(chosen) == pytest.approx(eq10(x[chosen], q[chosen]), abs=1e-6)
    assert found.sqnr_db(chosen) == pytest.approx(usual(x[chosen], q[chosen]), abs=1e-6)
    assert found.asqnr(iter(chosen)) == found.asqnr(chosen)
    assert found.sqnr_db(iter(chosen)) == found.sqnr_db(chosen)


def test_mean_of_ratios_is_not_ratio_of_means() -> None:
    """Ratios of 64 and 1: 32.5 in the mean, but 2 of signal over 65/64 of noise together."""
    x, q = np.float64([[1.0, -1.0], [1.0, 1.0]]), np.float64([[1.125, -1.125], [2.0, 2.0]])
    found = powers(x, q)
    assert found.ratios() == [64.0, 1.0]
    assert found.asqnr() == pytest.approx(20 * math.log10(32.5))
    assert found.sqnr_db() == pytest.approx(10 * math.log10(2 / (1 + 1 / 64)))


def test_one_image_has_twice_the_usual_decibels() -> None:
    found = powers(np.float64([[2.0, 0.0, 0.0, 0.0]]), np.float64([[1.5, 0.5, 0.5, 0.5]]))
    assert (found.signal, found.noise) == ([1.0], [0.25])
    assert found.sqnr_db() == pytest.approx(10 * math.log10(4))
    assert found.asqnr() == pytest.approx(2 * found.sqnr_db())


def test_image_without_noise_counts_as_the_ceiling() -> None:
    x = np.float64([[1.0, 2.0], [1.0, 2.0]])
    found = powers(x, x)
    assert found.ratios() == [CEILING, CEILING]
    assert found.asqnr() == pytest.approx(240.0) and found.sqnr_db() == pytest.approx(120.0)
    one_exact = powers(x, x + np.float64([[0.0], [1.0]]))
    assert one_exact.ratios() == [CEILING, 2.5]
    assert one_exact.asqnr() == pytest.approx(20 * math.log10((CEILING + 2.5) / 2))
    assert one_exact.sqnr_db() == pytest.approx(10 * math.log10(5.0))


def test_hardly_any_noise_counts_no_more_than_none() -> None:
    x = np.float64([[1.0, 2.0]])
    assert powers(x, x + 1e-9).ratios() == [CEILING]
    assert powers(x, x + 1e-200).asqnr() == powers(x, x).asqnr()


@pytest.mark.parametrize(("noise", "ratio"), [(0.0, CEILING), (0.5, 0.0)])
def test_image_without_signal(noise: float, ratio: float) -> None:
    """Nothing kept as nothing is perfect; noise out of nothing is the worst there is."""
    zero = np.zeros((1, 4))
    found = powers(zero, zero + noise)
    assert found.ratios() == [ratio]
    sign = 1 if ratio else -1
    assert found.asqnr() == pytest.approx(sign * 240.0)
    assert found.sqnr_db() == pytest.approx(sign * 120.0)


def test_sums_are_double() -> None:
    """In float32 a million squares of 1e-3 beside one large value would get lost."""
    x = np.full((1, 1 << 20), 1e-3)
    x[0, 0] = 1e4
    q = x.astype(np.float32).astype(np.float64) + 1e-4
    assert powers(x, q).asqnr() == pytest.approx(eq10(x, q), abs=1e-9)


def test_any_shape_is_one_tensor_per_image() -> None:
    x, q = sample(3, 5, (2, 4, 6))
    flat = powers(x.reshape(3, -1), q.reshape(3, -1))
    assert powers(x, q).ratios() == flat.ratios()
    assert powers(x, q).asqnr() == pytest.approx(eq10(x, q), abs=1e-6)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_float_model_that_overflows_is_refused(value: float, refusal: Refusal) -> None:
    """Its noise would be no number either, and a map could be chosen by it."""
    x = torch.tensor([[1.0, 2.0], [1.0, value]])
    assert "expected finite" in refusal(Powers().update, x, torch.zeros(2, 2))


@exact
@given(st.floats(0, 1e300), st.floats(0, 1e300))
def test_decibels_stay_within_the_ceiling(signal: float, noise: float) -> None:
    found = decibels(signal, noise)
    assert -120.0 - 1e-9 <= found <= 120.0 + 1e-9
    if noise and 1e-11 < signal / noise < 1e11:
        assert found == pytest.approx(10 * math.log10(signal / noise))


def test_decibels_of_a_tenfold_ratio() -> None:
    assert decibels(10.0, 1.0) == pytest.approx(10.0)
    assert decibels(1.0, 10.0) == pytest.approx(-10.0)
    assert decibels(0.0, 1.0) == pytest.approx(-120.0)
    assert decibels(0.0, 0.0) == decibels(5.0, 0.0) == pytest.approx(120.0)
