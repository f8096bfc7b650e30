"""Bit search: the budget pulls bits down, sigma settles them, and a run goes on from any step."""

from __future__ import annotations

import itertools

import pytest
import torch
from toolchain_harness import Quantized
from toolchain_learned import search
from toolchain_training import example, same, snapshot

from mnq.toolchain.bit_search import BitSearch


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def moving(trainer: BitSearch) -> torch.Tensor:
    """The bits, to read and write."""
    bits = trainer.quantizers.bits
    assert bits is not None
    return bits.detach()


def train(trainer: BitSearch, pixels: torch.Tensor, steps: int) -> None:
    for number in range(trainer.step, trainer.step + steps):
        trainer.train_step(*example(pixels, number))


def test_a_search_begins_above_its_budget_and_ends_near_it(
    quantized: Quantized, pixels: torch.Tensor
) -> None:
    trainer = search(quantized, batches=15, bits=3, bits_rate=0.1, sigma=1.0)
    assert trainer.bitops() > 1.3 * trainer.budget
    train(trainer, pixels, 30)
    assert trainer.bitops() == pytest.approx(trainer.budget, rel=0.1)


def test_a_uniform_model_costs_the_budget(quantized: Quantized) -> None:
    trainer = search(quantized, quantizer="lsq+", bits=3)
    assert trainer.bitops() == pytest.approx(trainer.budget, rel=1e-6)


def test_the_penalty_is_the_square_of_the_excess(
    quantized: Quantized, pixels: torch.Tensor
) -> None:
    images, targets = example(pixels, 0)
    plain, dear = (search(quantized, eta=eta) for eta in (0.0, 3.0))
    excess = dear.bitops() / dear.budget - 1
    with torch.no_grad():
        found = float(dear.loss(images, targets) - plain.loss(images, targets))
    assert excess > 0.3
    assert found == pytest.approx(3 * excess**2, rel=1e-4)


def test_bits_move_until_sigma_and_no_further(quantized: Quantized, pixels: torch.Tensor) -> None:
    trainer = search(quantized, batches=5, sigma=0.5)
    seen = [moving(trainer).clone()]
    for number in range(10):
        trainer.train_step(*example(pixels, number))
        seen.append(moving(trainer).clone())
    moved = [not torch.equal(a, b) for a, b in itertools.pairwise(seen)]
    assert moved == [True] * 5 + [True] + [False] * 4  # the first step behind sigma settles them


def near(trainer: BitSearch, bits: float) -> torch.Tensor:
    """Bits drawn from `bits` to 1 more, but for those of the first and last layer, which keep 8."""
    first = moving(trainer).clone()
    drawn = bits + torch.rand(len(first), generator=torch.manual_seed(1))
    return drawn.clamp(2, 8).where(first < 8, first)


def put(trainer: BitSearch, raw: torch.Tensor) -> torch.Tensor:
    """Makes `raw` the bits, and settles them."""
    moving(trainer).copy_(raw)
    trainer.settle()
    return moving(trainer)


@pytest.mark.parametrize("bits", [3.6, 4.0, 4.4, 7.0])
def test_settled_bits_are_whole_and_cost_the_budget(quantized: Quantized, bits: float) -> None:
    trainer = search(quantized, bits=4)
    settled = put(trainer, near(trainer, bits)).clone()
    assert torch.equal(settled, settled.round())
    assert 0.98 * trainer.budget < trainer.bitops() <= trainer.budget
    assert torch.equal(put(trainer, settled), settled)


def test_the_bits_go_down_that_are_least_above(quantized: Quantized) -> None:
    trainer = search(quantized, bits=4)
    raw = near(trainer, 3.7)
    settled = put(trainer, raw)
    lowered = settled < raw.round()
    kept = (settled == raw.round()) & (raw.round() > raw)
    assert lowered.any() and kept.any()
    # Some of those that went down may have gone up again where there was room.
    lean = raw - raw.round()
    assert lean[lowered].median() < lean[kept].median()


def test_a_budget_below_two_bits_leaves_two(quantized: Quantized) -> None:
    trainer = search(quantized, bits=2)
    trainer.budget = 0.0
    assert put(trainer, torch.full_like(moving(trainer), 4.0)).eq(2).all()


def test_without_a_budget_nothing_is_settled(quantized: Quantized, pixels: torch.Tensor) -> None:
    trainer = search(quantized, batches=2, sigma=0.5, eta=0.0)
    train(trainer, pixels, 4)
    assert trainer.bitops() > 1.1 * trainer.budget
    assert not torch.equal(moving(trainer), moving(trainer).round())


@pytest.mark.parametrize("stop", [1, 3])
def test_what_goes_on_from_any_step_ends_in_the_same_bits(
    quantized: Quantized, pixels: torch.Tensor, stop: int
) -> None:
    whole = search(quantized, sigma=0.5)
    train(whole, pixels, 4)
    begun, resumed = search(quantized, sigma=0.5), search(quantized, sigma=0.5)
    train(begun, pixels, stop)
    resumed.restore(snapshot(begun), stop)
    train(resumed, pixels, 4 - stop)
    assert same(snapshot(resumed), snapshot(whole))


def test_bits_stay_between_two_and_eight(quantized: Quantized, pixels: torch.Tensor) -> None:
    trainer = search(quantized, batches=4, bits=2, bits_rate=9.0)
    train(trainer, pixels, 4)
    assert 2 <= float(moving(trainer).min()) <= float(moving(trainer).max()) <= 8
