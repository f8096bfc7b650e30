"""Cases of the operators over rows: softmax, GELU and LayerNorm of every method."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import ops_reference as plain
from conformance_draw import BITS, INT32_MAX, Array, Case, Draw, codes, named
from conformance_linear import every_shift, scaling
from numpy.typing import ArrayLike

from mnq.ops.registry import GELU, LAYERNORM, SOFTMAX
from mnq.ops.requantize.op import Constants, dyadic

HEAD_SCALES = np.array([0.0625, 1.0], np.float32).reshape(2, 1, 1)
"""Scales of scores, of two heads: from the second on, one code is more than a halving."""

FINEST = {"ivit": 1.53e-5, "ibert": 3.8e-5, "fqvit": 6e-4, "lut": 1e-3}
"""The finest scales whose constants fit, and one at which the table falls by a quarter."""


def softmax(method: str) -> Iterator[Case]:
    chosen = SOFTMAX[method]
    name = chosen.operator.name
    draw = Draw(name)

    def case(text: str, q: Array, scale: ArrayLike, out: int) -> Case:
        to = named(out) if chosen.operator.attributes else None
        made = f"{text}, output of {out} bits" if to else text
        return Case(name, made, {"q": q}, chosen.constants(np.asarray(scale), out), to)

    for bits in BITS:
        q = codes(draw, (1, 2, 6, 7), bits)
        yield case(f"{bits} bits, per head", q, HEAD_SCALES, 16 if bits == 6 else 8)
    q = codes(draw, (11, 9), 8)
    for out, scale in ((16, 0.05), (8, 3.0), (16, FINEST.get(method, 0.01))):
        yield case(f"8 bits, scale {scale}", q, np.float32(scale), out)
    yield case("rows of one code", np.array([[0], [-128], [127]], np.int8), np.float32(0.1), 8)
    flat = np.full((1, 260), 5, np.int8)
    yield case("a flat row of 260 codes", flat, np.float32(0.1), 8)
    if method == "fqvit":  # ratios of 1.5, 3 and 6, then of 2.5: where the logarithm turns
        turns = [[0, -1, -90, -90], [7, 7, 7, -90], [0, 0, 0, 0], [0, -1, -2, -3]]
        for rows in (turns, [[0, 0, -1], [-1, 0, 0], [5, 5, 4]]):
            name = f"roundings of the logarithm, {len(rows[0])} keys"
            yield case(name, np.array(rows, np.int8), np.float32(0.6931), 4)
    if method in ("ibert", "lut"):
        q = np.array([[90, -90], [-90, 90]], np.int8)
        yield case("the sum divides 2^32", q, np.float32(0.0625), 16)
    if method in ("ibert", "fqvit"):
        q = codes(draw, (10, 6), 4)
        made = case("a polynomial that is negative between its ends", q, np.float32(0.35), 8)
        own = {name: np.array(x, np.int32) for name, x in {"x0": -8, "b": 9, "c": 3}.items()}
        if method == "ibert":
            own |= dict(zip(("m_p", "e_p"), dyadic(32767 / 3), strict=True))
        yield replace(made, constants={**made.constants, **own})


def gelu(method: str) -> Iterator[Case]:
    chosen = GELU[method]
    name = chosen.operator.name
    draw = Draw(name)

    def case(text: str, q: Array, constants: Constants, to: str = "int8") -> Case:
        return Case(name, text, {"q": q}, constants, to)

    for bits, scale in zip(BITS, (0.03, 0.13, 0.5), strict=True):
        q = codes(draw, (13, 6), bits)
        yield case(f"{bits} bits", q, chosen.constants(scale, scale * 0.7, bits))
    every = np.arange(-128, 128, dtype=np.int8)
    yield case("every code, ascending", every, chosen.constants(0.04, 0.04, 8))
    q = codes(draw, (12, 5), 8)
    yield case("a fine output scale saturates", q, chosen.constants(0.05, 0.001, 8))
    yield case("a coarse scale", q, chosen.constants(1.5, 0.9, 8))
    if method == "lut":
        return
    yield case("8 bits to 16", q, chosen.constants(0.03, 0.0002, 16), "int16")
    if method == "ivit":
        yield case("a fine scale, x0 = -255", q, chosen.constants(0.002305, 0.003, 8))
        negative = np.array([[-1, -2], [-128, -127], [-128, -128], [-1, -128]], np.int8)
        yield case(
            "no positive code, the second exponential saturates",
            negative,
            chosen.constants(0.5, 0.01, 8),
        )
    else:
        for bits, scale in ((8, 3e-4), (16, 1.5e-6)):
            constants = chosen.constants(3e-4, scale, bits)
            yield case(f"a fine scale, n = 14, {bits} bits", q, constants, named(bits))
    for sign, text in ((1, "positive"), (-1, "negative")):
        constants = {**chosen.constants(0.0625, 0.0625, 16), **scaling(sign * 2**30, 34, 16)}
        yield case(f"ties, {text} multiplier", every, constants, "int16")


def line(draw: Draw, channels: int) -> tuple[np.ndarray, np.ndarray]:
    """Weights of both signs, some zero or next to it, and biases up to 1000 times the weight."""
    weight, bias = draw.ratios(-6, 1, channels), draw.ratios(-3, 1, channels)
    weight[:4] = 0.0, 1e-30, 1e-3, -1e-3
    bias[:5] = 1.0, -1.0, 1.0, 0.0, 1000 * weight[4]
    return weight, bias


def layernorm(method: str) -> Iterator[Case]:
    chosen = LAYERNORM[method]
    name = chosen.operator.name
    draw = Draw(name)

    def case(text: str, q: Array, constants: Constants, out: int) -> Case:
        return Case(name, text, {"q": q}, constants, named(out))

    for wide in (16, 8):
        for out in (16, *BITS) if wide == 16 else BITS:
            q = codes(
                draw, (1, 12, 8), wide if wide == 16 else out, np.int16 if wide == 16 else None
            )
            scale = 0.03 * 2.0 ** (8 - out)
            constants = chosen.constants(*line(draw, 8), scale, out)
            source = "int16" if wide == 16 else f"int8 of {out} bits"
            yield case(f"{source} to {out} bits", q, constants, out)
    q = codes(draw, (10, 3), 16)
    yield case(
        "an odd number of channels",
        q,
        chosen.constants([1.0, -2.0, 0.5], [0.5, 0.0, -3.0], 0.02, 8),
        8,
    )
    one = np.array([[-(2**15)], [0], [2**15 - 1]], np.int16)
    yield case("one channel has no variance", one, chosen.constants([1.0], [0.7], 0.01, 8), 8)
    small = np.array(
        [[1, 0, 0, 0], [1, 1, 0, 0], [-1, 0, 0, 0], [3, 1, -1, -3], [2, -1, 0, 0]], np.int16
    )
    yield case(
        "small variances",
        small,
        chosen.constants([1.0, -1.0, 3.0, 0.25], [0.1, 0.2, 0.0, -5.0], 0.05, 8),
        8,
    )
    yield case(
        "a fine output scale saturates",
        q,
        chosen.constants([1.0, -1.0, 2.0], [0.0, 1.0, -1.0], 1e-4, 8),
        8,
    )
    if method == "fqvit":
        flat = chosen.constants([0.0] * 3, [1.0, -0.02, 0.0], 0.04, 8)
        yield case("no channel has a weight", q, flat, 8)
        yield from slopes(draw)
        return
    yield from last_bits(method, case)
    m, e = every_shift(draw)
    shift = {"shift": np.array(0, np.int32)} if method == "ibert" else {}
    constants = {"bq": draw.integers(-(2**29), 2**29, (62,)), **shift, **scaling(m, e, 16)}
    yield case(
        "every shift, multipliers of both signs",
        codes(draw, (12, 62), 16)[[3, 4, 9, 11]],
        constants,
        16,
    )
    if method == "ibert":
        for by in (1, 5):
            constants = chosen.constants([1.0, -2.0, 0.5], [0.5, 0.0, -3.0], 0.02, 8)
            shifted = {**constants, "shift": np.array(by, np.int32)}
            yield case(f"squares of codes shifted by {by}", q, shifted, 8)


ODD_CODES = [1003, -35, 77, -1045]
"""Without a mean, and the factor by which they are multiplied is odd."""


def last_bits(method: str, case: Callable[..., Case]) -> Iterator[Case]:
    """Rows whose result before the requantization, less a bias, is halved: ties of both signs."""
    own, normalize = {
        "ivit": ({}, plain.i_layernorm),
        "ibert": ({"shift": np.array(0, np.int32)}, plain.bert_layernorm),
    }[method]
    for text, row in (("a root of 2^10", [512, 512, -512, -512]), ("odd codes", ODD_CODES)):
        for parity in (0, 1):
            less = np.arange(-4, 4, 2) + parity - normalize(row, [0] * 4)
            constants = {"bq": less, **own, **scaling([2**30] * 4, [31] * 4, 16)}
            name = f"the last bit of {'odd' if parity else 'even'} numbers, {text}"
            yield case(name, np.array([row], np.int16), constants, 16)


OFFSETS = (
    ([1, -1] * 4, [2**30] * 8, [129, 257, 128, -128, 384, -384, -129, -257]),
    ([-5, -3, -5, -3], [-(2**30), 2**30, 2**30, -(2**29)], [-6528, 5760, 2432, 27.5]),
    ([4, 6, 3, 5], [-(2**29), 2**28, 2**28, -(2**29)], [15.5, 4, 1, 15.5]),
    ([-3, -2, -2, -6], [2**28, 2**30, -(2**30), -(2**29)], [5504.00390625, -4.5, 4480, -6400]),
)
"""Row, mant at p = 20, and bq / 2^12: an offset that is a tie, or next to one below a floor."""


def slopes(draw: Draw) -> Iterator[Case]:
    """FqVitLayerNorm from the largest to the smallest multipliers, with ties of the biases."""
    q = codes(draw, (11, 6), 16)
    fixed: dict[str, Array] = {
        "mant": np.array([2**30, -INT32_MAX, 1, 0, -(2**20), 2**29 + 1], np.int32),
        "bq": np.array([2**42, -(2**42), 2**19, -(2**19), 3 * 2**19, 0], np.int64),
        **{key: value for key, value in scaling(0, 1, 16).items() if key in ("lo", "hi")},
    }
    for p in (8, 22, 35, 60):
        constants = {**fixed, "p": np.array(p, np.int32)}
        yield Case(
            "FqVitLayerNorm", f"multipliers of both signs, p = {p}", {"q": q}, constants, "int16"
        )
    for number, (row, mant, bias) in enumerate(OFFSETS):
        constants = {
            **fixed,
            "mant": np.array(mant, np.int32),
            "p": np.array(20, np.int32),
            "bq": (np.array(bias) * 2**12).astype(np.int64),
        }
        name = f"roundings of the offset, {number}"
        yield Case("FqVitLayerNorm", name, {"q": np.array([row], np.int16)}, constants, "int16")
