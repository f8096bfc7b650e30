"""A finding: the smallest part of a model that is wrong, where else it is, and likely why."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnq.ops.errors import EnvironmentLack, InputError, MnqError
from mnq.ops.library import cpu_path, library_path
from mnq.runtime import bisect
from mnq.runtime.bisect import Note, Part
from mnq.runtime.certified import Right, copies
from mnq.runtime.machine import cores
from mnq.runtime.modelfile import ModelFile
from mnq.runtime.pieces import Piece, Pieces
from mnq.runtime.place import Place
from mnq.runtime.places import DIFFERS, EQUAL, MISSING, REFUSED, kernel_paths
from mnq.runtime.session import LEVELS

ALONE, TOGETHER, WHOLE, FILE = "alone", "together", "whole", "file"
"""Wrong: a node by itself; nodes only together; the whole model only; wherever it runs."""


@dataclass(frozen=True)
class Elsewhere:
    """What becomes of the same part at another place."""

    place: Place
    verdict: str
    reason: str = ""


@dataclass(frozen=True)
class Finding:
    """What differs, and the smallest part that does.

    kind: ALONE, TOGETHER, WHOLE or FILE; place: where it was found; part: of the model's graph;
    inner: of the standard operators that functions in it consist of, or None.
    """

    kind: str
    module: str
    place: Place
    part: Part
    inner: Part | None
    elsewhere: list[Elsewhere]

    @property
    def tensor(self) -> str:
        """The tensor that differs."""
        return self.part.piece.target

    @property
    def smallest(self) -> Part:
        """The smaller of the two parts."""
        return self.inner or self.part

    @property
    def nodes(self) -> list[str]:
        """The nodes of the part: operator and first output."""
        return titles(self.part.piece)

    def first(self) -> tuple[list[int] | None, Any, Any]:
        """Of the smallest part the first differing index, and both integers there.

        No index where types or shapes differ, or nothing but a digest is expected.
        """
        expected, found = self.smallest.expected, self.smallest.found
        if expected is None:
            return None, None, _kind(found)
        if (expected.dtype, expected.shape) != (found.dtype, found.shape):
            return None, _kind(expected), _kind(found)
        at = tuple(int(i) for i in np.argwhere(expected != found)[0])
        return list(at), expected[at].item(), found[at].item()

    def to_json(self) -> dict[str, Any]:
        """The finding as a JSON object."""
        index, expected, found = self.first()
        wrong, smallest = self.part, self.smallest
        return {
            "kind": self.kind,
            "tensor": self.tensor,
            "module": self.module,
            "place": self.place.to_json(),
            "nodes": self.nodes,
            "constants": wrong.piece.constants,
            "standard_operators": titles(self.inner.piece) if self.inner else [],
            "differing_tensor": smallest.piece.target,
            "index": index,
            "expected": expected,
            "found": found,
            "differing_integers": differing(smallest),
            "elsewhere": [
                {"place": e.place.to_json(), "verdict": e.verdict, "reason": e.reason}
                for e in self.elsewhere
            ],
        }


def titles(piece: Piece) -> list[str]:
    """The nodes of a piece as text: operator and first output."""
    return [f"{node.op_type} {node.output[0]!r}" for node in piece.nodes if node.output]


def differing(part: Part) -> int | None:
    """How many integers differ; None if only a digest is known."""
    if part.expected is None:
        return None
    if part.expected.shape != part.found.shape:
        return int(part.expected.size)
    return int((part.expected != part.found).sum())


def _kind(values: NDArray[Any]) -> str:
    return f"{values.dtype.name} {list(values.shape)}"


def find(model: ModelFile, right: Right, place: Place, note: Note) -> Finding | None:
    """What is wrong with a model at a place; None if nothing is, as where errors come and go.

    right: the right integers; where they end is a tensor that nothing computes as certified.
    """
    if right.lost is not None:
        return _of_file(model, right, right.lost, place)
    if place.engine == "kernels" and not place.path and (library := library_path()) is not None:
        place = replace(place, path=cpu_path(library))
    outputs = [name for name in copies(model).values() if name in right.values]
    part = bisect.Search(model.proto, right.values, outputs, place, note).run()
    if part is None:
        return None
    kind = {0: WHOLE, 1: ALONE}.get(part.tensors, TOGETHER)
    inner = bisect.inside(part, place, note)
    others = list(_elsewhere(part, place, note)) if kind != WHOLE else []
    return Finding(kind, model.module(part.piece.target), place, part, inner, others)


def _of_file(model: ModelFile, right: Right, tensor: str, place: Place) -> Finding | None:
    """Of a tensor that nothing computes as certified."""
    pieces = Pieces(model.proto, model.certificate["tensors"], right.values)
    piece = pieces.cut(tensor)
    feeds = {name: right.values[name] for name in piece.inputs if name in right.values}
    for runner in (place, Place("reference")):
        try:
            found = np.asarray(runner.run(piece.model, feeds)[tensor])
        except MnqError:
            continue
        part = Part(piece, 1, feeds, None, found)
        return Finding(FILE, model.module(tensor), runner, part, None, [])
    return None


def _elsewhere(part: Part, place: Place, note: Note) -> Iterator[Elsewhere]:
    """What becomes of a part at the other places of this machine."""
    for other, reason in _others(part, place):
        if reason:
            yield Elsewhere(other, MISSING, reason)
            continue
        note(f"the same part: {other}")
        try:
            found = other.run(part.piece.model, part.feeds)[part.piece.target]
        except InputError as error:
            yield Elsewhere(other, REFUSED, str(error))
        except EnvironmentLack as error:
            yield Elsewhere(other, MISSING, str(error))
        else:
            assert part.expected is not None
            equal = bisect.same(np.asarray(found), part.expected)
            yield Elsewhere(other, EQUAL if equal else DIFFERS)


def _others(part: Part, place: Place) -> Iterator[tuple[Place, str]]:
    yield Place("reference"), ""
    for provider in dict.fromkeys((place.provider, "cpu")):
        for level in LEVELS:
            yield Place("functions", level, provider, place.threads), ""
    if part.piece.model.functions:
        for path, reason in kernel_paths().items():
            for threads in sorted({1, max(2, cores())}):
                yield Place("kernels", "disabled", threads=threads, path=path), reason
