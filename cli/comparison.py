"""An .onnx beside its PyTorch reference, on images."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice, product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from mnq.cli.common import Screen, need_train

if TYPE_CHECKING:
    from mnq.runtime.certified import Right
    from mnq.runtime.modelfile import ModelFile
    from mnq.runtime.verify import Reference, Run

_NAMES = {False: "functions", True: "kernels"}


class Comparison:
    """A model, its reference, and batches of images of a folder or .zip for both."""

    def __init__(
        self,
        screen: Screen,
        model: ModelFile,
        images: Path,
        reference: Reference,
        batch: int,
        count: int,
    ) -> None:
        from mnq.models.images import ImageSet

        self._screen, self._model, self._reference = screen, model, reference
        self._source = ImageSet.open(images)
        self._batch, self._count = batch, count

    def runs(
        self, levels: tuple[str, ...], forms: tuple[bool, ...], provider: str, threads: int
    ) -> list[Run]:
        """A comparison at every level, by the functions and by the kernels."""
        from mnq.runtime import verify

        runs = []
        total = min(self._count, len(self._source))
        for level, form in product(levels, forms):
            with self._screen.progress(f"comparing {_NAMES[form]} at {level}", total) as advance:
                run = verify.compare(
                    self._model,
                    self._reference,
                    self._batches(),
                    level,
                    provider=provider,
                    threads=threads,
                    kernels=form,
                    advance=advance,
                )
            runs.append(run)
        for name, reason in self._source.skipped:
            self._screen.warn(f"skipped image {name}: {reason}")
        return runs

    @property
    def skipped(self) -> int:
        """How many images could not be decoded."""
        return len(self._source.skipped)

    def right(self, run: Run) -> Right:
        """The right integers of the batch in which a run found its first difference."""
        from mnq.runtime.certified import Right
        from mnq.runtime.pieces import image_name

        assert run.first_batch is not None
        batch = next(islice(self._batches(), run.first_batch, None))
        values = {image_name(self._model.proto.graph): batch, **self._reference(batch)}
        return Right(values, None)

    def _batches(self) -> Iterator[NDArray[Any]]:
        from mnq.models.images import batches

        model = self._model
        for pixels, _, _ in batches(self._source, model.preprocess, self._batch, limit=self._count):
            yield pixels if model.input_kind == "uint8" else model.preprocess.normalize(pixels)


def rebuilt(
    screen: Screen,
    model: ModelFile,
    weights: Path | None,
    random_weights: int | None,
    checkpoint: Path | None,
) -> Reference:
    """PyTorch's program of a model, from the float weights of its export or a checkpoint."""
    need_train()
    from mnq.models.zoo import load
    from mnq.toolchain.checkpoint import read
    from mnq.toolchain.export import rebuild, reference

    screen.note(f"rebuilding {model.name} in PyTorch")
    if checkpoint is None:
        return reference(rebuild(model, load(model.name, weights, random=random_weights)))
    trained = read(checkpoint)
    loaded = load(model.name, random=0, most=trained.most_parameters())
    return reference(rebuild(model, loaded, trained))
