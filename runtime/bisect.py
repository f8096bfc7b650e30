"""Bisect: from a model that gives a wrong integer somewhere to the smallest part that does."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto
from onnx.inliner import inline_local_functions

from mnq.ops.errors import InputError
from mnq.runtime.pieces import Piece, Pieces
from mnq.runtime.place import Arrays, Place
from mnq.runtime.session import with_all_outputs

Note = Callable[[str], None]


@dataclass(frozen=True)
class Part:
    """A piece of a model that is wrong at a place, on right inputs.

    tensors: how many tensors with known integers it computes; 1 is a piece that is wrong alone.
    0: the whole model, of which nothing smaller is wrong. expected: None if only its digest is
    known.
    """

    piece: Piece
    tensors: int
    feeds: dict[str, NDArray[Any]]
    expected: NDArray[Any] | None
    found: NDArray[Any]


def same(left: NDArray[Any], right: NDArray[Any]) -> bool:
    """Whether two tensors have the same type, shape and integers."""
    return left.dtype == right.dtype and np.array_equal(left, right)


class Search:
    """Looks for the smallest wrong part of a model at a place.

    right: the image and the right integers of every known tensor, by name.
    outputs: those that the model returns.
    """

    def __init__(
        self, model: ModelProto, right: Arrays, outputs: Iterable[str], place: Place, note: Note
    ) -> None:
        self._model, self._right, self._place, self._note = model, right, place, note
        self._images = {v.name: right[v.name] for v in model.graph.input if v.name in right}
        self._pieces = Pieces(model, right, right)
        self._outputs = list(outputs)

    def run(self) -> Part | None:
        """The smallest wrong part; None if nothing is wrong, as where errors come and go."""
        watched = self._first_watched()
        if watched is not None:
            return self._smallest(watched) or self._whole(watched)
        for output in self._outputs:
            hidden = self._first_unwatched(output)
            if hidden is not None:
                return self._smallest(hidden)
        return None

    def _first_watched(self) -> str | None:
        """The first wrong tensor where all known ones are read."""
        found = self._place.run(self._model, self._images, self._pieces.known)
        wrong = (name for name, v in found.items() if not same(v, self._right[name]))
        return next(wrong, None)

    def _first_unwatched(self, output: str) -> str | None:
        """The first tensor that is wrong if no other is read: what an optimizer may fuse."""
        names = [*self._pieces.ancestors(output), output]
        low, high = 0, len(names) - 1  # names[high] is wrong, what is before low is right
        if self._trial(names[high], len(names)) is None:
            return None
        while low < high:
            middle = (low + high) // 2
            if self._trial(names[middle], middle + 1) is None:
                low = middle + 1
            else:
                high = middle
        return names[high]

    def _smallest(self, target: str) -> Part | None:
        """The fewest tensors, `target` the last, that are wrong together on right inputs."""
        limit = len(self._pieces.ancestors(target)) + 1
        size, right = 1, 0  # `right` tensors together are right
        while (part := self._trial(target, size)) is None:
            if size == limit:
                return None
            size, right = min(2 * size, limit), size
        while size - right > 1:
            middle = (size + right) // 2
            smaller = self._trial(target, middle)
            if smaller is None:
                right = middle
            else:
                size, part = middle, smaller
        return part

    def _trial(self, target: str, size: int) -> Part | None:
        """`target` and the tensors before it as a model of their own, if that is wrong."""
        piece = self._pieces.window(target, size)
        self._note(f"{self._place}: {target}, {size} tensor{'s' if size > 1 else ''}")
        feeds = {name: self._right[name] for name in piece.inputs if name in self._right}
        try:
            found = self._place.run(piece.model, feeds)[target]
        except InputError:  # cannot run alone; with more around it, it can
            return None
        expected = self._right[target]
        return None if same(found, expected) else Part(piece, size, feeds, expected, found)

    def _whole(self, target: str) -> Part | None:
        """The model itself with all known tensors read, if `target` is wrong there again."""
        names = [target, *(name for name in self._pieces.known if name != target)]
        found = self._place.run(self._model, self._images, names)[target]
        if same(found, self._right[target]):
            return None
        piece = Piece(with_all_outputs(self._model, names), tuple(self._images), target)
        return Part(piece, 0, dict(self._images), self._right[target], found)


def inside(part: Part, place: Place, note: Note) -> Part | None:
    """The smallest wrong part of the standard operators that functions in a part consist of.

    None if there are no functions, or onnx.reference does not give what is expected of them.
    """
    model = part.piece.model
    if place.engine != "functions" or not model.functions or part.expected is None:
        return None
    inlined = inline_local_functions(model)
    names = [n for node in inlined.graph.node if node.op_type != "Constant" for n in node.output]
    values = Place("reference").run(inlined, part.feeds, names)
    right = {**part.feeds, **{name: np.asarray(value) for name, value in values.items()}}
    target = part.piece.target
    if not same(right[target], part.expected):
        return None
    return Search(inlined, right, [target], place, note).run()
