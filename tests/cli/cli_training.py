"""Small runs of mnq-qat: a few of the digits, and interruptions at a chosen step."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from cli_runs import Digits

if TYPE_CHECKING:
    import torch

    from mnq.cli.calibration import Ranges
    from mnq.cli.common import Screen
    from mnq.cli.runs import Setup
    from mnq.cli.training import Images, Subject
    from mnq.models.zoo import LoadedModel
    from mnq.toolchain.calibrate import Statistics
    from mnq.toolchain.graph import Graph
    from mnq.toolchain.map import Map
    from mnq.toolchain.train import Trainer

OPTIONS = (
    *("--model", "digits", "--bits", 3, "--images", 8, "--workers", 0, "--device", "cpu"),
    *("--augment", "light", "--lr", 3e-3),
)


def few(digits: Digits, root: Path, count: int) -> Digits:
    """The first `count` images of every class, to train and to judge on."""
    for part in (digits.train, digits.test):
        for path in (
            path for folder in part.iterdir() for path in sorted(folder.iterdir())[:count]
        ):
            target = root / path.relative_to(digits.root)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(path, target)
    return Digits(root)


def prepared(loaded: LoadedModel, graph: Graph, statistics: Statistics) -> Callable[..., Any]:
    """What takes the place of loading, capturing and calibrating in mnq-qat."""
    from mnq.cli import runs
    from mnq.cli.training import Subject
    from mnq.toolchain.export import Settings

    def make(
        screen: Screen, name: str, weights: Path | None, mapping: Map, ranges: Ranges, setup: Setup
    ) -> tuple[Subject, Images]:
        settings = Settings(ranges.method, ranges.form, setup.input_kind)
        images = runs.open_images(loaded, setup)
        return Subject(loaded, graph, statistics, mapping, settings), images

    return make


def signal_at(step: int, *numbers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let this process get these signals after training step `step`."""
    from mnq.toolchain.train import Trainer

    real = Trainer.train_step

    def train_step(self: Trainer, images: torch.Tensor, targets: torch.Tensor) -> float:
        loss = real(self, images, targets)
        if self.step == step:
            for number in numbers:
                os.kill(os.getpid(), number)
        return loss

    monkeypatch.setattr(Trainer, "train_step", train_step)
