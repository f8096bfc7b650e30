"""How to train: the options of mnq-qat that make a recipe."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar, cast

import click

from mnq.cli.common import COUNT, SEED, expect_one, need_train
from mnq.ops.errors import InputError

Function = TypeVar("Function", bound=Callable[..., Any])


def recipe_options(function: Function) -> Function:
    """Add the options of a training recipe; the function gets a `Recipe` as `recipe`.

    Raises InputError for a name that is none of those allowed, EnvironmentLack without torch.
    """

    @wraps(function)
    def wrapped(
        *,
        epochs: int,
        batch: int,
        lr: float,
        weight_decay: float,
        distill: float,
        distill_features: float,
        clip_grad: float,
        kind: str,
        range_lr: float,
        augment: str,
        precision: str,
        seed: int,
        **others: Any,
    ) -> Any:
        need_train("matplotlib")
        from mnq.models.augment import AUGMENTATIONS
        from mnq.toolchain.qat import PRECISIONS
        from mnq.toolchain.ranges import KINDS
        from mnq.toolchain.train import Recipe

        numbers = {"--lr": lr, "--weight-decay": weight_decay, "--distill": distill}
        numbers |= {"--distill-features": distill_features, "--clip-grad": clip_grad}
        numbers |= {"--range-lr": range_lr}
        for option, number in numbers.items():
            if not math.isfinite(number):
                raise InputError(f"{option}: expected a finite number, found {number}; see --help")
        expect_one("--ranges", kind, KINDS)
        expect_one("--augment", augment, AUGMENTATIONS)
        expect_one("--precision", precision, PRECISIONS)
        recipe = Recipe(
            epochs=epochs,
            batch_size=batch,
            learning_rate=lr,
            weight_decay=weight_decay,
            distillation=distill,
            feature_distillation=distill_features,
            clip=clip_grad,
            ranges=kind,
            range_rate=range_lr,
            precision=precision,
            augmentation=augment,
            seed=seed,
        )
        return function(recipe=recipe, **others)

    positive = click.FloatRange(0, min_open=True)
    result: Any = wrapped
    for names, default, kind, text in reversed(
        (
            (("--epochs",), 1, COUNT, "The paper: 1, 5 or 90."),
            (("--batch",), 128, COUNT, "Images per step, of all processes."),
            (("--lr",), 1e-6, positive, "Rate of AdamW; a cosine ends at 1/15 of it."),
            (("--weight-decay",), 1e-4, click.FloatRange(0), "Of matrices."),
            (
                ("--distill",),
                0.0,
                click.FloatRange(0, 1),
                "Weight of the float model's answers in the loss; 1 is best with little data.",
            ),
            (
                ("--distill-features",),
                0.0,
                click.FloatRange(0),
                "Weight of the distance from the float model's residual stream; try 30.",
            ),
            (
                ("--clip-grad",),
                0.0,
                click.FloatRange(0),
                "Largest norm of the gradient; 0: any.",
            ),
            (
                ("--ranges", "kind"),
                "ema",
                str,
                "ema: follow the activations, as I-ViT. learned: scales are trained (LSQ).",
            ),
            (("--range-lr",), 1e-3, positive, "Rate of log2 of learned scales."),
            (
                ("--augment",),
                "ivit",
                str,
                "ivit: RandAugment, mixup, cutmix, erasing, smoothing. light: crop, flip. none.",
            ),
            (
                ("--precision",),
                "float32",
                str,
                "Of the backward pass: float32 or bfloat16. The forward pass is integers.",
            ),
            (("--seed",), 0, SEED, "Of order and augmentation."),
        )
    ):
        option = click.option(*names, type=kind, default=default, show_default=True, help=text)
        result = option(result)
    return cast(Function, result)
