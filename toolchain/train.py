"""Training: steps of QAT with the paper's optimizer, in one process or many, and their state.

What a run does is a function of its recipe, its data and the float model: it is the same when it
is interrupted after any step and goes on from the checkpoint.
"""

from __future__ import annotations

import math
import warnings
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import distributed
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

from mnq.ops.errors import CheckFailed, InputError
from mnq.toolchain.checkpoint import WEIGHT, check_tensors
from mnq.toolchain.distill import ask, distance, divergence
from mnq.toolchain.graph import Graph
from mnq.toolchain.qat import QuantizedModel

_MOMENTS = ("exp_avg", "exp_avg_sq")  # of AdamW


@dataclass(frozen=True)
class Recipe:
    """What a run depends on beside its model and its data. The defaults are I-ViT's (spec 5.6).

    batch_size: of all processes together; floor: of the cosine, as a share of learning_rate.
    distillation: weight of the divergence from the float model's answers; the rest is the
        cross-entropy with the labels. feature_distillation: weight of the distance from the float
        model's residual stream, added to it.
    clip: largest norm of the gradient, 0 for any; range_rate: learning rate of log2 of the scales
        where these are learned.
    """

    epochs: int = 90
    batch_size: int = 128
    learning_rate: float = 1e-6
    weight_decay: float = 1e-4
    floor: float = 1 / 15
    distillation: float = 0.0
    feature_distillation: float = 0.0
    clip: float = 0.0
    ranges: str = "ema"
    range_rate: float = 1e-3
    precision: str = "float32"
    augmentation: str = "ivit"
    seed: int = 0


class Diverged(CheckFailed):
    """The loss or a gradient is not a finite number any more."""


class _Learner(torch.nn.Module):
    """A model as a loss sees it: the logits and the tensors `names`."""

    def __init__(self, model: QuantizedModel, names: tuple[str, ...]) -> None:
        super().__init__()
        self.model, self.names = model, names

    def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
        return self.model.tensors(images, self.names)


class Trainer:
    """A model in training; all processes of a run call the same methods in the same order.

    teacher: the float graph with the model's nodes, for distillation. batches: per epoch.

    Raises InputError if the recipe distills without a teacher.
    """

    def __init__(
        self, model: QuantizedModel, recipe: Recipe, batches: int, teacher: Graph | None = None
    ) -> None:
        if max(recipe.distillation, recipe.feature_distillation) > 0 and teacher is None:
            raise InputError("qat: expected a float model to distill from, found none; give one")
        self.model, self.recipe, self.batches, self.teacher = model, recipe, batches, teacher
        self.step = 0
        self.weights = model.weights()
        self.features = model.features() if recipe.feature_distillation > 0 else ()
        learner = _Learner(model, self.features)
        many = distributed.is_initialized() and distributed.get_world_size() > 1
        # Buffers are the ranges, which every process computes alike.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # newer torch has another name for it
            self.wrapped = (
                DistributedDataParallel(learner, broadcast_buffers=False) if many else learner
            )
        self.optimizer = torch.optim.AdamW(self._groups(), eps=1e-8)

    def _groups(self) -> list[dict[str, Any]]:
        """Matrices decay; vectors, and learned scales, do not."""
        weights = list(self.weights.values())
        rate, decay = self.recipe.learning_rate, self.recipe.weight_decay
        groups: list[dict[str, Any]] = [
            {"params": [w for w in weights if w.ndim > 1], "rate": rate, "weight_decay": decay},
            {"params": [w for w in weights if w.ndim <= 1], "rate": rate, "weight_decay": 0.0},
        ]
        for name, parameter in self.model.ranges.named_parameters():
            groups.append({"params": [parameter], "weight_decay": 0.0, **self.pace(name)})
        return [group for group in groups if group["params"]]

    def pace(self, name: str) -> dict[str, Any]:
        """The rate of a parameter of the quantizers, and what else AdamW has otherwise for it."""
        return {"rate": self.recipe.range_rate}

    def factor(self) -> float:
        """The learning rates' share at the present step: a cosine from 1 to the floor."""
        total = self.recipe.epochs * self.batches
        cosine = 0.5 * (1 + math.cos(math.pi * min(self.step / total, 1.0)))
        return self.recipe.floor + (1 - self.recipe.floor) * cosine

    def train_step(self, images: torch.Tensor, targets: torch.Tensor) -> float:
        """One step on this process's images and their targets (B, classes); the mean loss.

        images: as the program takes them. Raises Diverged, and changes nothing, if the loss or
        the gradient is not finite.
        """
        self.optimizer.zero_grad(set_to_none=True)
        try:
            loss = self.loss(images, targets)
        except InputError as error:
            if self.step == 0:
                raise
            raise Diverged(
                f"qat: expected weights and scales that make a model, found in step "
                f"{self.step + 1}: {error}; go on from the last checkpoint with a lower --lr"
            ) from error
        loss.backward()
        largest = self.recipe.clip or math.inf
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), largest)
        mean = _mean(loss.detach())
        if not math.isfinite(mean) or not bool(norm.isfinite()):
            self.model.ranges.seen.zero_()
            what = f"loss {mean}" if not math.isfinite(mean) else f"gradient {float(norm)}"
            raise Diverged(
                f"qat: expected a finite loss and gradient, found the {what} in step "
                f"{self.step + 1} (epoch {self.step // self.batches + 1}); go on from the last "
                "checkpoint with a lower --lr, or with --clip-grad"
            )
        for parameter in self.frozen():
            parameter.grad = None
        for group in self.optimizer.param_groups:
            group["lr"] = group["rate"] * self.factor()
        self.optimizer.step()
        self.model.ranges.update()
        self.step += 1
        return mean

    def frozen(self) -> list[torch.nn.Parameter]:
        """What the present step leaves as it is."""
        return []

    def loss(self, images: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The loss of one step's images: of labels, answers and features, as the recipe weighs."""
        recipe = self.recipe
        logits, *features = self.wrapped(images)
        loss = logits.new_zeros(())
        if recipe.distillation < 1:
            loss = loss + (1 - recipe.distillation) * cross_entropy(logits, targets)
        if max(recipe.distillation, recipe.feature_distillation) == 0:
            return loss
        assert self.teacher is not None
        low = recipe.precision == "bfloat16"
        with torch.autocast(images.device.type, torch.bfloat16, enabled=low):
            answers, *wanted = ask(self.teacher, self.model.image.values(images), self.features)
        if recipe.distillation > 0:
            loss = loss + recipe.distillation * divergence(logits, answers)
        if features:
            loss = loss + recipe.feature_distillation * distance(features, wanted)
        return loss

    def tensors(self) -> dict[str, torch.Tensor]:
        """Everything that the next steps depend on, for a checkpoint."""
        result: dict[str, torch.Tensor] = {
            WEIGHT + name: weight for name, weight in self.weights.items()
        }
        result |= {
            f"ranges:{name}": value for name, value in self.model.ranges.state_dict().items()
        }
        for name, parameter in self._named():
            state = self.optimizer.state.get(parameter, {})
            result |= {f"{moment}:{name}": state[moment] for moment in _MOMENTS if moment in state}
        return result

    def restore(self, tensors: dict[str, torch.Tensor], step: int) -> None:
        """Go on after `step` steps with the `tensors` of a checkpoint.

        Raises InputError if they are not those of this model and recipe.
        """
        wanted = {**self.tensors()}
        for name, parameter in self._named():
            if step > 0:
                wanted |= {f"{moment}:{name}": parameter for moment in _MOMENTS}
        check_tensors(wanted, tensors, "resume with the options of the run")
        with torch.no_grad():
            for name, weight in self.weights.items():
                weight.copy_(tensors[WEIGHT + name])
        ranges = self.model.ranges
        ranges.load_state_dict({name: tensors[f"ranges:{name}"] for name in ranges.state_dict()})
        for name, parameter in self._named() if step > 0 else []:
            moments = {m: tensors[f"{m}:{name}"].to(parameter.device, copy=True) for m in _MOMENTS}
            self.optimizer.state[parameter] = {"step": torch.tensor(float(step)), **moments}
        self.step = step

    def _named(self) -> list[tuple[str, torch.nn.Parameter]]:
        """What the optimizer trains, by name."""
        return [*self.weights.items(), *self.model.ranges.named_parameters()]

    def recipe_json(self) -> dict[str, Any]:
        """The recipe for a checkpoint's header."""
        return asdict(self.recipe)


def _mean(value: torch.Tensor) -> float:
    """The mean over all processes."""
    if distributed.is_initialized():
        value = value.clone()
        distributed.all_reduce(value)
        value = value / distributed.get_world_size()
    return float(value)
