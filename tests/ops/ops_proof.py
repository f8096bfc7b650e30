"""An operator's definition on Intervals, for its activations' ranges and its constants."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from ops_harness import Array, Case

from mnq.ops.interval import Interval, codes, constant
from mnq.ops.operator import Operator
from mnq.ops.proof import Trace

Range = tuple[int, int]
Activation = tuple[Range, tuple[int, ...]]
"""The range and the shape of an activation."""


def proved(
    operator: Operator,
    activations: Mapping[str, Activation],
    constants: Mapping[str, Array],
    trace: Trace | None = None,
    **attributes: int,
) -> Interval:
    """The range of the operator's output. Raises Overflow."""
    trace = trace or Trace()
    inputs = [
        codes(name, *activations[name][0], activations[name][1], trace)
        if name in activations
        else constant(name, np.asarray(constants[name]), trace)
        for name in operator.inputs
    ]
    result: Interval = operator(*inputs, **attributes)
    return result


def activations_of(case: Case) -> dict[str, Activation]:
    """Every activation of a case in the range of its integers, the batch open."""
    return {
        name: ((int(a.min()), int(a.max())), (-1, *a.shape[1:]))
        for name, a in case.activations.items()
    }


def proved_case(case: Case, trace: Trace | None = None) -> Interval:
    """`proved` for a case."""
    return proved(case.operator, activations_of(case), case.constants, trace, **case.attributes)
