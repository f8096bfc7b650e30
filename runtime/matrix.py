"""The matrix: a model against its certificate at every place that there is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from mnq.ops.errors import EnvironmentLack, InputError
from mnq.runtime.modelfile import ModelFile
from mnq.runtime.place import Place
from mnq.runtime.places import DIFFERS, EQUAL, MISSING, REFUSED, rows
from mnq.runtime.session import LEVELS
from mnq.runtime.verify import Run, check_at


@dataclass(frozen=True)
class Cell:
    """What became of the model at a place.

    verdict: of `places`; run: the comparison, which compared nothing where the model was
    refused, and None if there was none; reason: why it was refused or not run.
    """

    place: Place
    verdict: str
    run: Run | None = None
    reason: str = ""

    def to_json(self) -> dict[str, Any]:
        """The cell as a JSON object."""
        run = self.run or Run("")
        return {
            "place": self.place.to_json(),
            "verdict": self.verdict,
            "tensors": run.tensors,
            "differing_tensors": run.differing_tensors,
            "first": None if run.first is None else run.first.tensor,
            "module": None if run.first is None else run.first.module,
            "reason": self.reason,
        }


def places(threads: int) -> list[tuple[Place, str]]:
    """Every cell's place, row by row, and why it is not here; onnx.reference has no levels.

    threads: how many, beside one.
    """
    return [
        (replace(place, level=level), reason)
        for place, reason in rows(threads)
        for level in (LEVELS if place.engine != "reference" else ("disabled",))
    ]


def cells(model: ModelFile, wanted: list[tuple[Place, str]]) -> Iterator[Cell]:
    """The model against its certificate at each place."""
    for place, reason in wanted:
        yield Cell(place, MISSING, reason=reason) if reason else cell(model, place)


def cell(model: ModelFile, place: Place) -> Cell:
    """The model against its certificate at one place."""
    try:
        run = check_at(model, place)
    except EnvironmentLack as error:
        return Cell(place, MISSING, reason=str(error))
    except InputError as error:
        name = f"certificate, {place}"
        return Cell(place, REFUSED, Run(name, place=place, refused=str(error)), str(error))
    return Cell(place, EQUAL if run.passed else DIFFERS, run)
