"""Two processes that train one model do what one process does with all their images."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from toolchain_harness import Quantized
from toolchain_models import MEAN, SIZE, STD
from toolchain_training import RATE, Parts, Tensors, example, same, second, share, snapshot
from torch.multiprocessing.spawn import spawn

from mnq.toolchain.checkpoint import WEIGHT
from mnq.toolchain.image import image_input

STEPS = 3


@pytest.fixture(scope="module")
def parts(quantized: Quantized) -> Parts:
    image = image_input("uint8", MEAN, STD, (3, SIZE, SIZE))
    return Parts(quantized.graph, quantized.prepared, quantized.statistics, image)


@pytest.fixture(scope="module")
def folder(parts: Parts, pixels: torch.Tensor, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes wrote; see `share`."""
    made = tmp_path_factory.mktemp("shared")
    examples = [example(pixels, number) for number in range(STEPS)]
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    arguments = (made, parts, examples)
    other = spawn(second, arguments, join=False)  # one process, and this one
    share(0, *arguments)
    while not other.join():
        pass
    torch.set_num_threads(before)
    return made


def vector(tensors: Tensors, prefix: str) -> torch.Tensor:
    """All tensors with this prefix as one vector; exp_avg is the running mean of gradients."""
    parts = [v.double().flatten() for n, v in sorted(tensors.items()) if n.startswith(prefix)]
    return torch.cat(parts)


def weights(tensors: Tensors) -> torch.Tensor:
    return vector(tensors, WEIGHT)


def test_two_processes_have_the_same_bits_after_every_step(folder: Path) -> None:
    (losses, states), (others, theirs) = (torch.load(folder / f"{rank}.pt") for rank in range(2))
    assert losses == others and len(losses) == STEPS
    assert all(same(a, b) for a, b in zip(states, theirs, strict=True))
    assert not same(states[0], states[1])


def test_two_processes_do_what_one_does_with_all_images(
    folder: Path, parts: Parts, pixels: torch.Tensor
) -> None:
    """The sums of gradients have another order, and so other last bits: 2^-24 for each term, of
    which there are a hundred or two; measured 1.2e-7 to 2.8e-7 of the gradient. AdamW divides a
    gradient by its size. Some weights (biases of keys) have none but rounding errors, 1e-7 of the
    others' root mean square, and take any step: they are left out. The rest differs by 1.2e-6 of
    the way.
    """
    losses, states = torch.load(folder / "0.pt")
    trainer = parts.trainer(learning_rate=RATE)
    start = weights(snapshot(trainer))
    told = torch.ones_like(start, dtype=torch.bool)
    for number, both in enumerate(states):
        loss = trainer.train_step(*example(pixels, number))
        assert loss == pytest.approx(losses[number], rel=1e-6)
        alone = snapshot(trainer)
        for name in ("ranges:largest", "ranges:share"):
            assert torch.equal(alone[name], both[name])
        want = vector(alone, "exp_avg:")
        assert (vector(both, "exp_avg:") - want).norm() < 2e-6 * want.norm()
        told &= want.abs() > 1e-5 * want.square().mean().sqrt()
        assert told.double().mean() > 0.95
        way = weights(alone) - start
        assert (weights(both) - weights(alone))[told].norm() < 1e-4 * way.norm()


def test_a_process_that_is_left_alone_says_how_to_go_on(folder: Path) -> None:
    text = (folder / "said.txt").read_text()
    assert text.startswith("qat: expected all 2 processes, found one lost (")
    assert text.endswith("; start them again with --resume and the last checkpoint")
    assert "\n" not in text
