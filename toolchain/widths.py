"""Widths: how many bits every quantizer has: a map's two numbers, or those that training found."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnq.ops.errors import InputError
from mnq.toolchain.edges import Edges
from mnq.toolchain.heads import LAYOUTS, Parts

Bits = NDArray[np.int64]

SMALLEST, LARGEST = 2, 8
"""b_min and b_max of Q-ViT."""

FIXED_BITS = 8
"""Of quantizers without learned bits: no product reads what the softmax and GELU read."""


@dataclass(frozen=True)
class Widths:
    """Bits of every quantizer; of their parts, where heads have their own.

    activation_bits, weight_bits: of all that `bits` does not name (edges.Edges.bits).
    bits: by quantizer, one number for each of its parts.
    lowest: by quantizer, the smallest code of one with an offset; -2^(bits-1) otherwise. An offset
        is a whole number of steps, so that codes keep standing for scale * code.
    """

    activation_bits: int = FIXED_BITS
    weight_bits: int = FIXED_BITS
    bits: dict[str, Bits] = field(default_factory=dict)
    lowest: dict[str, int] = field(default_factory=dict)
    parts: Parts = field(default_factory=Parts)

    def tensor(self, group: str, edges: Edges) -> Bits:
        """Bits (P,) of the parts of a group of edges."""
        fixed = np.array([edges.bits(group, self.activation_bits)])
        return self.bits.get(group, fixed)

    def weight(self, quantizer: str) -> Bits:
        """Bits (P,) of the parts of a weight, by `heads.weight_of`."""
        return self.bits.get(quantizer, np.array([self.weight_bits]))

    def softmax(self, quantizer: str) -> Bits:
        """Bits (P,) of the softmax weights of attention, by `heads.softmax_of`."""
        return self.bits.get(quantizer, np.array([FIXED_BITS]))

    def limits(self, group: str, edges: Edges) -> tuple[Bits, Bits]:
        """Smallest and largest code (P,) of the parts of a group of edges."""
        bits = self.tensor(group, edges)
        lo = -(2 ** (bits - 1))
        if group in self.lowest:
            lo = np.full_like(bits, self.lowest[group])
        return lo, lo + 2**bits - 1

    def to_json(self) -> dict[str, Any]:
        """The learned bits as a JSON object; empty if there are none."""
        if not self.bits:
            return {}
        return {
            "heads": self.parts.layout,
            "bits": {name: bits.tolist() for name, bits in self.bits.items()},
            "lowest": self.lowest,
        }


def layout_of(data: Any, source: str) -> str:
    """The layout of heads that learned bits in JSON are for. Raises InputError."""
    layout = data.get("heads") if isinstance(data, dict) else None
    if layout not in LAYOUTS:
        raise _unfit(f"heads as {' or '.join(LAYOUTS)}", layout, source)
    return str(layout)


def from_json(data: Any, parts: Parts, known: set[str], uniform: Widths, source: str) -> Widths:
    """Learned bits from a decoded JSON value, for the parts of a model; `source` names it.

    known: the model's quantizers. Raises InputError unless every number can be one: 2 to 8 bits,
    one for each part.
    """
    bits, lowest = data.get("bits"), data.get("lowest")
    if not isinstance(bits, dict) or not isinstance(lowest, dict):
        raise _unfit("bits by quantizer", bits, source)
    if not set(bits) <= known:
        raise _unfit("quantizers of this model", sorted(set(bits) - known)[0], source)
    for name, found in bits.items():
        fits = isinstance(found, list) and len(found) == parts.count(name)
        if not fits or not all(type(b) is int and SMALLEST <= b <= LARGEST for b in found):
            raise _unfit(
                f"{parts.count(name)} numbers from 2 to 8 for {name[:80]!r}", found, source
            )
    for name, code in lowest.items():
        last = 2 ** bits[name][0] - 1 if name in bits and len(bits[name]) == 1 else -1
        if type(code) is not int or not -last <= code <= 0 or code + last > 127:
            raise _unfit(f"a smallest code for {name[:80]!r}", code, source)
    arrays = {name: np.array(found, np.int64) for name, found in bits.items()}
    return Widths(uniform.activation_bits, uniform.weight_bits, arrays, lowest, parts)


def _unfit(expected: str, found: Any, source: str) -> InputError:
    return InputError(
        f"bits: expected {expected}, found {found!r:.60} in {source}; give a file that mnq-search "
        "or mnq-export wrote"
    )
