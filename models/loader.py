"""Batches for training and evaluation: raw pixels, the same ones for any number of processes.

A batch depends on the seed, the epoch, its number and the images, and on nothing else.

timm's create_loader has no way to ask for that: its order comes from torch's global generator, it
cannot begin within an epoch, and it takes rank and world from torch.distributed. Its transforms and
its mixing are used here on torch's DataLoader. The data set given to that is one of whole batches,
so that no process needs to know more than a batch's number.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from mnq.models.augment import Augmentation, Mix, mixing, seeded, to_pixels, transform
from mnq.models.dataset import Dataset
from mnq.models.preprocess import Preprocess
from mnq.models.workers import in_workers
from mnq.ops.errors import InputError

if TYPE_CHECKING:
    import numpy.typing as npt
    import torch

__all__ = ["TrainLoader", "eval_loader", "train_loader"]

# What `seeded` is told apart by.
_ORDER, _IMAGE, _MIX = range(3)


@dataclass(frozen=True)
class _Plan:
    """All that batches depend on, but for the epoch."""

    dataset: Dataset
    preprocess: Preprocess
    mix: Mix
    batch_size: int
    seed: int
    rank: int
    world: int


class _TrainBatches:
    """The batches of an epoch by number: pixels uint8 (B, C, H, W), targets float32 (B, K)."""

    def __init__(self, plan: _Plan, epoch: int) -> None:
        self._plan = plan
        self._epoch = epoch
        with seeded(plan.seed, epoch, _ORDER, 0):
            # numpy's global generator has a stream that is the same in all its versions.
            order = np.random.permutation(len(plan.dataset))
        self._order: npt.NDArray[np.int64] = order[plan.rank :: plan.world]

    def __getitem__(self, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        import torch

        plan = self._plan
        first = number * plan.batch_size
        images, labels = [], []
        for index in self._order[first : first + plan.batch_size].tolist():
            with seeded(plan.seed, self._epoch, _IMAGE, index):
                image, label = plan.dataset[index]
            images.append(image)
            labels.append(label)
        with seeded(plan.seed, self._epoch, _MIX, number * plan.world + plan.rank):
            mixed, targets = plan.mix(torch.stack(images), torch.tensor(labels))
        return to_pixels(mixed, plan.preprocess), targets


class TrainLoader:
    """Iterable over the batches of an epoch; `train_loader` makes it.

    Yields (pixels uint8 (B, C, H, W), targets float32 (B, num_classes)). An iteration raises
    InputError for data that turns out unusable, and EnvironmentLack if a worker process dies.
    """

    def __init__(self, plan: _Plan, workers: int) -> None:
        """Use `train_loader`, which checks its arguments."""
        self._plan = plan
        self._workers = workers
        self.set_epoch(0)

    def __len__(self) -> int:
        """Batches per epoch, all of them full; the images that are left over are not used."""
        return len(self._plan.dataset) // (self._plan.batch_size * self._plan.world)

    def set_epoch(self, epoch: int, start: int = 0) -> None:
        """Let iterations yield the batches of `epoch` from number `start` on.

        The batches before it are not decoded. InputError if the epoch has fewer than `start`.
        """
        if not 0 <= start <= len(self):
            raise InputError(
                f"training: expected to go on at one of {len(self)} batches, found number {start}; "
                "give the images and the batch size that the training began with"
            )
        self._epoch = epoch
        self._start = start

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        batches = _TrainBatches(self._plan, self._epoch)
        yield from in_workers(batches, range(self._start, len(self)), self._workers)


def train_loader(
    dataset: Dataset,
    preprocess: Preprocess,
    augmentation: Augmentation,
    batch_size: int,
    seed: int,
    workers: int,
    num_classes: int,
    rank: int = 0,
    world: int = 1,
) -> TrainLoader:
    """Batches of randomly changed images in random order.

    Args:
        dataset: the images; its own transform is not used.
        preprocess: the model's.
        augmentation: the recipe.
        batch_size: images per batch of this process; even if the recipe mixes images.
        seed: 0..2^32-1.
        workers: processes that make batches; 0: this one does.
        num_classes: the model's number of outputs.
        rank, world: this process is number `rank` of `world`. Their batches with one number hold,
            together, the images of a single process's batch of `world * batch_size`, changed in
            the same way. Only the pairs that are mixed differ.

    InputError: a batch size that does not do, or fewer images than a batch.
    """
    if batch_size < 1 or (augmentation.mixes and batch_size % 2):
        raise InputError(
            f"training: expected {'an even' if augmentation.mixes else 'a positive'} batch size, "
            f"found {batch_size}; change it"
            + (", or take an augmentation without mixup" if augmentation.mixes else "")
        )
    if len(dataset) < batch_size * world:
        raise InputError(
            f"training: expected at least {batch_size * world} images, one batch of each process, "
            f"found {len(dataset)}; give more images or lower the batch size"
        )
    own = copy.copy(dataset)
    own.transform = transform(augmentation, preprocess)
    mix = mixing(augmentation, num_classes)
    return TrainLoader(_Plan(own, preprocess, mix, batch_size, seed, rank, world), workers)


class _EvalBatches:
    """Batches in order by number, without unusable images: pixels uint8, labels int64."""

    def __init__(self, dataset: Dataset, indices: range, batch_size: int) -> None:
        self._dataset = dataset
        self._indices = indices
        self._batch_size = batch_size

    def __len__(self) -> int:
        return -(-len(self._indices) // self._batch_size)

    def __getitem__(self, number: int) -> tuple[torch.Tensor, torch.Tensor] | None:
        import torch

        first = number * self._batch_size
        indices = self._indices[first : first + self._batch_size]
        examples = [found for index in indices if (found := self._dataset.usable(index))]
        if not examples:
            return None
        pixels = np.stack([image for image, _ in examples])
        return torch.from_numpy(pixels), torch.tensor([label for _, label in examples])


def eval_loader(
    dataset: Dataset,
    preprocess: Preprocess,
    batch_size: int,
    workers: int,
    rank: int = 0,
    world: int = 1,
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield (pixels uint8 (B, C, H, W), labels int64 (B,)), B <= batch_size, of every image once.

    The pixels are what `Preprocess.image` makes. Process `rank` of `world` gets every world-th
    image. Unusable images are left out, never replaced. InputError if none of them is usable;
    EnvironmentLack if a worker process dies.
    """
    own = copy.copy(dataset)
    own.transform = preprocess.image
    indices = range(rank, len(own), world)
    batches = _EvalBatches(own, indices, batch_size)
    found = 0
    for batch in filter(None, in_workers(batches, range(len(batches)), workers)):
        found += len(batch[1])
        yield batch
    if indices and not found:
        raise InputError(
            f"images: expected images that can be decoded, found none of {len(indices)} that can; "
            "give others"
        )
