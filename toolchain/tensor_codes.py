"""What the codes of every tensor stand for: scales, widths and limits, of all or by part."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mnq.ops.requantize.op import Constants
from mnq.toolchain.edges import Edges
from mnq.toolchain.program import Codes
from mnq.toolchain.widths import Widths

Scales = Mapping[str, "NDArray[np.float32] | np.float32"]
"""Of a code, by quantizer group: one number, or one for each part; of a weight, by weight_of."""


@dataclass(frozen=True)
class TensorCodes:
    """Of the tensors of a graph whose quantizers have these scales and widths."""

    edges: Edges
    scales: Scales
    widths: Widths

    def by_part(self, name: str) -> NDArray[np.float64]:
        """Value of one code: one number, or one for each part of the tensor's quantizer."""
        edge = self.edges.edges[name]
        return np.asarray(self.scales[edge.group], np.float64) * edge.factor

    def scale(self, name: str) -> NDArray[np.float64]:
        """Value of one code: one number, or one for each feature where parts have their own."""
        scale = self.by_part(name)
        return scale if scale.ndim == 0 else np.asarray(scale[self.widths.parts.at(name)])

    def bits(self, name: str) -> int:
        """The width: of the widest part."""
        return int(self.widths.tensor(self.edges.edges[name].group, self.edges).max())

    def limits(self, name: str) -> Constants:
        """`lo` and `hi`, int32: one number each, or one for each feature."""
        group = self.edges.edges[name].group
        ends = self.widths.limits(group, self.edges)
        lo, hi = (end.astype(np.int32)[self.widths.parts.at(name)] for end in ends)
        same = (lo == lo.flat[0]).all() and (hi == hi.flat[0]).all()
        return {"lo": np.array(lo.min()) if same else lo, "hi": np.array(hi.max()) if same else hi}

    def read(self, name: str) -> Codes:
        """Those of a tensor whose parts do not differ, as a step says what it reads."""
        return Codes(float(self.scale(name)), self.bits(name))
