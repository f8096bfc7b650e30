"""Every operator in plain Python integers of unlimited size: tensors of them, as numpy objects.

Written from the operators' pages on `ops_reference.py`, sharing no code with `mnq.ops`. Constants
are taken as they are given, whatever they were made of.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any

import numpy as np
import ops_reference as plain
from numpy.typing import NDArray

Integers = NDArray[np.object_]
Inputs = Mapping[str, Integers]
Row = list[int]

scaled: Callable[..., Integers] = np.frompyfunc(plain.scaled, 3, 1)
saturate: Callable[..., Integers] = np.frompyfunc(plain.saturate, 3, 1)

METHODS = {"IVit": "ivit", "IBert": "ibert", "FqVit": "fqvit", "Lut": "lut"}


def compute(operator: str, inputs: Mapping[str, NDArray[Any]]) -> Integers | None:
    """The output's integers; None of an operator that is not here."""
    given = {name: np.array(x, object) for name, x in inputs.items()}
    for prefix, method in METHODS.items():
        if operator.startswith(prefix) and operator.endswith("Attention"):
            form = "normalized" if "Normalized" in operator else "deferred"
            layout = LAYOUTS[next((x for x in LAYOUTS if x and x in operator), "")]
            return layout(method, form, given)
    if operator not in OPERATORS:
        return None
    return np.asarray(OPERATORS[operator](given), object)


def by_row(function: Callable[..., Row], q: Integers, per_row: Inputs | None = None) -> Integers:
    """`function` on every row of the last axis; `per_row` broadcasts to (..., 1) of q."""
    out = np.empty(q.shape, object)
    spread = {name: np.broadcast_to(x, (*q.shape[:-1], 1)) for name, x in (per_row or {}).items()}
    for at in np.ndindex(q.shape[:-1]):
        out[at] = function(q[at].tolist(), **{name: x[at][0] for name, x in spread.items()})
    return out


def requantized(z: Integers, c: Inputs, of: str = "") -> Integers:
    """z at m, e, lo and hi, or at m_s, e_s, ... of scores."""
    m, e, lo, hi = (c[f"{name}{of}"] for name in ("m", "e", "lo", "hi"))
    return saturate(scaled(z, m, e), lo, hi)


def added(z: Integers, c: Inputs) -> Integers:
    both = scaled(z, c["m"], c["e"]) + scaled(c["r"], c["m_r"], c["e_r"])
    return saturate(both, c["lo"], c["hi"])


def layer(c: Inputs) -> Integers:
    return np.matmul(c["x"], c["w"]) + c["bias"]


def looked_up(codes: Integers, c: Inputs) -> Integers:
    return c["table"][(codes + 128).astype(np.int64)]


# Softmax: exponentials of a row, then codes of the operator, probabilities or weights of attention.


def divided(u: Row, c: Inputs) -> Row:
    factor = 2**32 // sum(u)
    return [((x * factor) >> int(c["shift"])) - int(c["zp"]) for x in u]


def softmax_row(method: str, row: Row, c: Inputs) -> Row:
    """Codes of the softmax operator; constants are single integers."""
    top = max(row)
    if method == "ivit":
        return plain.shiftmax(row, int(c["x0"]), 32 - int(c["shift"]))
    if method == "lut":
        return divided([int(c["table"][int(c["base"]) + top - q]) for q in row], c)
    x0, b, k = int(c["x0"]), int(c["b"]), int(c["c"])
    if method == "fqvit":
        return plain.log_codes(plain.log_int_softmax(row, x0, b, k))
    pairs = [plain.i_exp(q - top, x0, b, k) for q in row]
    m, e = int(c["m_p"]), int(c["e_p"])
    return divided([min(plain.scaled(z, m, e + halvings), 32767) for z, halvings in pairs], c)


def probabilities(method: str, row: Row, c: Inputs) -> Row:
    codes = softmax_row(method, row, c)
    if method == "ivit":
        return codes
    if method == "fqvit":
        return [0 if code == 15 else 2 ** (15 - code) for code in codes]
    return [code + 2**15 for code in codes]


def weights(method: str, row: Row, c: Inputs) -> tuple[Row, int]:
    """Weights 0..255 and the divisor of the deferred form."""
    top = max(row)
    if method == "lut":
        w = [int(c["table"][int(c["base"]) + top - q]) for q in row]
        return w, sum(w)
    x0 = int(c["x0"])
    if method == "ivit":
        m, e = int(c["m_w"]), int(c["e_w"])
        w = [plain.scaled(plain.shift_exp(q - top, x0, 15), m, e) for q in row]
        return w, sum(w)
    b, k = int(c["b"]), int(c["c"])
    if method == "ibert":
        m, e = int(c["m_w"]), int(c["e_w"])
        pairs = [plain.i_exp(q - top, x0, b, k) for q in row]
        w = [plain.scaled(z, m, e + halvings) for z, halvings in pairs]
        return w, sum(w)
    logs = plain.log_int_softmax(row, x0, b, k)
    least = min(log for log in logs if log is not None)
    w = [0 if log is None or log - least > 7 else 2 ** (7 - (log - least)) for log in logs]
    return w, 2 ** (least + 7)


def per_head(c: Inputs, head: int) -> dict[str, Integers]:
    """Constants of one head: those of shape (H, 1, 1), and all others."""
    return {
        name: x.reshape(-1)[head if x.size > 1 else 0] if x.ndim in (0, 3) else x
        for name, x in c.items()
    }


def heads(method: str, form: str, c: Inputs) -> Integers:
    """Attention of q, k and v, (B, H, N, d)."""
    q, k, v = c["q"], c["k"], c["v"]
    scores = requantized(np.matmul(q, k.swapaxes(-1, -2)) + c["bias"], c, "_s")
    u = np.empty(q.shape, object)
    for image, head, row in np.ndindex(q.shape[:-1]):
        own = per_head({n: x for n, x in c.items() if n not in ("q", "k", "v", "bias")}, head)
        s, columns = scores[image, head, row].tolist(), v[image, head].T
        w, divisor = (
            (probabilities(method, s, own), 0) if form == "normalized" else weights(method, s, own)
        )
        sums = [sum(a * b for a, b in zip(w, x, strict=True)) for x in columns]
        u[image, head, row] = [
            plain.half_up(Fraction(acc * (2**31 // divisor), 2**16)) if divisor else acc
            for acc in sums
        ]
    return requantized(u, c)


def packed(method: str, form: str, c: Inputs) -> Integers:
    q, k, v = (c["qkv"][:, :, part].swapaxes(1, 2) for part in range(3))
    return heads(method, form, {**c, "q": q, "k": k, "v": v}).swapaxes(1, 2)


def window(method: str, form: str, c: Inputs) -> Integers:
    """Packed attention of each window's tokens with its plane of the bias."""
    out = np.empty((*c["qkv"].shape[:2], *c["qkv"].shape[3:]), object)
    for kind, tokens in zip(c["kind"], c["order"].tolist(), strict=True):
        own = {**c, "qkv": c["qkv"][:, tokens], "bias": c["bias"][int(kind)]}
        out[:, tokens] = packed(method, form, own)
    return out


def softmax(method: str) -> Callable[[Inputs], Integers]:
    def of(c: Inputs) -> Integers:
        tables = {name: x for name, x in c.items() if name == "table"}
        single = {name: x for name, x in c.items() if name not in ("q", "table")}

        def row(codes: Row, **constants: Any) -> Row:
            return softmax_row(method, codes, {**constants, **tables})

        return by_row(row, c["q"], single)

    return of


def layernorm(function: Callable[..., Row], *names: str) -> Callable[[Inputs], Integers]:
    def of(c: Inputs) -> Integers:
        values = [x.tolist() for x in (c[name] for name in names)]
        y = by_row(lambda row: function(row, *values), c["q"])
        return requantized(y, c) if "m" in c else saturate(y, c["lo"], c["hi"])

    return of


def ivit_gelu(c: Inputs) -> Integers:
    x0, numerator = int(c["x0"]), int(c["numerator"])
    return requantized(by_row(lambda row: plain.shift_gelu(row, x0, numerator), c["q"]), c)


def ibert_gelu(c: Inputs) -> Integers:
    values = [int(c[name]) for name in ("b", "c", "n", "one")]
    gelu: Callable[..., Integers] = np.frompyfunc(lambda q: plain.i_gelu(q, *values), 1, 1)
    return requantized(gelu(c["q"]), c)


def l2_normalize(c: Inputs) -> Integers:
    def row(q: Row) -> Row:
        factor = math.isqrt(2**60 // max(sum(x * x for x in q), 1))
        return [x * factor for x in q]

    return requantized(by_row(row, c["q"]), c)


def patches(c: Inputs) -> Integers:
    x = c["x"]
    _, _, rows, p, columns, q = c["split"].tolist()
    out = np.empty((len(x), rows, columns, x.shape[1] * p * q), object)
    for image, row, column in np.ndindex(out.shape[:-1]):
        patch = x[image, :, row * p : (row + 1) * p, column * q : (column + 1) * q]
        out[image, row, column] = (patch - c["offset"]).reshape(-1)
    return out


LAYOUTS: dict[str, Callable[[str, str, Inputs], Integers]] = {
    "": heads,
    "Packed": packed,
    "Window": window,
}
OPERATORS: dict[str, Callable[[Inputs], Integers]] = {
    "Requantize": lambda c: requantized(c["z"], c),
    "RequantizeAdd": lambda c: added(c["z"], c),
    "QLinear": lambda c: requantized(layer(c), c),
    "QLinearAdd": lambda c: added(layer(c), c),
    "QLinearLut": lambda c: looked_up(requantized(layer(c), c), c),
    "QMatMul": lambda c: requantized(np.matmul(c["a"], c["b"]) + c["bias"], c),
    **{f"{prefix}Softmax": softmax(method) for prefix, method in METHODS.items()},
    "IVitGelu": ivit_gelu,
    "IBertGelu": ibert_gelu,
    "LutGelu": lambda c: looked_up(c["q"], c),
    "IVitLayerNorm": layernorm(plain.i_layernorm, "bq"),
    "IBertLayerNorm": layernorm(plain.bert_layernorm, "bq", "shift"),
    "FqVitLayerNorm": layernorm(plain.fq_layernorm, "mant", "p", "bq"),
    "Patches": patches,
    "L2Normalize": l2_normalize,
    "MeanTokens": lambda c: requantized(c["q"].sum(axis=1), c),
}
