"""A run of QAT as mnq-qat and mnq-search drive it: its parts, its files, and what it shows."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from mnq.cli.common import Screen
from mnq.ops.errors import InputError
from mnq.ops.files import write_atomically

if TYPE_CHECKING:
    from mnq.models.dataset import Dataset
    from mnq.models.zoo import LoadedModel
    from mnq.toolchain import fit
    from mnq.toolchain.calibrate import Statistics
    from mnq.toolchain.export import Settings
    from mnq.toolchain.graph import Graph
    from mnq.toolchain.map import Map
    from mnq.toolchain.processes import Process
    from mnq.toolchain.ranges import Ranges
    from mnq.toolchain.train import Recipe, Trainer

LAST, BEST, LOG, CURVE = "last.safetensors", "best.safetensors", "log.csv", "curve.svg"

_EVAL_BATCH = 32


@dataclass(frozen=True)
class Subject:
    """What is trained, from a float model and its calibration."""

    loaded: LoadedModel
    graph: Graph  # as it was captured
    statistics: Statistics
    mapping: Map
    settings: Settings


@dataclass(frozen=True)
class Images:
    """Where images come from; workers: processes that decode them, of each training process."""

    train: Dataset
    val: Dataset | None
    name: str
    workers: int


@dataclass
class Run:
    """One run in one process. Raises InputError if its parts do not fit."""

    screen: Screen
    process: Process
    subject: Subject
    images: Images
    recipe: Recipe
    output: Path
    progress: fit.Progress = field(init=False)
    reference: dict[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        from mnq.models.augment import AUGMENTATIONS
        from mnq.models.loader import train_loader
        from mnq.ops.library import library_path
        from mnq.toolchain import fit
        from mnq.toolchain.equalize import equalize
        from mnq.toolchain.export import input_of
        from mnq.toolchain.qat import QuantizedModel

        subject, recipe, here = self.subject, self.recipe, self.process
        loaded, mapping, settings = subject.loaded, subject.mapping, subject.settings
        if recipe.batch_size % here.world:
            raise InputError(
                f"--batch: expected a multiple of the {here.world} processes, found "
                f"{recipe.batch_size}; change one of them"
            )
        self.loader = train_loader(
            self.images.train,
            loaded.preprocess,
            AUGMENTATIONS[recipe.augmentation],
            recipe.batch_size // here.world,
            recipe.seed,
            self.images.workers,
            loaded.num_classes,
            here.rank,
            here.world,
        )
        graph = equalize(subject.graph, subject.statistics.equalization)
        found = self.quantizers(graph)
        self.model = QuantizedModel(
            graph.to(here.device),
            mapping,
            found.to(here.device),
            input_of(loaded, settings),
            settings.form,
            recipe.precision,
            here.device.type == "cpu" and library_path() is not None,
        )
        self.teacher = graph.to(here.device)
        self.trainer = self.optimizer()
        self.progress = fit.Progress()

    def quantizers(self, graph: Graph) -> Ranges:
        """The quantizers of the equalized graph that move while it trains."""
        from mnq.toolchain.edges import assign_edges
        from mnq.toolchain.ranges import Ranges

        subject, settings = self.subject, self.subject.settings
        return Ranges(
            subject.statistics,
            assign_edges(graph),
            subject.mapping.activation_bits,
            settings.method,
            settings.form,
            self.recipe.ranges == "learned",
        )

    def optimizer(self) -> Trainer:
        """What trains the model."""
        from mnq.toolchain.train import Trainer

        return Trainer(self.model, self.recipe, len(self.loader), self.teacher)

    def judge(self, answers: list[Any]) -> fit.Row:
        """Figures of the present model for its history."""
        from mnq.toolchain.fit import validate

        return validate(self.model, self._judged(), answers)

    def curve(self) -> str:
        """The SVG of the history."""
        from mnq.toolchain.report.training import training_curve

        name = self.subject.loaded.name
        return training_curve({name: self.progress.history}, self.reference["top1"])

    def header(self) -> dict[str, Any]:
        """What a checkpoint says about the run, but for how far it is."""
        subject, settings = self.subject, self.subject.settings
        return {
            "model": subject.loaded.name,
            "weights": subject.loaded.weights_digest,
            "map": subject.mapping.to_json(),
            "settings": asdict(settings),
            "equalization": subject.statistics.equalization,
            "calibration": subject.statistics.provenance,
            "data": {"source": self.images.name, "images": len(self.images.train)},
            "recipe": self.trainer.recipe_json(),
        }

    def resume(self, path: Path) -> None:
        """Go on from a checkpoint. Raises InputError if it is of another run."""
        from mnq.toolchain.checkpoint import read
        from mnq.toolchain.fit import Progress

        found = read(path)
        other = [key for key, value in self.header().items() if found.header[key] != value]
        if other:
            raise InputError(
                f"checkpoint: expected one of this run, found one of another in {path} (different: "
                f"{', '.join(other)}); resume with the model, data and options that it began with"
            )
        step, losses = (found.header["progress"].get(key) for key in ("step", "losses"))
        if not isinstance(step, int) or not isinstance(losses, float | int) or step < 0:
            raise InputError(
                f"checkpoint: expected a number of steps and a sum of losses, found {step!r:.40} "
                f"and {losses!r:.40} in {path}; give an earlier checkpoint"
            )
        self.trainer.restore(found.tensors, step)
        self.progress = Progress(found.header["history"], losses)

    def train(self, stopped: Callable[[], bool]) -> bool:
        """Train to the end; False if `stopped` and saved before."""
        from mnq.toolchain.fit import Hooks, fit, float_answers

        answers, self.reference = float_answers(
            self.teacher, self.model.image, self._judged(), self.process.device
        )
        total = self.recipe.epochs * self.trainer.batches
        with _bar(self.screen, total, self.trainer.step) as show:

            def stepped(loss: float) -> None:
                epoch = (self.trainer.step - 1) // self.trainer.batches + 1
                text = f"epoch {epoch}/{self.recipe.epochs}"
                show(self.trainer.step, text, f"loss {loss:.4g}{_top1(self.progress.history)}")

            hooks = Hooks(
                lambda: self.judge(answers),
                self._save,
                stopped,
                stepped,
                lambda row: self.screen.note(_line(row, self.recipe.epochs)),
            )
            return fit(self.trainer, self.loader, self.progress, hooks)

    def _judged(self) -> Iterator[Any]:
        """This process's share of the images that the model is judged on."""
        from mnq.models.loader import eval_loader

        if self.images.val is None:
            return
        yield from eval_loader(
            self.images.val,
            self.subject.loaded.preprocess,
            _EVAL_BATCH,
            self.images.workers,
            self.process.rank,
            self.process.world,
        )

    def _save(self, progress: fit.Progress, best: bool) -> None:
        """Write the files of the run, in one of the processes.

        The checkpoint to go on from comes last: if the process dies before it, the epoch is done
        again, and so are the other files.
        """
        from mnq.toolchain import checkpoint
        from mnq.toolchain.export import scales_json

        if not self.process.first:
            return
        header = {
            **self.header(),
            "scales": scales_json(self.model.ranges.scales()),
            "widths": self.model.widths().to_json(),
            "progress": {"step": self.trainer.step, "losses": progress.losses},
            "history": progress.history,
        }
        made = checkpoint.Checkpoint(self.trainer.tensors(), header)
        if best:
            checkpoint.write(made, self.output / BEST)
        text = io.StringIO()
        writer = csv.DictWriter(text, [*progress.history[0]], lineterminator="\n")
        writer.writeheader()
        writer.writerows(progress.history)
        write_atomically(self.output / LOG, text.getvalue().encode())
        if self.images.val is not None:
            write_atomically(self.output / CURVE, self.curve().encode())
        checkpoint.write(made, self.output / LAST)


@contextmanager
def _bar(screen: Screen, total: int, done: int) -> Iterator[Callable[[int, str, str], None]]:
    """A progress bar over all steps; yields what sets it: steps done, text, status."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[status]}"),
    )
    with Progress(*columns, console=screen.notes, disable=screen.silent) as bar:
        task = bar.add_task("training", total=total, completed=done, status="")
        yield lambda step, text, status: bar.update(
            task, completed=step, description=text, status=status
        )


def _top1(history: list[fit.Row]) -> str:
    top1 = history[-1]["top1"] if history else None
    return "" if top1 is None else f", top-1 {top1:.2f} %"


def _line(row: fit.Row, epochs: int) -> str:
    parts = [] if row["loss"] is None else [f"loss {row['loss']:.4g}"]
    if row["top1"] is not None:
        parts += [f"top-1 {row['top1']:.2f} %", f"agreement {row['agreement']:.2f} %"]
    if "bitops" in row:
        parts.append(f"{row['bitops']:.4g} GBitOPs")
    if row["epoch"]:
        parts.append(f"{row['seconds']:.0f} s")
    name = f"epoch {row['epoch']}/{epochs}" if row["epoch"] else "before training"
    return f"{name}: {', '.join(parts) or 'not judged'}"
