"""What was proved when a model was exported: that no integer can overflow, and what is to spare."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mnq.ops.errors import InputError
from mnq.ops.proof import LIMITS

_WHERE = {"int64": "", "sum": " in sums", "int32": " in accumulators"}


@dataclass(frozen=True)
class Proven:
    """A tensor whose range is proved.

    operator: that makes it, or a view; lo, hi: every integer of it is within.
    bits: signed bits that it needs; width: of its type.
    inside: by kind (ops.proof.LIMITS) the operator's step that needs most bits: these, and its
        text; nothing for a view.
    """

    tensor: str
    operator: str
    lo: int
    hi: int
    bits: int
    width: int
    inside: dict[str, tuple[int, str]]

    @property
    def spare(self) -> int:
        """Bits of the type that the tensor does not need."""
        return self.width - self.bits


def to_json(rows: Sequence[Proven]) -> dict[str, Any]:
    """The metadata entry `mnq.overflow`."""
    return {
        row.tensor: {
            "operator": row.operator,
            "range": [row.lo, row.hi],
            "bits": [row.bits, row.width],
            "inside": {kind: [*place] for kind, place in row.inside.items()},
        }
        for row in rows
    }


def from_json(table: Any) -> list[Proven]:
    """The rows of `mnq.overflow`. Raises InputError if there are none, or something else."""
    if not table:
        raise InputError(
            "overflow: expected a proof in the model's metadata, found none; export the model again"
        )
    try:
        return [_row(tensor, **entry) for tensor, entry in table.items()]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"overflow: expected a table of ranges, found {type(error).__name__} {error}; export "
            "the model again"
        ) from error


def _row(
    tensor: str, operator: str, range: list[int], bits: list[int], inside: dict[str, Any]
) -> Proven:
    (lo, hi), (needed, width) = range, bits
    places = {str(kind): (number, step) for kind, (number, step) in inside.items()}
    numbers = [lo, hi, needed, width, *(number for number, _ in places.values())]
    texts = [operator, *(step for _, step in places.values())]
    if not all(type(n) is int for n in numbers) or not all(isinstance(t, str) for t in texts):
        raise ValueError("a value of another kind")
    if not {*places} <= {*LIMITS}:
        raise ValueError("a kind of step that is not known")
    return Proven(tensor, operator, lo, hi, needed, width, places)


def tightest(rows: Sequence[Proven]) -> dict[str, dict[str, Any]]:
    """By kind of step the one with the fewest bits to spare in the model, and where it is."""
    found: dict[str, dict[str, Any]] = {}
    for kind, limit in LIMITS.items():
        inside = [row for row in rows if kind in row.inside]
        if inside:
            row = max(inside, key=lambda each: each.inside[kind][0])
            bits, step = row.inside[kind]
            found[kind] = {
                "spare": limit - bits,
                "bits": limit,
                "tensor": row.tensor,
                "operator": row.operator,
                "step": step,
            }
    return found


def sentence(rows: Sequence[Proven]) -> str:
    """What is to spare, in one line."""
    parts = [
        f"{place['spare']} of {place['bits']}{_WHERE[kind]} ({place['tensor']})"
        for kind, place in tightest(rows).items()
    ]
    return f"no integer can overflow; bits to spare: {', '.join(parts)}"
