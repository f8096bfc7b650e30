"""Cases of the requantizations and of the products."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from conformance_draw import BITS, INT32_MAX, Array, Case, Draw, codes, named

from mnq.ops.lut_gelu.op import constants as gelu_constants
from mnq.ops.requantize.op import Constants
from mnq.ops.requantize.op import constants as requantize_constants
from mnq.ops.requantize_add.op import constants as requantize_add_constants


def scaling(m: object, e: object, bits: int) -> Constants:
    """m, e, lo and hi by their values."""
    limits = requantize_constants(1.0, bits)
    return {**limits, "m": np.array(m, np.int32), "e": np.array(e, np.int32)}


def every_shift(draw: Draw) -> tuple[Array, Array]:
    """(m, e) of 62 channels: each shift once, multipliers of both signs up to their ends."""
    m = draw.integers(2**30, INT32_MAX, (62,)) * draw.choice([1, -1], (62,))
    m[:2], m[-2:] = (2**30, -INT32_MAX), (INT32_MAX, -(2**30))
    return m.astype(np.int32), np.arange(1, 63, dtype=np.int32)


def limits(bits: Array) -> Constants:
    """lo and hi of codes of so many bits, from channel to channel or head to head."""
    lo = -(2 ** (bits.astype(np.int32) - 1))
    return {"lo": lo, "hi": -lo - 1}


HALVES = np.array([[-5, -3, -1, 1, 3, 5, -4, 0, 4]], np.int64)
"""Times 1/2 all but the last three are ties."""


def requantize() -> Iterator[Case]:
    draw = Draw("Requantize")

    def case(name: str, z: Array, constants: Constants, to: str) -> Case:
        return Case("Requantize", name, {"z": z}, constants, to)

    for bits in BITS:
        z = draw.int32((1, 6, 8)).astype(np.int32)
        constants = requantize_constants(draw.ratios(-31, -1, 8), bits)
        yield case(f"int32 to {bits} bits, per channel", z, constants, "int8")
        heads = np.reshape([0.5, 0.003, -(2.0**-7)], (3, 1, 1))
        z = codes(draw, (1, 3, 4, 5), 16)
        yield case(f"int16 to {bits} bits, per head", z, requantize_constants(heads, bits), "int8")
        z = codes(draw, (10, 4), bits)
        yield case(f"{bits} bits to 16 bits", z, requantize_constants(150.7, 16), "int16")
    z = draw.int32((4, 6)).astype(np.int32)
    yield case("int32 to int32, per tensor", z, requantize_constants(0.731, 32), "int32")
    yield case("int32 to 31 bits, ratio of 1", z, requantize_constants(1.0, 31), "int32")
    yield case("int32 saturates at the largest ratio", z, requantize_constants(2.0**29, 8), "int8")
    yield case("a ratio below 2^-32 is no multiplier", z, requantize_constants(1e-10, 8), "int8")
    m, e = every_shift(draw)
    z = np.concatenate([draw.int32((2, 62)), draw.integers(-9, 9, (1, 62))]).astype(np.int32)
    yield case("every shift, multipliers of both signs", z, scaling(m, e, 16), "int16")
    for sign, text in ((1, "positive"), (-1, "negative")):
        z = HALVES.astype(np.int8)
        halving = scaling(sign * 2**30, 31, 8)
        yield case(f"int8, ties, {text} multiplier", z, halving, "int8")
        z = (HALVES * 2**24).astype(np.int32)
        halving = scaling(sign * 2**30, 55, 8)
        yield case(f"int32, ties, {text} multiplier", z, halving, "int8")
    z = np.array(-7, np.int16)
    yield case("int16, a tensor without axes", z, requantize_constants(0.5, 8), "int8")


def requantize_add() -> Iterator[Case]:
    draw = Draw("RequantizeAdd")

    def case(name: str, z: Array, r: Array, constants: Constants, to: str) -> Case:
        return Case("RequantizeAdd", name, {"z": z, "r": r}, constants, to)

    for bits in (16, *BITS):
        z, r = draw.int32((1, 6, 8)).astype(np.int32), codes(draw, (1, 6, 8), 16)
        constants = requantize_add_constants(
            draw.ratios(-24, -8, 8), 0.73 * 2.0 ** (bits - 16), bits
        )
        yield case(f"int32 and int16 to {bits} bits, per channel", z, r, constants, named(bits))
        z = codes(draw, (10, 4), 16)
        r = codes(draw, (10, 4), 8)[::-1].copy()
        constants = requantize_add_constants(2.0 ** (bits - 17), -(2.0 ** (bits - 9)), bits)
        yield case(f"int16 and int8 to {bits} bits", z, r, constants, named(bits))
    z, r = codes(draw, (10, 4), 8), codes(draw, (10, 4), 16)[::-1].copy()
    heads = np.reshape([0.5, -0.25], (2, 1, 1))
    constants = requantize_add_constants(heads, np.reshape([0.01, 0.002], (2, 1, 1)), 8)
    yield case(
        "int8 and int16, per head", z.reshape(2, 5, 4), r.reshape(2, 5, 4), constants, "int8"
    )
    z, r = (draw.int32((2, 6)).astype(np.int32) for _ in range(2))
    yield case(
        "int32 and int32", z, r[::-1].copy(), requantize_add_constants(0.6, 0.7, 32), "int32"
    )
    m, e = every_shift(draw)
    constants = {"m_r": m[::-1].copy(), "e_r": e[::-1].copy(), **scaling(m, e, 16)}
    z, r = draw.int32((2, 62)).astype(np.int32), codes(draw, (2, 62), 16)
    yield case("every shift, multipliers of both signs", z, r, constants, "int16")
    for sign, text in ((1, "positive"), (-1, "negative")):
        half = {"m_r": np.array(2**30, np.int32), "e_r": np.array(31, np.int32)}
        constants = {**half, **scaling(sign * 2**30, 31, 8)}
        z = np.array([[1, -1, 3, -3, 1, -1, 2, 5]], np.int32)
        r = np.array([[1, 1, -1, -1, 2, 0, 3, -5]], np.int16)
        yield case(f"two ties are two roundings, {text} multiplier", z, r, constants, "int8")
    z, r = np.array([[200, 300, -200, -300]], np.int16), np.array([[-100, 0, 100, 50]], np.int8)
    ones = requantize_add_constants(1.0, 1.0, 8)
    yield case("saturation comes after the addition", z, r, ones, "int8")


def layers() -> Iterator[Case]:
    """QLinear and QLinearAdd."""
    draw = Draw("QLinear")

    def case(name: str, x: Array, w: Array, bias: Array, constants: Constants, to: str) -> Case:
        fixed: dict[str, Array] = {
            "w": w.astype(np.int8),
            "bias": bias.astype(np.int32),
            **constants,
        }
        return Case("QLinear", name, {"x": x}, fixed, to)

    def added(one: Case, r: Array, constants: Constants, to: str) -> Case:
        fixed: dict[str, Array] = {
            "w": one.constants["w"],
            "bias": one.constants["bias"],
            **constants,
        }
        return Case("QLinearAdd", one.name, {**one.activations, "r": r}, fixed, to)

    for bits in BITS:
        lo, hi = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
        x, w = codes(draw, (1, 11, 6), bits), draw.integers(lo, hi, (6, 5))
        bias = draw.integers(-(2 ** (2 * bits)), 2 ** (2 * bits), (5,))
        ratios = draw.ratios(-11, -6, 5) * 4.0 ** (8 - bits)
        layer = case(
            f"{bits} bits, per channel", x, w, bias, requantize_constants(ratios, bits), "int8"
        )
        yield layer
        r = codes(draw, (1, 11, 5), bits)[:, ::-1].copy()
        yield added(layer, r, requantize_add_constants(ratios, 0.4, bits), "int8")
        r = codes(draw, (1, 11, 5), 16)[:, ::-1].copy()
        layer = case(f"{bits} bits to 16", x, w, bias, requantize_constants(0.9, 16), "int16")
        yield layer
        constants = requantize_add_constants(ratios * 2.0**bits, draw.ratios(-1, 0, 5), 16)
        yield added(layer, r, constants, "int16")
    ends = np.array([[-128] * 9, [127] * 9, [-128, 127, 0] * 3, [0] * 9], np.int8)
    w = np.stack([np.full(9, -128), np.full(9, 127), np.tile([127, -128, 1], 3)], axis=1)
    constants = requantize_constants(2.0**-10, 8)
    yield case("extreme codes, per tensor", ends, w, np.zeros(3), constants, "int8")
    bias = np.array([INT32_MAX - 2**18, -INT32_MAX + 2**18, 0])
    largest = case(
        "accumulators near the ends of int32", ends, w, bias, requantize_constants(1, 32), "int32"
    )
    yield largest
    r = codes(draw, (4, 3), 16)
    yield added(largest, r, requantize_add_constants(0.5, -(2.0**14), 32), "int32")
    x, w = np.array([[[3]], [[-3]], [[1]], [[0]]], np.int8), np.array([[1, -1, 5]])
    ties = case(
        "ties, one input channel",
        x,
        w,
        np.zeros(3),
        scaling([2**30, -(2**30), 2**30], [31] * 3, 8),
        "int8",
    )
    yield ties
    half = {"m_r": np.array(2**30, np.int32), "e_r": np.array(31, np.int32)}
    r = np.array([[[1, 1, 1]], [[-1, -1, -1]], [[3, -3, 0]], [[5, -5, 2]]], np.int8)
    yield added(ties, r, {**half, **scaling(2**30, 31, 8)}, "int8")
    m, e = every_shift(draw)
    x, w = codes(draw, (4, 3), 8)[[2, 3, 1, 0]], draw.integers(-128, 127, (3, 62))
    bias = draw.int32((62,)) // 2
    every = case("every shift, multipliers of both signs", x, w, bias, scaling(m, e, 16), "int16")
    yield every
    constants = {"m_r": m[::-1].copy(), "e_r": e[::-1].copy(), **scaling(m, e, 16)}
    yield added(every, codes(draw, (4, 62), 16), constants, "int16")
    columns = np.array([2, 5, 8, 3, 8])
    x, w = codes(draw, (1, 11, 6), 8), draw.integers(-128, 127, (6, 5))
    bias, ratios = draw.integers(-(2**16), 2**16, (5,)), 2.0 ** (columns - 16)
    own = limits(columns)
    constants = {**requantize_constants(ratios, 8), **own}
    heads = case("2 to 8 bits, limits per channel", x, w, bias, constants, "int8")
    yield heads
    r = codes(draw, (1, 11, 5), 16)
    constants = {**requantize_add_constants(ratios, 2.0 ** (columns - 17), 8), **own}
    yield added(heads, r, constants, "int8")


def looked_up() -> Iterator[Case]:
    """QLinearLut: tables of GELU, and of any codes, behind limits that leave few of them."""
    draw = Draw("QLinearLut")

    def case(
        name: str,
        x: Array,
        w: Array,
        constants: Constants,
        table: Array,
        bias: Array | None = None,
    ) -> Case:
        bias = draw.integers(-(2**9), 2**9, (w.shape[1],)) if bias is None else bias
        fixed: dict[str, Array] = {
            "w": w.astype(np.int8),
            "bias": bias.astype(np.int32),
            **constants,
            "table": table.astype(np.int8),
        }
        return Case("QLinearLut", name, {"x": x}, fixed, None)

    for bits in BITS:
        lo, hi = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
        x, w = codes(draw, (1, 11, 6), bits), draw.integers(lo, hi, (6, 5))
        scale = 2.0 ** (3 - bits)
        gelu = gelu_constants(scale, scale, bits)["table"]
        ratios = draw.ratios(-11, -6, 5) * 4.0 ** (8 - bits)
        yield case(f"{bits} bits, GELU", x, w, requantize_constants(ratios, bits), gelu)
    x, w = codes(draw, (13, 6), 8), draw.integers(-128, 127, (6, 4))
    table = draw.integers(-128, 127, (256,))
    one = requantize_constants(2.0**-8, 8)
    yield case("any table, per tensor", x, w, one, table)
    few = {"lo": np.array([-128, -2, 0, 127], np.int32), "hi": np.array([127, 1, 0, 127], np.int32)}
    yield case("any table, limits per channel", x, w, {**one, **few}, table)
    m, e = every_shift(draw)
    x, w = codes(draw, (4, 3), 8)[[2, 3, 1, 0]], draw.integers(-128, 127, (3, 62))
    yield case("every shift, multipliers of both signs", x, w, scaling(m, e, 8), table)
    x, w = np.array([[[3]], [[-3]], [[1]], [[0]]], np.int8), np.array([[1, -1, 5]])
    halves = scaling([2**30, -(2**30), 2**30], [31] * 3, 8)
    every = draw.order(256) - 128  # no two codes have the same entry
    yield case("ties, one input channel", x, w, halves, every, np.zeros(3))


def products() -> Iterator[Case]:
    """QMatMul."""
    draw = Draw("QMatMul")

    def case(name: str, a: Array, b: Array, bias: object, constants: Constants, to: str) -> Case:
        fixed = {"bias": np.array(bias, np.int32), **constants}
        return Case("QMatMul", name, {"a": a, "b": b}, fixed, to)

    for bits in BITS:
        a, b = codes(draw, (1, 2, 5, 6), bits), codes(draw, (1, 2, 6, 4), bits)[..., ::-1, :].copy()
        ratio = np.reshape([2.0**-7, 0.002], (2, 1, 1)) * 4.0 ** (8 - bits)
        constants = requantize_constants(ratio, bits)
        yield case(f"{bits} bits, per head", a, b, 0, constants, "int8")
        bias = draw.choice([0, 700, -(2**24)], (1, 2, 5, 4))
        yield case(f"{bits} bits, position bias and masked keys", a, b, bias, constants, "int8")
    a, b = codes(draw, (4, 7), 8), codes(draw, (7, 3), 8)
    yield case(
        "two axes to 16 bits, a bias per column",
        a,
        b,
        [5, -9000, 60],
        requantize_constants(0.3, 16),
        "int16",
    )
    a = np.array([[[-128] * 8, [127] * 8], [[127, -128] * 4, [0] * 8]], np.int8)
    b = a.swapaxes(1, 2).copy()
    yield case("extreme codes", a, b, np.zeros((1, 1)), requantize_constants(2.0**-10, 8), "int8")
    bias = np.array([[[2**30 - 2**18]], [[-(2**31) + 2**18]]])
    yield case("masks near the ends of int32", a, b, bias, scaling(-(2**30), 50, 8), "int8")
    a, b = np.array([[1], [-1], [3]], np.int8), np.array([[1, -1, 3, 0]], np.int8)
    yield case("ties", a, b, [0, 0, 0, 1], scaling(2**30, 31, 8), "int8")
