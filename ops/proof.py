"""What a proof that nothing overflows notes while an operator's definition runs on Intervals."""

from __future__ import annotations

import itertools
import linecache
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from mnq.ops.interval import Interval

LIMITS = {"int64": 64, "sum": 54, "int32": 32}
"""Signed bits that there are: of arithmetic, of ReduceSum (exact below 2^53), of accumulators."""

Entry = tuple[int | None, ...]
"""An index; None at axes along which all entries share a range."""

_OPS = Path(__file__).parent
_INNER = {str(_OPS / f"{name}.py") for name in ("proof", "interval", "bounds", "integer")}
_CALL = str(_OPS / "operator.py")


def bits_of(lo: int, hi: int) -> int:
    """Bits of a signed type that holds lo..hi."""
    return max((~lo if lo < 0 else lo).bit_length(), (~hi if hi < 0 else hi).bit_length()) + 1


@dataclass(frozen=True)
class Place:
    """A step inside an operator and the signed bits that its result needs.

    step: the functions that lead there and its text, such as "Requantize > rescale: z * m"; the
        operator itself is left out.
    """

    bits: int
    step: str


class Overflow(Exception):
    """A value that may not fit, or an index or a divisor that may be wrong.

    step: as in Place; problem: what may happen; blame: the constant whose size does it, with its
    channel, or the activation; where: source file and line.
    """

    def __init__(self, step: str, where: str, problem: str, blame: str) -> None:
        super().__init__(f"`{step}` {problem}{f', from {blame}' if blame else ''} ({where})")
        self.step, self.where, self.problem, self.blame = step, where, problem, blame


@dataclass
class Trace:
    """Of one run of one operator: its constants, the shapes of its activations, and the place with
    the most bits of each kind.
    """

    constants: dict[str, NDArray[Any]] = field(default_factory=dict)
    activations: dict[str, tuple[int, ...]] = field(default_factory=dict)
    places: dict[str, Place] = field(default_factory=dict)
    _muted: bool = False

    def note(self, kind: str, bits: int) -> None:
        """Keep the present step if no step of this kind (LIMITS) needed more bits."""
        if not self._muted and (kind not in self.places or self.places[kind].bits < bits):
            self.places[kind] = Place(bits, _step()[0])

    @contextmanager
    def muted(self) -> Iterator[None]:
        """Notes nothing: for arithmetic that belongs to a fact and not to the operator."""
        before, self._muted = self._muted, True
        try:
            yield
        finally:
            self._muted = before

    def refuse(
        self,
        problem: str,
        operands: Sequence[Interval],
        index: Entry = (),
        end: int | None = None,
    ) -> Overflow:
        """The error for the present step; `index` is an entry of its result that is wrong, `end`
        which end of its range: 0 for lo, 1 for hi, None for either.
        """
        return Overflow(*_step(), problem, self._blame(operands, index, end))

    def _blame(self, operands: Sequence[Interval], index: Entry, end: int | None) -> str:
        """The largest constant in the largest operand at `index`, or the activations in it."""

        def names(x: Interval) -> frozenset[str]:
            one = end is not None and len(operands) == 1
            return x.origin[end or 0] if one else x.origin[0] | x.origin[1]

        def size(x: Interval) -> tuple[int, bool]:
            bits = (max(_size(x.lo, index), _size(x.hi, index)) + 1).bit_length()
            return bits, len(names(x)) == 1  # an input itself, before what is made of many

        given = sorted(names(max(operands, key=size)))
        sizes = {n: _size(self.constants[n], index) for n in given if n in self.constants}
        shapes = [f"{n} {_shape(self.activations[n])}" for n in given if n in self.activations]
        name = max(sizes, key=lambda each: sizes[each], default="")
        if not name or (shapes and sizes[name] == 0):
            return " and ".join(shapes)
        shape = self.constants[name].shape
        chosen = [
            ":" if isinstance(part, slice) else str(part)
            for part, length in zip(_part(shape, index), shape, strict=True)
            if length > 1
        ]
        return name if {*chosen} <= {":"} else f"{name}[{', '.join(chosen)}]"


def _shape(shape: tuple[int, ...]) -> str:
    return f"({', '.join('B' if length < 0 else str(length) for length in shape)})"


def _part(shape: tuple[int, ...], index: Entry) -> tuple[int | slice, ...]:
    """Where an array that broadcasts has what enters an entry."""
    missing = len(shape) - len(index)
    aligned = (*(None,) * missing, *index[max(-missing, 0) :])
    return tuple(
        0 if length == 1 else slice(None) if at is None or at >= length else at
        for at, length in zip(aligned, shape, strict=True)
    )


def _size(array: NDArray[Any], index: Entry) -> int:
    """The largest magnitude in what enters an entry."""
    part = array[_part(array.shape, index)]
    return max(abs(int(np.min(part))), abs(int(np.max(part))))


def _step() -> tuple[str, str]:
    """The step that is running, as in Place, and its file and line."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename in _INNER:
        frame = frame.f_back
    assert frame is not None
    path = Path(frame.f_code.co_filename)
    where = f"{path.parent.name}/{path.name}, line {frame.f_lineno}"
    text, names = _text(frame), [*_functions(frame)]
    return f"{' > '.join(reversed(names))}: {text}" if names else text, where


def _functions(frame: FrameType | None) -> Iterator[str]:
    """Functions and operators inside the outermost operator that lead to a frame, last first."""
    inside: list[str] = []
    while frame is not None:
        path, name = frame.f_code.co_filename, frame.f_code.co_name
        if path == _CALL and name == "__call__":
            yield from inside
            inside = [frame.f_locals["self"].name]
        elif path.startswith(str(_OPS)) and path not in _INNER and not name.startswith("compute"):
            inside.append(name)
        frame = frame.f_back


def _text(frame: FrameType) -> str:
    """The source of the expression that a frame is evaluating."""
    positions = itertools.islice(frame.f_code.co_positions(), frame.f_lasti // 2, None)
    first, last, start, end = next(positions)
    if first is None or last is None:
        return frame.f_code.co_name
    lines = linecache.getlines(frame.f_code.co_filename)[first - 1 : last]
    if not lines:
        return frame.f_code.co_name
    lines[-1] = lines[-1].encode()[:end].decode()
    lines[0] = lines[0].encode()[start:].decode()
    return " ".join(" ".join(lines).split())
