"""Learned quantizers: scales, offsets and bit-widths that train with the weights (Q-ViT).

Every quantizer that a product reads has bits of its own, or for each of its heads; what the softmax
and GELU read keeps 8, the residual stream 16 and the ranges of `Ranges`. Scales are learned as
logarithms. With a switchable scale each of the widths 2 to 8 has its own (section 3.3), so that a
change of width finds the scale that belongs to it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from mnq.ops.errors import InputError
from mnq.toolchain.bitops import products
from mnq.toolchain.calibrate import Statistics
from mnq.toolchain.edges import Edges
from mnq.toolchain.graph import Graph
from mnq.toolchain.heads import Parts, softmax_of, weight_of
from mnq.toolchain.lsq import Grid, gradients, step_factor, sum_by_part
from mnq.toolchain.map import Choice
from mnq.toolchain.ranges import SMALLEST_LOG, Quantizer, Ranges
from mnq.toolchain.widths import FIXED_BITS, LARGEST, SMALLEST, Widths

QUANTIZERS = ("lsq", "lsq+", "qvit")
"""`lsq` learns scales; `lsq+` an offset of what GELU makes too; `qvit` also the bits."""


@dataclass(frozen=True)
class Slot:
    """Where a quantizer's parameters are.

    parts: how many; rows: of the scales, one for each part, none where weights of a softmax have
    none; bits: place of its first among the learned ones, None if it has `fixed` bits; offset: its
    place, None without.
    """

    parts: int
    rows: torch.Tensor | None
    bits: int | None
    fixed: int
    offset: int | None = None


class LearnedQuantizers(Ranges):
    """The quantizers of a graph whose methods are `choices`, from its calibration.

    kind: one of QUANTIZERS; width: bits of a uniform model, or those that a search ends near: it
    begins one above, and the first and last layer with 8 (section 4.1).
    switchable: a scale for every width. They are zero until `first_scales.initialize`.

    Raises InputError for an unknown kind, and for bits of a softmax in the normalized form.
    """

    log_scale: torch.nn.Parameter  # (rows, widths) or (rows, 1)

    def __init__(
        self,
        statistics: Statistics,
        graph: Graph,
        edges: Edges,
        parts: Parts,
        choices: dict[str, Choice],
        kind: str,
        width: int,
        switchable: bool,
        method: str = "mse",
        form: str = "ivit",
    ) -> None:
        super().__init__(statistics, edges, FIXED_BITS, method, form)
        if kind not in QUANTIZERS:
            raise InputError(f"quantizer: expected {' or '.join(QUANTIZERS)}, found {kind!r}")
        self.parts, self.edges, self.searching = parts, edges, kind == "qvit"
        self.slots: dict[str, Slot] = {}
        self._rows = 0
        self._first: list[int] = []  # bits to begin with
        self._offsets: list[str] = []
        learns = kind == "qvit"
        begin = min(width + 1, LARGEST) if learns else width
        counted = products(graph, edges, parts)
        operands = {name for product in counted for name in (product.left, product.right)}
        ends = {name for p in counted if p.end for name in (p.left, p.right)}
        for group, edge_kind in edges.kinds.items():
            if edge_kind == "activation":
                bits = LARGEST if group in ends else begin
                gelu = kind != "lsq" and group in graph.nodes and graph.nodes[group].op == "gelu"
                self._add(group, learns, bits if group in operands else None, offset=gelu)
        for node in graph:
            if node.op == "linear":
                weight = weight_of(node.name)
                self._add(weight, learns, LARGEST if weight in ends else begin)
            elif node.op == "attention":
                deferred = choices[node.site].attention == "deferred"
                if learns and not deferred:
                    raise InputError(
                        f"bits: expected attention in the deferred form, found the normalized one "
                        f"at {node.site}; choose it in the map"
                    )
                fixed = not deferred or choices[node.site].method == "fqvit"
                self._add(softmax_of(node.name), learns, None if fixed else begin, scaled=False)
        self.learned = {name: number for number, name in enumerate(self.slots)}
        columns = LARGEST - SMALLEST + 1 if switchable and learns else 1
        self.log_scale = torch.nn.Parameter(torch.zeros(self._rows, columns))
        self.offset = torch.nn.Parameter(torch.zeros(len(self._offsets)))
        first = torch.tensor(self._first, dtype=torch.float32)
        self.bits = torch.nn.Parameter(first) if learns else None

    def _add(
        self,
        name: str,
        learns: bool,
        bits: int | None,
        offset: bool = False,
        scaled: bool = True,
    ) -> None:
        """A quantizer that begins with `bits`, or has 8 for good."""
        parts, rows, place = self.parts.count(name), None, None
        if scaled:
            shared = self.parts.layout == "published" and name in self.parts.tensors
            own = self.parts.tensors[name] if shared else np.arange(parts)
            rows = torch.as_tensor(own) + self._rows
            self._rows += int(own.max()) + 1
        if bits is not None and learns:
            place = len(self._first)
            self._first += [bits] * parts
        if offset:
            self._offsets.append(name)
        number = len(self._offsets) - 1 if offset else None
        self.slots[name] = Slot(parts, rows, place, bits or FIXED_BITS, number)

    def bits_of(self, slot: Slot) -> torch.Tensor:
        """The bits (P,) in use of a quantizer, int64."""
        if slot.bits is None or self.bits is None:
            return torch.full((slot.parts,), slot.fixed)
        raw = self.bits.detach().cpu()[slot.bits : slot.bits + slot.parts]
        return raw.clamp(SMALLEST, LARGEST).round().long()

    def bit_widths(self, uniform: Widths) -> Widths:
        """The bits in use; `uniform` has those of what is not learned."""
        bits = {name: self.bits_of(slot) for name, slot in self.slots.items()}
        lowest = {name: self._lowest(name, int(bits[name][0])) for name in self._offsets}
        found = {name: b.numpy() for name, b in bits.items()}
        return Widths(uniform.activation_bits, uniform.weight_bits, found, lowest, self.parts)

    def _lowest(self, name: str, bits: int) -> int:
        """The smallest code of a quantizer with an offset; at 8 bits there is room for one only."""
        slot = self.slots[name]
        assert slot.offset is not None
        if bits == LARGEST:
            return -(2 ** (LARGEST - 1))
        steps = -float(self.offset.detach()[slot.offset]) / float(self._scale(name, slot))
        return -int(min(max(round(steps), 0), 2**bits - 1))

    def scales(self) -> dict[str, NDArray[np.float32] | np.float32]:
        """As `Ranges.scales`, and of every weight; one for each part where there are several."""
        result: dict[str, NDArray[np.float32] | np.float32] = {**self.calibrated()}
        for name, slot in self.slots.items():
            if slot.rows is not None:
                own = self._scale(name, slot).numpy()
                several = slot.parts > 1 or name not in self.index
                result[name] = own if several else np.float32(own.item())
        return result

    def _scale(self, name: str, slot: Slot) -> torch.Tensor:
        """Scales (P,) in use, float32; those of activations are bf16 numbers, the nearest."""
        logs = self.log_scale.detach().cpu()[slot.rows, self._column(slot)]
        scale = torch.exp2(logs.double().clamp_min(SMALLEST_LOG))
        return scale.to(torch.bfloat16).float() if name in self.index else scale.float()

    def _column(self, slot: Slot) -> torch.Tensor:
        """Which of the switchable scales is in use, for every part."""
        if self.log_scale.shape[1] == 1:
            return torch.zeros(slot.parts, dtype=torch.int64)
        return self.bits_of(slot) - SMALLEST

    def inputs(self) -> dict[str, list[torch.Tensor]]:
        """What autograd trains, by quantizer: log2 of the scales, bits, offset: those it has."""
        result = {}
        for name, slot in self.slots.items():
            found = []
            if slot.rows is not None:
                found.append(self.log_scale[slot.rows, self._column(slot)])
            if slot.bits is not None and self.bits is not None and self.searching:
                found.append(self.bits[slot.bits : slot.bits + slot.parts])
            if slot.offset is not None:
                found.append(self.offset[slot.offset])
            result[name] = found
        return result

    def bits_of_products(self) -> dict[str, torch.Tensor]:
        """Bits (P,) of every quantizer: the whole numbers in use, with the gradient of the learned.

        Of the image, and of whatever else has no entry, 8.
        """
        result = {}
        for name, slot in self.slots.items():
            whole = self.bits_of(slot).to(self.log_scale)
            if slot.bits is not None and self.bits is not None:
                raw = self.bits[slot.bits : slot.bits + slot.parts]
                whole = whole + raw - raw.detach()
            result[name] = whole
        for group in self.edges.kinds:
            result.setdefault(group, self.log_scale.new_full((1,), FIXED_BITS))
        return result

    def through(
        self, quantizer: Quantizer, values: torch.Tensor, gradient: torch.Tensor
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """The gradient that a quantizer passes on, and those of its `inputs` (spec 6.2)."""
        slot = self.slots.get(quantizer.group)
        if slot is None:
            return super().through(quantizer, values, gradient)
        grid = self.grid(quantizer, values)
        moves = slot.bits is not None and self.searching
        made = gradients(values, grid, gradient, moves)
        size = grid.by_part(torch.ones_like(values[:1] if quantizer.batched else values))
        factor = step_factor(size, grid.of_part(grid.hi)) * grid.of_part(grid.scale)
        found = [made.scale * factor * math.log(2.0)]  # of the logarithm
        if moves:
            found.append(made.bits)
        if slot.offset is not None:
            found.append(made.offset.sum())
        return made.values, found

    def grid(self, quantizer: Quantizer, like: torch.Tensor) -> Grid:
        """The grid of a quantizer, for the features of the tensor `like` and of its dtype."""
        slot = self.slots[quantizer.group]
        index = torch.as_tensor(self.parts.at(quantizer.tensor))
        bits = self.bits_of(slot)[index].to(like)
        unsigned = slot.offset is not None and int(bits) < LARGEST
        lo = bits.new_tensor(quantizer.limits[0]) if unsigned else -torch.exp2(bits - 1)
        scale = self._scale(quantizer.group, slot)[index].to(like)
        return Grid(scale, lo, bits, index.to(like.device), slot.parts, unsigned)

    def through_softmax(
        self, quantizer: str, slopes: Callable[[], torch.Tensor]
    ) -> list[torch.Tensor]:
        """The gradient of the bits (P,), if they move in the present step."""
        slot = self.slots[quantizer]
        if slot.bits is None or not self.searching:
            return []
        found, index = slopes(), torch.as_tensor(self.parts.at(quantizer))
        return [sum_by_part(found, index.to(found.device), slot.parts)]

    def update(self) -> None:
        """After a step: move the ranges, and keep bits within theirs."""
        super().update()
        if self.bits is not None:
            with torch.no_grad():
                self.bits.clamp_(SMALLEST, LARGEST)
