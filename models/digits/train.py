"""Train the digits model: `python -m mnq.models.digits.train --output FILE`, a minute or two."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from mnq.models.digits import data
from mnq.models.digits.model import PREPROCESS, build
from mnq.ops.errors import InputError, MnqError

if TYPE_CHECKING:
    import torch

__all__ = ["Recipe", "accuracy", "train", "write"]


@dataclass(frozen=True)
class Recipe:
    """What decides the weights, together with the versions of torch and timm.

    Chosen on parts of the train split; the test split had no say.
    """

    epochs: int = 100
    seed: int = 0
    batch_size: int = 32
    learning_rate: float = 2e-3
    weight_decay: float = 0.05
    label_smoothing: float = 0.05
    dropout: float = 0.1


def train(recipe: Recipe, report: Callable[[str], None] = lambda line: None) -> torch.nn.Module:
    """Train from scratch and return the model in eval mode; `report` gets a line now and then.

    AdamW with warm-up and cosine decay; half of the images are moved by a pixel.
    """
    import torch

    images, labels = _tensors("train")
    with _reproducible(recipe.seed):
        model = build(recipe.dropout)
        _initialize(model)
        optimizer = torch.optim.AdamW(
            model.parameters(), recipe.learning_rate, weight_decay=recipe.weight_decay
        )
        steps = recipe.epochs * -(-len(images) // recipe.batch_size)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, recipe.learning_rate, total_steps=steps + 1, pct_start=0.1
        )
        for epoch in range(1, recipe.epochs + 1):
            total = 0.0
            for chosen in torch.randperm(len(images)).split(recipe.batch_size):
                loss = torch.nn.functional.cross_entropy(
                    model(_shifted(images[chosen])),
                    labels[chosen],
                    label_smoothing=recipe.label_smoothing,
                )
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
                total += float(loss.detach()) * len(chosen)
            if epoch % 10 == 0 or epoch == recipe.epochs:
                report(f"epoch {epoch}/{recipe.epochs}: loss {total / len(images):.3f}")
    return model.eval()


def accuracy(model: torch.nn.Module, split: data.Split) -> float:
    """Share of the split's images, 0..1, whose largest logit is the right one."""
    import torch

    images, labels = _tensors(split)
    with torch.inference_mode():
        return float((model(images).argmax(dim=1) == labels).float().mean())


def write(model: torch.nn.Module, path: Path, metadata: dict[str, str]) -> None:
    """Write the state dict as .safetensors; a reader sees the old file or all of the new one.

    InputError if the place cannot be written.
    """
    from safetensors.torch import save

    beside = path.with_name(path.name + ".part")
    try:
        beside.write_bytes(save(model.state_dict(), metadata))
        os.replace(beside, path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        raise InputError(
            f"output: expected a writable place for {path}, found: {error.strerror}; "
            "make the folder or choose another with --output"
        ) from error


def _tensors(split: data.Split) -> tuple[torch.Tensor, torch.Tensor]:
    """The split as the model takes it: float32 (N, 1, 8, 8) and int64 (N,)."""
    import torch

    images, labels = data.load(split)
    return torch.from_numpy(PREPROCESS.normalize(images)), torch.from_numpy(labels)


@contextlib.contextmanager
def _reproducible(seed: int) -> Iterator[None]:
    """Draw from the seed and sum in one order; then restore the caller's state and threads."""
    import torch

    # One thread adds in the same order on any machine, and at this size is hardly slower.
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            yield
    finally:
        torch.set_num_threads(threads)


def _initialize(model: torch.nn.Module) -> None:
    """Draw larger weights than timm does: its 0.02 suits widths of 200 and more, not 64."""
    import torch

    for name, parameter in model.named_parameters():
        if name == "pos_embed":
            torch.nn.init.trunc_normal_(parameter, std=0.2)
        elif parameter.ndim == 2:
            torch.nn.init.xavier_uniform_(parameter)


def _shifted(images: torch.Tensor) -> torch.Tensor:
    """Move half of the images by -1..1 pixels both ways; what enters is background (-1)."""
    import torch

    size = images.shape[-1]
    padded = torch.nn.functional.pad(images, (1, 1, 1, 1), value=-1.0)
    top, left = torch.randint(0, 3, (2, len(images), 1))
    still = torch.rand(len(images), 1) < 0.5
    top, left = top.masked_fill(still, 1), left.masked_fill(still, 1)
    line = torch.arange(size)
    rows, columns = (top + line)[:, :, None], (left + line)[:, None, :]
    which = torch.arange(len(images))[:, None, None]
    return padded[which, 0, rows, columns][:, None]


@click.command()
@click.option("--output", type=click.Path(path_type=Path, dir_okay=False), required=True)
@click.option("--epochs", type=click.IntRange(1, 10_000), default=Recipe.epochs, show_default=True)
@click.option("--seed", type=click.IntRange(0), default=Recipe.seed, show_default=True)
def main(output: Path, epochs: int, seed: int) -> None:
    """Train the digits model and write its weights to --output (.safetensors)."""
    try:
        _require_folder(output)
        recipe = Recipe(epochs=epochs, seed=seed)
        model = train(recipe, click.echo)
        share = accuracy(model, "test")
        write(model, output, {"training": _provenance(recipe, share)})
    except MnqError as error:
        click.echo(f"error: {error}", err=True)
        raise SystemExit(error.exit_status) from error
    click.echo(f"test accuracy {share:.2%}, written to {output}")


def _require_folder(output: Path) -> None:
    # Before the training, not after it.
    if not output.parent.is_dir():
        raise InputError(
            f"output: expected a folder at {output.parent}, found none; "
            "make it or choose another with --output"
        )


def _provenance(recipe: Recipe, share: float) -> str:
    """One JSON text: safetensors does not keep the order of several entries."""
    import sklearn
    import timm
    import torch

    versions = {module.__name__: module.__version__ for module in (sklearn, timm, torch)}
    facts = {"recipe": asdict(recipe), "test_accuracy": round(share, 4), "versions": versions}
    return json.dumps(facts, sort_keys=True)


if __name__ == "__main__":
    main()
