"""The table of methods and operators. A new approximation is a folder and a line here."""

from __future__ import annotations

from collections.abc import Iterable

from mnq.ops.attention.op import attention, packed, window
from mnq.ops.fqvit_layernorm.op import method as fqvit_layernorm
from mnq.ops.fqvit_softmax.op import method as fqvit_softmax
from mnq.ops.ibert_gelu.op import method as ibert_gelu
from mnq.ops.ibert_layernorm.op import method as ibert_layernorm
from mnq.ops.ibert_softmax.op import method as ibert_softmax
from mnq.ops.ivit_gelu.op import method as ivit_gelu
from mnq.ops.ivit_layernorm.op import method as ivit_layernorm
from mnq.ops.ivit_softmax.op import method as ivit_softmax
from mnq.ops.l2_normalize.op import l2_normalize
from mnq.ops.lut_gelu.op import method as lut_gelu
from mnq.ops.lut_softmax.op import method as lut_softmax
from mnq.ops.mean_tokens.op import mean_tokens
from mnq.ops.method import GeluMethod, LayerNormMethod, SoftmaxMethod
from mnq.ops.operator import Operator
from mnq.ops.patches.op import patches
from mnq.ops.qlinear.op import qlinear, qlinear_add
from mnq.ops.qlinear_lut.op import qlinear_lut
from mnq.ops.qmatmul.op import qmatmul
from mnq.ops.requantize.op import requantize
from mnq.ops.requantize_add.op import requantize_add

# Methods by kind of site, in the order that breaks ties.
SOFTMAX: dict[str, SoftmaxMethod] = {
    "ivit": ivit_softmax,
    "ibert": ibert_softmax,
    "fqvit": fqvit_softmax,
    "lut": lut_softmax,
}
GELU: dict[str, GeluMethod] = {"ivit": ivit_gelu, "ibert": ibert_gelu, "lut": lut_gelu}
LAYERNORM: dict[str, LayerNormMethod] = {
    "ivit": ivit_layernorm,
    "ibert": ibert_layernorm,
    "fqvit": fqvit_layernorm,
}

# Attention operators by softmax method and form.
ATTENTION: dict[str, dict[str, Operator]] = {
    name: attention(softmax) for name, softmax in SOFTMAX.items()
}
# The packed form of each, by the name of the operator that it calls.
PACKED_ATTENTION: dict[str, Operator] = {
    operator.name: packed(operator) for forms in ATTENTION.values() for operator in forms.values()
}
# The window form of each, by the name of the operator that it generalizes.
WINDOW_ATTENTION: dict[str, Operator] = {
    operator.name: window(operator)
    for softmax in SOFTMAX.values()
    for operator in attention(softmax, rank=5).values()
}

METHODS: dict[str, tuple[str, ...]] = {
    "softmax": tuple(SOFTMAX),
    "gelu": tuple(GELU),
    "layernorm": tuple(LAYERNORM),
}

# What `uniform:X` means: X everywhere, and where X has no operator of a kind, its stand-in.
UNIFORM: dict[str, dict[str, str]] = {
    "ivit": {"softmax": "ivit", "gelu": "ivit", "layernorm": "ivit"},
    "ibert": {"softmax": "ibert", "gelu": "ibert", "layernorm": "ibert"},
    "fqvit": {"softmax": "fqvit", "gelu": "ivit", "layernorm": "fqvit"},
    "lut": {"softmax": "lut", "gelu": "lut", "layernorm": "ibert"},
}

OPERATORS: dict[str, Operator] = {
    operator.name: operator
    for operator in (
        requantize,
        requantize_add,
        qlinear,
        qlinear_add,
        qlinear_lut,
        qmatmul,
        *(method.operator for method in SOFTMAX.values()),
        *(method.operator for method in GELU.values()),
        *(method.operator for method in LAYERNORM.values()),
        *(operator for forms in ATTENTION.values() for operator in forms.values()),
        *PACKED_ATTENTION.values(),
        *WINDOW_ATTENTION.values(),
        patches,
        l2_normalize,
        mean_tokens,
    )
}


def with_calls(names: Iterable[str]) -> list[Operator]:
    """The named operators and all that their bodies call, each once, callees first."""
    ordered: dict[str, Operator] = {}

    def add(name: str) -> None:
        if name not in ordered:
            for callee in OPERATORS[name].calls:
                add(callee)
            ordered[name] = OPERATORS[name]

    for name in sorted(names):
        add(name)
    return list(ordered.values())
