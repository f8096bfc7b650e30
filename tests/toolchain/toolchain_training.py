"""Trainers of the tiny transformer, and two processes that train it together.

Importing this is light: a process that is spawned imports it.
"""

from __future__ import annotations

import os
import warnings
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import distributed

from mnq.ops.errors import EnvironmentLack
from mnq.toolchain import map as maps
from mnq.toolchain.calibrate import Statistics
from mnq.toolchain.edges import assign_edges
from mnq.toolchain.graph import Graph
from mnq.toolchain.image import ImageInput
from mnq.toolchain.processes import process
from mnq.toolchain.qat import QuantizedModel
from mnq.toolchain.ranges import Ranges
from mnq.toolchain.train import Recipe, Trainer

Tensors = dict[str, torch.Tensor]
Example = tuple[torch.Tensor, torch.Tensor]

RATE = 1e-5
"""Of `share`: small enough for weights that differ in their last bits to have equal codes."""


@dataclass(frozen=True)
class Parts:
    """What a trainer is made from: the equalized graph, that of the teacher, calibration."""

    graph: Graph
    prepared: Graph
    statistics: Statistics
    image: ImageInput

    def trainer(self, batches: int = 2, **options: Any) -> Trainer:
        """Of a uniform map at 8 bits; options: of the recipe."""
        recipe = Recipe(**{"epochs": 2, "batch_size": 4, "learning_rate": 1e-3, **options})
        learned = recipe.ranges == "learned"
        ranges = Ranges(self.statistics, assign_edges(self.graph), 8, learned=learned)
        mapping = maps.uniform("tiny", "lut", 8)
        model = QuantizedModel(self.graph, mapping, ranges, self.image)
        return Trainer(model, recipe, batches, self.prepared)


def example(pixels: torch.Tensor, number: int, size: int = 4) -> Example:
    """Batch `number`: images, and targets that are no certain classes."""
    draw = torch.Generator().manual_seed(number)
    targets = torch.rand(size, 10, generator=draw).pow(4)
    chosen = torch.randperm(len(pixels), generator=draw)[:size]
    return pixels[chosen], targets / targets.sum(1, keepdim=True)


def snapshot(trainer: Trainer) -> Tensors:
    """Copies of all that the next steps depend on."""
    return {name: value.detach().clone() for name, value in trainer.tensors().items()}


def same(found: Tensors, expected: Tensors) -> bool:
    """Whether all tensors are equal, bit by bit."""
    return set(found) == set(expected) and all(torch.equal(found[n], expected[n]) for n in found)


def share(rank: int, folder: Path, parts: Parts, examples: list[Example]) -> None:
    """Process `rank` of two: train on every second image, then be left alone, or go.

    Writes the losses and the tensors after every step; the first process then what it says.
    """
    begin = partial(
        distributed.init_process_group,
        init_method=f"file://{folder / 'store'}",
        rank=rank,
        world_size=2,
        timeout=timedelta(seconds=60),
    )
    variables = {"RANK": str(rank), "WORLD_SIZE": "2", "GLOO_SOCKET_IFNAME": "lo"}
    said = "nothing"
    try:
        with (
            mock.patch.dict(os.environ, variables),
            mock.patch.object(distributed, "init_process_group", begin),
            warnings.catch_warnings(),
            process("cpu") as here,
        ):
            warnings.simplefilter("error")
            assert (here.rank, here.world, here.first) == (rank, 2, rank == 0)
            trainer = parts.trainer(learning_rate=RATE)
            losses, states = [], []
            for images, targets in examples:
                losses.append(trainer.train_step(images[rank::2], targets[rank::2]))
                states.append(snapshot(trainer))
            torch.save((losses, states), folder / f"{rank}.pt")
            distributed.barrier()
            if rank == 1:
                os._exit(0)
            trainer.train_step(*examples[0])
    except EnvironmentLack as error:
        said = str(error)
    (folder / "said.txt").write_text(said)


def second(number: int, *arguments: Any) -> None:
    """The second process of `share`, as torch.multiprocessing spawns it."""
    torch.set_num_threads(1)
    share(1 + number, *arguments)
