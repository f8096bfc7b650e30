"""Cases of attention: every softmax method, both forms, three layouts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from conformance_draw import Array, Case, Draw, codes
from conformance_linear import limits, scaling
from numpy.typing import ArrayLike

from mnq.ops.attention.op import constants as attention_constants
from mnq.ops.registry import ATTENTION, PACKED_ATTENTION, SOFTMAX, WINDOW_ATTENTION
from mnq.ops.requantize.op import constants as requantize_constants

MASK = -(2**24)
HEAD_SCALES = np.array([0.05, 0.4], np.float32).reshape(2, 1, 1)
LAYOUTS = ("separate", "packed", "window")
HEAD_BITS = np.array([3, 6]).reshape(2, 1, 1)
WINDOWS, PLACES = 2, 4


def settings(draw: Draw, queries: int, keys: int) -> Iterator[tuple[str, int, ArrayLike, Array]]:
    """What differs from case to case: name, bits, scale of the scores, bias of one plane.
    At 4 bits the scores are sixteenths of the products: half of them ties.

    Masks: of keys after the query, of a whole row, and of all keys but one.
    """
    yield "8 bits, per head", 8, HEAD_SCALES, draw.integers(-900, 900, (1, 2, queries, keys))
    masked = np.where(np.arange(keys) > np.arange(queries)[:, None], MASK, 0)
    masked[-1], masked[1, 1:] = MASK, MASK
    yield "6 bits, masked keys", 6, np.float32(0.2), masked.reshape(1, 1, queries, keys)
    yield "4 bits, no bias", 4, np.float32(0.5), np.zeros((1, 1, 1, 1), np.int64)
    per_key = draw.choice([0, 500, MASK], (1, 1, 1, keys))
    per_key[..., 0] = 0
    yield "8 bits, coarse scores, a bias per key", 8, np.float32(3.0), per_key


def attention(method: str, form: str, layout: str) -> Iterator[Case]:
    """Images: two, in windows one; heads: two of width 4. Rows of codes begin with the edges."""
    base = ATTENTION[method][form].name
    operators = {
        "separate": ATTENTION[method][form],
        "packed": PACKED_ATTENTION[base],
        "window": WINDOW_ATTENTION[base],
    }
    name = operators[layout].name
    draw = Draw(name)
    queries, keys = (3, 5) if layout == "separate" else (PLACES, PLACES)

    def case(text: str, bits: int, bias: Array, fixed: Mapping[str, Array]) -> Case:
        constants: dict[str, Array] = {"bias": bias.astype(np.int32)}
        if layout == "separate":
            made = {
                n: codes(draw, (2, 2, count, 4), bits)
                for n, count in zip("qkv", (queries, keys, keys), strict=True)
            }
            made["v"] = made["v"][:, :, ::-1].copy()
        elif layout == "packed":
            made = {"qkv": codes(draw, (2, PLACES, 3, 2, 4), bits)}
        else:
            made = {"qkv": codes(draw, (1, WINDOWS * PLACES, 3, 2, 4), bits)}
            constants = window_constants(draw, bias)
        return Case(name, text, made, {**constants, **fixed})

    for text, bits, scale, bias in settings(draw, queries, keys):
        ratio = 2.0**-4 if bits == 4 else 0.004 * 2.0 ** (8 - bits)
        fixed = attention_constants(
            SOFTMAX[method], form, np.asarray(scale) * ratio, scale, 0.02, 0.012, bits
        )
        yield case(text, bits, bias, fixed)
    if form == "deferred":
        out = 0.02 * 2.0 ** (8 - HEAD_BITS)
        fixed = attention_constants(
            SOFTMAX[method], form, HEAD_SCALES * 0.004, HEAD_SCALES, 0.02, out, 8, HEAD_BITS
        )
        no_bias = np.zeros((1, 1, 1, 1), np.int64)
        yield case("3 and 6 bits, all per head", 8, no_bias, {**fixed, **limits(HEAD_BITS)})
    if (method, form) == ("lut", "deferred"):
        yield tie(layout)


def tie(layout: str) -> Case:
    """The quotient of the deferred form between two integers: two keys of weights 255 and 2.

    (-128 * 255 - 64 * 2) * floor(2^31 / 257) / 2^16 is -4177983.5; the output says which it became.
    """
    name = {"separate": "LutAttention", "packed": "LutPackedAttention"}.get(layout)
    q, k, v = ([[[[a], [b]]]] for a, b in ((1, 1), (0, -1), (-128, -64)))
    codes_of = {name: np.array(x, np.int8) for name, x in zip("qkv", (q, k, v), strict=True)}
    made, maps = codes_of, {}
    if layout != "separate":
        made = {"qkv": np.stack([x.swapaxes(1, 2) for x in codes_of.values()], axis=2)}
    if layout == "window":
        maps = {"kind": np.array([0]), "order": np.array([[1, 0]]), "inverse": np.array([1, 0])}
    constants = {
        **{f"{key}_s": x for key, x in scaling(2**30, 30, 8).items()},
        **requantize_constants(100.5 / 4177983.5, 8),
        "bias": np.zeros((1, 1, 1, 1), np.int32),
        "table": np.array([255] + [2] * 255, np.int32),
        "base": np.array(0, np.int32),
        **maps,
    }
    return Case(name or "LutWindowAttention", "a tie of the quotient", made, constants)


def window_constants(draw: Draw, bias: Array) -> dict[str, Array]:
    """A plane without and one with the bias, and tokens in any order."""
    planes = np.concatenate([np.zeros_like(bias), bias]) if bias.any() else bias
    order = draw.order(WINDOWS * PLACES)
    return {
        "bias": planes.astype(np.int32),
        "kind": np.arange(WINDOWS)[::-1] % len(planes),
        "order": order.reshape(WINDOWS, PLACES),
        "inverse": np.argsort(order, kind="stable"),
    }
