"""How to train: the options of mnq-qat and mnq-search that make a recipe."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

import click

from mnq.cli.common import COUNT, SEED, expect_one, need_train
from mnq.ops.errors import InputError

Function = TypeVar("Function", bound=Callable[..., Any])


_POSITIVE = click.FloatRange(0, min_open=True)

# Names of an option, its default, type and help text.
_OPTIONS: tuple[tuple[tuple[str, ...], Any, Any, str], ...] = (
    (("--epochs",), 1, COUNT, "The paper: 1, 5 or 90."),
    (("--batch",), 128, COUNT, "Images per step, of all processes."),
    (("--lr",), 1e-6, _POSITIVE, "Rate of AdamW; a cosine ends at 1/15 of it."),
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
    (("--range-lr",), 1e-3, _POSITIVE, "Rate of log2 of learned scales."),
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

_SEARCH_OPTIONS: tuple[tuple[tuple[str, ...], Any, Any, str], ...] = (
    (
        ("--quantizer",),
        "qvit",
        str,
        "qvit: bits are learned. lsq+: uniform bits, learned scales and offsets. lsq: no offsets.",
    ),
    (
        ("--bits",),
        4,
        click.IntRange(2, 8),
        "The budget: BitOPs of the uniform model of so many bits; lsq and lsq+ train that model.",
    ),
    (
        ("--heads",),
        "paper",
        str,
        "Bits and scales by head: as in the paper; as in the published code; none.",
    ),
    (
        ("--scales",),
        "switchable",
        str,
        "switchable: a scale for every width; single: one for all.",
    ),
    (
        ("--eta",),
        46.0,
        click.FloatRange(0),
        "Weight of the square of BitOPs / budget - 1, if above 0; the paper's 0.1 for DeiT-T.",
    ),
    (
        ("--sigma",),
        0.9,
        click.FloatRange(0, 1),
        "Share of the steps in which bits move; then they are rounded to the budget.",
    ),
    (("--bits-lr",), 1e-2, _POSITIVE, "Rate of bit-widths."),
)

# What is another number, or is said otherwise, where quantizers are learned.
_SEARCH_CHANGES: dict[str, tuple[Any, str]] = {
    "--epochs": (300, "The paper: 300."),
    "--batch": (512, "Images per step, of all processes."),
    "--lr": (2e-4, "Rate of AdamW; a cosine ends at 0."),
    "--weight-decay": (0.05, "Of matrices."),
    "--range-lr": (1e-2, "Rate of log2 of scales, and of offsets."),
}


def recipe_options(function: Function) -> Function:
    """Add the options of a training recipe; the function gets a `Recipe` as `recipe`.

    Raises InputError for a name that is none of those allowed, EnvironmentLack without torch.
    """

    @wraps(function)
    def wrapped(**given: Any) -> Any:
        need_train("matplotlib")
        from mnq.toolchain.ranges import KINDS
        from mnq.toolchain.train import Recipe

        expect_one("--ranges", given["kind"], KINDS)
        fields = _fields(given) | {"ranges": given.pop("kind")}
        return function(recipe=Recipe(**fields), **given)

    return _with_options(wrapped, _OPTIONS, {})


def search_options(function: Function) -> Function:
    """Add the options of a recipe that learns quantizers; the function gets a `SearchRecipe`.

    Raises as `recipe_options`.
    """

    @wraps(function)
    def wrapped(**given: Any) -> Any:
        need_train("matplotlib")
        from mnq.toolchain.bit_search import SearchRecipe
        from mnq.toolchain.heads import LAYOUTS
        from mnq.toolchain.learned import QUANTIZERS

        expect_one("--quantizer", given["quantizer"], QUANTIZERS)
        expect_one("--heads", given["heads"], LAYOUTS)
        expect_one("--scales", given["scales"], ("switchable", "single"))
        fields = _fields(given) | {name: given.pop(name) for name in ("quantizer", "bits", "heads")}
        fields |= {name: given.pop(name) for name in ("eta", "sigma")}
        fields |= {"switchable": given.pop("scales") == "switchable"}
        fields |= {"bits_rate": given.pop("bits_lr"), "ranges": "learned", "floor": 0.0}
        return function(recipe=SearchRecipe(**fields), **given)

    shared = tuple(option for option in _OPTIONS if option[0][0] != "--ranges")
    return _with_options(wrapped, (*_SEARCH_OPTIONS, *shared), _SEARCH_CHANGES)


def _fields(given: dict[str, Any]) -> dict[str, Any]:
    """Fields of a recipe out of the values of `_OPTIONS`. Raises InputError."""
    from mnq.models.augment import AUGMENTATIONS
    from mnq.toolchain.qat import PRECISIONS

    for option, number in given.items():
        if isinstance(number, float) and not math.isfinite(number):
            name = option.replace("_", "-")
            raise InputError(f"--{name}: expected a finite number, found {number}; see --help")
    expect_one("--augment", given["augment"], AUGMENTATIONS)
    expect_one("--precision", given["precision"], PRECISIONS)
    return {field: given.pop(name) for name, field in _FIELDS.items()}


def _with_options(
    function: Any,
    options: tuple[tuple[tuple[str, ...], Any, Any, str], ...],
    changes: dict[str, tuple[Any, str]],
) -> Any:
    for names, default, kind, text in reversed(options):
        default, text = changes.get(names[0], (default, text))
        option = click.option(*names, type=kind, default=default, show_default=True, help=text)
        function = option(function)
    return function


_FIELDS = {
    "epochs": "epochs",
    "batch": "batch_size",
    "lr": "learning_rate",
    "weight_decay": "weight_decay",
    "distill": "distillation",
    "distill_features": "feature_distillation",
    "clip_grad": "clip",
    "range_lr": "range_rate",
    "precision": "precision",
    "augment": "augmentation",
    "seed": "seed",
}
