"""Fit: the epochs of a QAT run, judged after each one, saved, stopped and resumed."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import distributed

from mnq.toolchain.evaluate import evaluate
from mnq.toolchain.graph import Graph
from mnq.toolchain.image import ImageInput
from mnq.toolchain.qat import QuantizedModel
from mnq.toolchain.train import Trainer

Batches = Iterable[tuple[torch.Tensor, torch.Tensor]]
"""Pixels uint8 (B, C, H, W) with targets (B, classes), or with class indices (B,)."""

Row = dict[str, Any]
"""One line of a run's history: epoch, step, learning_rate, loss, top1, agreement, seconds."""


class Loader(Protocol):
    """Training batches that begin anywhere (mnq.models.loader.TrainLoader)."""

    def set_epoch(self, epoch: int, start: int = 0) -> None: ...

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]: ...


@dataclass
class Progress:
    """How far a run is: its history, and the sum of the losses of the epoch that it is in."""

    history: list[Row] = field(default_factory=list)
    losses: float = 0.0

    def best(self) -> Row | None:
        """The first of the epochs with the most right answers, then the most agreement.

        Of a model whose bits still move (`searching`) nothing is deployed.
        """
        ready = (row for row in self.history if not row.get("searching"))
        judged = [row for row in ready if row["top1"] is not None]
        return max(judged, key=lambda row: (row["top1"], row["agreement"]), default=None)


@dataclass(frozen=True)
class Hooks:
    """What a run does besides training.

    validate: figures of the present model (top1, agreement), None values if there are no images.
    save: keep a checkpoint, and say whether it is the best one so far.
    stopped: whether to stop after this step, saved; stepped: after every step, with its loss.
    judged: after every new row of the history.
    """

    validate: Callable[[], Row]
    save: Callable[[Progress, bool], None]
    stopped: Callable[[], bool]
    stepped: Callable[[float], None]
    judged: Callable[[Row], None]


def fit(trainer: Trainer, loader: Loader, progress: Progress, hooks: Hooks) -> bool:
    """Train to the last epoch; False if it was stopped before. Resumes where `progress` is.

    The history begins with the model as it was before training, epoch 0. Raises what training
    and data raise; the last checkpoint is then the one of the last whole epoch.
    """

    def judge(epoch: int, loss: float | None, seconds: float) -> None:
        rate = trainer.recipe.learning_rate * trainer.factor()
        row = {"epoch": epoch, "step": trainer.step, "learning_rate": rate, "loss": loss}
        progress.history.append({**row, **hooks.validate(), "seconds": seconds})
        hooks.judged(progress.history[-1])
        hooks.save(progress, progress.best() is progress.history[-1])

    device = next(trainer.model.parameters()).device
    if not progress.history:
        judge(0, None, 0.0)
    for epoch in range(trainer.step // trainer.batches, trainer.recipe.epochs):
        loader.set_epoch(epoch, trainer.step - epoch * trainer.batches)
        began = time.monotonic()
        for pixels, targets in loader:
            images = trainer.model.image.from_pixels(pixels.to(device))
            loss = trainer.train_step(images, targets.to(device))
            progress.losses += loss
            hooks.stepped(loss)
            last = trainer.step % trainer.batches == 0
            if _any(hooks.stopped(), device) and not last:
                hooks.save(progress, False)
                return False
        mean, progress.losses = progress.losses / trainer.batches, 0.0
        judge(epoch + 1, mean, time.monotonic() - began)
        if _any(hooks.stopped(), device) and epoch + 1 < trainer.recipe.epochs:
            return False
    return True


def validate(model: QuantizedModel, batches: Batches, answers: list[torch.Tensor]) -> Row:
    """Percent of right answers (top1), and of those that the float model gives (agreement).

    batches: this process's share of the images, with labels; answers: those of the float model to
    each batch, from `float_answers`. None where there are no images. Counted in all processes.
    """
    program = model.program()
    device = next(model.parameters()).device
    counts = torch.zeros(3, dtype=torch.int64)  # right, agreeing, all
    with torch.no_grad():
        for (pixels, labels), expected in zip(batches, answers, strict=True):
            images = model.image.from_pixels(pixels.to(device))
            found = program.logits(images, model.kernels).argmax(1).cpu()
            right, agreeing = (found == labels).sum(), (found == expected).sum()
            counts += torch.stack([right, agreeing, torch.tensor(len(labels))])
    return _shares(counts.to(device), "top1", "agreement")


def float_answers(
    graph: Graph, image: ImageInput, batches: Batches, device: torch.device
) -> tuple[list[torch.Tensor], Row]:
    """The float graph's answers to each batch, and the percent of them that are right (top1)."""
    answers, counts = [], torch.zeros(2, dtype=torch.int64)
    with torch.no_grad():
        for pixels, labels in batches:
            images = image.values(image.from_pixels(pixels.to(device)))
            answers.append(evaluate(graph, images).argmax(1).cpu())
            counts += torch.stack([(answers[-1] == labels).sum(), torch.tensor(len(labels))])
    return answers, _shares(counts.to(device), "top1")


def _shares(counts: torch.Tensor, *names: str) -> Row:
    """Percent of the last count that each other one is, over all processes."""
    if distributed.is_initialized():
        distributed.all_reduce(counts)
    *parts, total = counts.tolist()
    return {n: 100 * part / total if total else None for n, part in zip(names, parts, strict=True)}


def _any(flag: bool, device: torch.device) -> bool:
    """Whether the flag is set in any process."""
    if not distributed.is_initialized():
        return flag
    value = torch.tensor(int(flag), device=device)
    distributed.all_reduce(value, op=distributed.ReduceOp.MAX)
    return bool(value)
