"""Feature maps of exported backbones beside those of the float model: part of mnq-eval."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.table import Table

from mnq.cli.common import Screen
from mnq.models.images import Batch
from mnq.ops.errors import InputError
from mnq.runtime.modelfile import ModelFile

if TYPE_CHECKING:
    from mnq.models.zoo import LoadedModel


@dataclass
class MapFidelity:
    """One feature map of one model.

    shape: of one image. signal, noise: sums of squares of the float map and of the difference.
    """

    model: str
    map: str
    shape: tuple[int, ...]
    images: int = 0
    signal: float = 0.0
    noise: float = 0.0

    @property
    def sqnr_db(self) -> float | None:
        """10 log10 of the power ratio over all images; None where one of the two is zero."""
        if self.signal <= 0 or self.noise <= 0:
            return None
        return 10.0 * math.log10(self.signal / self.noise)

    def to_json(self) -> dict[str, Any]:
        """The figures as a JSON object."""
        return {**asdict(self), "sqnr_db": self.sqnr_db}


def judge_maps(
    screen: Screen,
    models: Mapping[Path, ModelFile],
    loaded: LoadedModel,
    stream: Iterable[Batch],
    total: int,
    **options: Any,
) -> list[MapFidelity]:
    """Every map of every model against the float model's on the same images.

    options: of `open_session`. Raises InputError if a model has other maps than the float one.
    """
    import torch

    from mnq.runtime.session import infer, open_session

    sessions = {path: open_session(m.proto, **options) for path, m in models.items()}
    found: dict[tuple[Path, int], MapFidelity] = {}
    with screen.progress("evaluating", total) as advance:
        for pixels, _, _ in stream:
            with torch.no_grad():
                normalized = loaded.preprocess.normalize(pixels)
                maps = loaded.model(torch.from_numpy(normalized))
            expected = [m.double().numpy() for m in maps]
            for path, model in models.items():
                outputs = infer(
                    sessions[path], pixels if model.input_kind == "uint8" else normalized
                )
                if [o.shape for o in outputs] != [e.shape for e in expected]:
                    raise InputError(
                        f"eval: expected the maps of {loaded.name}, found others in {path}; judge "
                        "it in a run of its own"
                    )
                for i, (codes, exact) in enumerate(zip(outputs, expected, strict=True)):
                    name = model.proto.graph.output[i].name
                    entry = found.setdefault(
                        (path, i), MapFidelity(str(path), name, exact.shape[1:])
                    )
                    entry.images += len(exact)
                    entry.signal += float(np.square(exact).sum())
                    entry.noise += float(np.square(codes * model.output_scales[i] - exact).sum())
            advance(len(pixels))
    return [*found.values()]


def map_table(results: list[MapFidelity]) -> Table:
    """A row per map."""
    table = Table(box=None, pad_edge=False)
    for head in ("model", "map", "shape", "images", "SQNR dB"):
        table.add_column(head, justify="left" if head in ("model", "map") else "right")
    for r in results:
        sqnr = "-" if r.sqnr_db is None else f"{r.sqnr_db:.1f}"
        shape = "x".join(str(size) for size in r.shape)
        table.add_row(r.model, r.map, shape, str(r.images), sqnr)
    return table
