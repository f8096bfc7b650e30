"""Every case of the kit, by operator."""

from __future__ import annotations

import itertools

import conformance_ends as ends
import conformance_linear as linear
import conformance_rows as rows
from conformance_attention import LAYOUTS, attention
from conformance_draw import Case

from mnq.ops.registry import ATTENTION, GELU, LAYERNORM, OPERATORS, SOFTMAX


def cases() -> dict[str, list[Case]]:
    """Cases by operator, in the order of the registry; their inputs are in the operator's order.

    An operator without one is missing here.
    """
    made = itertools.chain(
        linear.requantize(),
        linear.requantize_add(),
        linear.layers(),
        linear.looked_up(),
        linear.products(),
        ends.patches(),
        ends.l2_normalize(),
        ends.mean_tokens(),
        *(rows.softmax(method) for method in SOFTMAX),
        *(rows.gelu(method) for method in GELU),
        *(rows.layernorm(method) for method in LAYERNORM),
        *(
            attention(method, form, layout)
            for method, forms in ATTENTION.items()
            for form in forms
            for layout in LAYOUTS
        ),
    )
    found: dict[str, list[Case]] = {}
    for case in made:
        found.setdefault(case.operator, []).append(case)
    return {name: found[name] for name in OPERATORS if name in found}
