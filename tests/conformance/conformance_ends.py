"""Cases of the operators at a network's ends, and of L2Normalize."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from conformance_draw import BITS, Case, Draw, codes, named
from conformance_linear import scaling

from mnq.ops.l2_normalize.op import constants as l2_normalize_constants
from mnq.ops.mean_tokens.op import constants as mean_tokens_constants
from mnq.ops.patches.op import constants as patches_constants


def patches() -> Iterator[Case]:
    draw = Draw("Patches")
    pixels = draw.order(256).reshape(2, 2, 8, 8).astype(np.uint8)
    constants = patches_constants(128, (2, 8, 8), (4, 2))
    yield Case("Patches", "every pixel, patches of 4 x 2", {"x": pixels}, constants)
    for bits, patch in zip(BITS, ((1, 1), (2, 6), (4, 3)), strict=True):
        x = codes(draw, (2, 3, 4, 6), bits)
        name = f"{bits} bits, patches of {patch[0]} x {patch[1]}"
        yield Case("Patches", name, {"x": x}, patches_constants(0, (3, 4, 6), patch))


def l2_normalize() -> Iterator[Case]:
    draw = Draw("L2Normalize")
    for bits in BITS:
        q = codes(draw, (1, 2, 6, 5), bits)
        for out, scale in ((bits, 2.0 ** (1 - bits)), (16, 2.0**-15)):
            constants = l2_normalize_constants(scale, out)
            yield Case("L2Normalize", f"{bits} bits to {out}", {"q": q}, constants, named(out))
    q = np.array([[0], [1], [-1], [127], [-128]], np.int8)
    yield Case(
        "L2Normalize", "rows of one code", {"q": q}, l2_normalize_constants(2.0**-6, 8), "int8"
    )
    q = codes(draw, (11, 33), 8)
    saturated = l2_normalize_constants(2.0**-12, 8)
    yield Case("L2Normalize", "a fine output scale saturates", {"q": q}, saturated, "int8")
    q = np.array([[4, 0], [-4, 0], [1, 1], [-1, -1], [0, 0]], np.int8)
    for e in (1, 31, 32, 33, 61, 62):
        yield Case("L2Normalize", f"a shift of {e}", {"q": q}, scaling(2**30, e, 16), "int16")


def mean_tokens() -> Iterator[Case]:
    draw = Draw("MeanTokens")
    for bits in BITS:
        for wide in (bits, 16):
            q = codes(draw, (2, 7, 5), wide)
            constants = mean_tokens_constants(3.0 * 2.0 ** (bits - wide), 7, bits)
            name = f"int8 of {bits} bits" if wide <= 8 else f"int16 to {bits} bits"
            yield Case("MeanTokens", name, {"q": q}, constants, "int8")
    q = codes(draw, (2, 7, 5), 16)
    yield Case(
        "MeanTokens", "int16 to 16 bits", {"q": q}, mean_tokens_constants(0.9, 7, 16), "int16"
    )
    q = np.array([[[1, -1, 3, -3, 0], [2, -2, 2, -2, 0]]], np.int8)
    yield Case("MeanTokens", "ties", {"q": q}, mean_tokens_constants(1.0, 2, 8), "int8")
    q = np.array([[[-128, 127, 0, 5, -5]]], np.int8)
    yield Case(
        "MeanTokens", "one token, and a shift of 31", {"q": q}, scaling(2**30, 31, 8), "int8"
    )
    q = np.full((1, 40, 2), -(2**15), np.int16)
    for e in (1, 62):
        yield Case(
            "MeanTokens",
            f"the smallest codes, a shift of {e}",
            {"q": q},
            scaling(2**30, e, 16),
            "int16",
        )
