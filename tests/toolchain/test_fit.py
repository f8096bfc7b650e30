"""The epochs of a run: judged, saved, stopped after any step and resumed to the same end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from toolchain_harness import Quantized
from toolchain_models import MEAN, SIZE, STD
from toolchain_training import Example, Parts, Tensors, example, same, snapshot

from mnq.toolchain.fit import Hooks, Progress, Row, fit, float_answers, validate
from mnq.toolchain.image import image_input
from mnq.toolchain.train import Diverged, Trainer

EPOCHS, BATCHES = 2, 3


@pytest.fixture(scope="module")
def parts(quantized: Quantized) -> Parts:
    image = image_input("uint8", MEAN, STD, (3, SIZE, SIZE))
    return Parts(quantized.graph, quantized.prepared, quantized.statistics, image)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """These models are too small for more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@dataclass
class Loader:
    """BATCHES batches of an epoch; `asked` is what set_epoch was called with.

    broken: epoch and number of a batch whose targets are not numbers.
    """

    pixels: torch.Tensor
    broken: tuple[int, int] | None = None
    asked: list[tuple[int, int]] = field(default_factory=list)

    def set_epoch(self, epoch: int, start: int = 0) -> None:
        self.asked.append((epoch, start))

    def __iter__(self) -> Iterator[Example]:
        epoch, start = self.asked[-1]
        for number in range(start, BATCHES):
            images, targets = example(self.pixels, 10 * epoch + number)
            yield images, targets * (torch.nan if self.broken == (epoch, number) else 1)


@dataclass
class Fitted:
    """A run: its trainer, what the hooks were called with, and the last save's state."""

    trainer: Trainer
    progress: Progress = field(default_factory=Progress)
    calls: list[Any] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    saved: tuple[Tensors, int, list[Row], float] | None = None

    def hooks(self, stop: int | None, figures: Callable[[], Row]) -> Hooks:
        def judged(row: Row) -> None:
            self.calls.append(("judged", row["epoch"]))

        def save(progress: Progress, best: bool) -> None:
            self.calls.append("save best" if best else "save")
            step, history = self.trainer.step, [*progress.history]
            self.saved = snapshot(self.trainer), step, history, progress.losses

        def stepped(loss: float) -> None:
            self.calls.append("stepped")
            self.losses.append(loss)

        def judge() -> Row:
            self.calls.append("validate")
            return figures()

        def stopped() -> bool:
            return self.trainer.step == stop

        return Hooks(judge, save, stopped, stepped, judged)


@pytest.fixture(scope="module")
def validation(quantized: Quantized, pixels: torch.Tensor) -> tuple[list[Example], Any]:
    """Three batches with labels that the float model knows, but for the first four."""
    labels = quantized.logits.argmax(1)
    labels = torch.cat([(labels[:4] + 1) % 10, labels[4:]])
    batches = list(zip(pixels.split(6), labels.split(6), strict=True))
    return batches, [part.argmax(1) for part in quantized.logits.split(6)]


@pytest.fixture(scope="module")
def run(parts: Parts, pixels: torch.Tensor, validation: Any) -> Callable[..., Fitted]:
    """A function that starts a run, or goes on from what another saved; checks how it ended."""

    def start(stop: int | None = None, after: Fitted | None = None, **options: Any) -> Fitted:
        made = Fitted(parts.trainer(BATCHES, epochs=EPOCHS, **options))
        if after is not None:
            assert after.saved is not None
            tensors, step, history, losses = after.saved
            made.trainer.restore(tensors, step)
            made.progress = Progress([*history], losses)
        hooks = made.hooks(stop, lambda: validate(made.trainer.model, *validation))
        loader = Loader(pixels)
        ended = fit(made.trainer, loader, made.progress, hooks)
        assert ended == (made.trainer.step == EPOCHS * BATCHES)
        made.calls.append(loader.asked)
        return made

    return start


@pytest.fixture(scope="module")
def whole(run: Callable[..., Fitted]) -> Fitted:
    """A run that nothing stops."""
    return run()


def test_the_history_has_a_row_for_every_epoch_and_one_before(whole: Fitted) -> None:
    history = whole.progress.history
    assert [row["epoch"] for row in history] == [0, 1, 2]
    assert [row["step"] for row in history] == [0, 3, 6]
    rates = [row["learning_rate"] for row in history]
    assert rates == pytest.approx([1e-3, 1e-3 * (1 + 1 / 15) / 2, 1e-3 / 15])
    assert (history[0]["loss"], history[0]["seconds"]) == (None, 0.0)
    for epoch, row in enumerate(history[1:]):
        losses = whole.losses[epoch * BATCHES : (epoch + 1) * BATCHES]
        assert row["loss"] == sum(losses) / BATCHES
        assert row["seconds"] > 0
    keys = ["epoch", "step", "learning_rate", "loss", "top1", "agreement", "seconds"]
    assert all([*row] == keys for row in history)
    # As calibrated, the 8-bit model answers as the float model does but for close decisions.
    assert history[0]["agreement"] >= 100 * 14 / 16
    assert whole.progress.losses == 0


def test_hooks_are_called_in_order(whole: Fitted) -> None:
    best = max(range(3), key=lambda n: (whole.progress.history[n]["top1"], -n))
    expected: list[Any] = ["validate", ("judged", 0), "save best"]
    for epoch in (1, 2):
        saves = "save best" if epoch == best else "save"
        expected += [*["stepped"] * BATCHES, "validate", ("judged", epoch), saves]
    assert best != 1 or whole.progress.best() is whole.progress.history[1]
    assert whole.calls == [*expected, [(0, 0), (1, 0)]]


@pytest.mark.parametrize("stop", range(1, EPOCHS * BATCHES))
def test_a_run_that_is_stopped_and_resumed_ends_as_one_that_is_not(
    stop: int, run: Callable[..., Fitted], whole: Fitted
) -> None:
    first = run(stop)
    assert first.trainer.step == stop and first.saved is not None
    assert first.saved[1] == stop and same(first.saved[0], snapshot(first.trainer))
    if stop % BATCHES:  # within an epoch: saved, and not judged
        assert first.calls[-3:-1] == ["stepped", "save"]
    second = run(after=first)
    assert second.calls[-1][0] == (stop // BATCHES, stop % BATCHES)
    assert [*first.losses, *second.losses] == whole.losses
    histories = [[{**row, "seconds": 0} for row in r.progress.history] for r in (second, whole)]
    assert histories[0] == histories[1]
    assert same(snapshot(second.trainer), snapshot(whole.trainer))


def test_learned_ranges_go_on_too(run: Callable[..., Fitted]) -> None:
    options = {"ranges": "learned", "distillation": 0.5}
    ends = [run(**options), run(after=run(4, **options), **options)]
    assert same(*(snapshot(each.trainer) for each in ends))


def test_a_stop_after_the_last_step_changes_nothing(
    run: Callable[..., Fitted], whole: Fitted
) -> None:
    found = run(EPOCHS * BATCHES)
    assert found.calls == whole.calls
    assert same(snapshot(found.trainer), snapshot(whole.trainer))


def test_a_finished_run_has_nothing_to_go_on_with(
    run: Callable[..., Fitted], whole: Fitted
) -> None:
    again = run(after=whole)
    assert again.calls == [[]]
    assert again.progress.history == whole.progress.history


@pytest.mark.parametrize(
    ("figures", "best", "saves"),
    [
        ([(50, 90), (60, 80), (55, 95)], 1, ["save best", "save best", "save"]),
        ([(50, 90), (50, 91), (50, 91)], 1, ["save best", "save best", "save"]),
        ([(50, 90), (40, 99), (50, 90)], 0, ["save best", "save", "save"]),
        ([(0, 0), (0, 0), (0, 0.5)], 2, ["save best", "save", "save best"]),
        ([(None, None)] * 3, None, ["save", "save", "save"]),
    ],
)
def test_the_best_epoch_is_the_first_with_the_most_right_answers_then_the_most_agreement(
    parts: Parts, pixels: torch.Tensor, figures: list[Any], best: int | None, saves: list[str]
) -> None:
    made = Fitted(parts.trainer(BATCHES))
    rows = iter([{"top1": top1, "agreement": agreement} for top1, agreement in figures])
    fit(made.trainer, Loader(pixels), made.progress, made.hooks(None, lambda: next(rows)))
    chosen = made.progress.best()
    assert (chosen and chosen["epoch"]) == best
    assert [call for call in made.calls if "save" in call] == saves


def test_no_epoch_whose_bits_still_move_is_the_best(parts: Parts, pixels: torch.Tensor) -> None:
    made = Fitted(parts.trainer(BATCHES))
    rows = iter([{"top1": 60 - n, "agreement": 90, "searching": n < 2} for n in range(3)])
    fit(made.trainer, Loader(pixels), made.progress, made.hooks(None, lambda: next(rows)))
    assert [call for call in made.calls if "save" in call] == ["save", "save", "save best"]


def test_what_training_raises_leaves_the_last_save_as_it_was(
    parts: Parts, pixels: torch.Tensor
) -> None:
    made = Fitted(parts.trainer(BATCHES))
    hooks = made.hooks(None, lambda: {"top1": None, "agreement": None})
    with pytest.raises(Diverged, match=r"in step 5 \(epoch 2\)"):
        fit(made.trainer, Loader(pixels, broken=(1, 1)), made.progress, hooks)
    assert made.saved is not None and made.saved[1] == BATCHES
    assert [row["epoch"] for row in made.progress.history] == [0, 1]


def test_answers_are_counted_exactly(
    parts: Parts, quantized: Quantized, pixels: torch.Tensor, validation: Any
) -> None:
    batches, expected = validation
    cpu = torch.device("cpu")
    answers, row = float_answers(quantized.prepared, parts.image, batches, cpu)
    assert all(torch.equal(a, b) for a, b in zip(answers, expected, strict=True))
    assert row == {"top1": 100 * 12 / 16}
    model = parts.trainer().model
    found = model.program().logits(pixels).argmax(1)
    labels = torch.cat([part for _, part in batches])
    right = int((found == labels).sum())
    # Of the first two batches the float model is said to have answered otherwise.
    others = [(answers[0] + 1) % 10, (answers[1] + 1) % 10, answers[2]]
    agreeing = int((found == torch.cat(others)).sum())
    assert 0 < agreeing < right < 16
    row = validate(model, batches, others)
    assert row == {"top1": 100 * right / 16, "agreement": 100 * agreeing / 16}


def test_without_images_there_are_no_figures(parts: Parts, quantized: Quantized) -> None:
    answers, row = float_answers(quantized.prepared, parts.image, [], torch.device("cpu"))
    assert (answers, row) == ([], {"top1": None})
    assert validate(parts.trainer().model, [], []) == {"top1": None, "agreement": None}
