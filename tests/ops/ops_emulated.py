"""Kernels for GPUs beside those of the CPU, in one library, on shapes that tiles do not divide.

`python ops_emulated.py` prints the names of those that gave other integers, as JSON.
"""

from __future__ import annotations

import json
from typing import Any

import numpy as np

from mnq.ops.kernels import Array, Kernel

INT8, INT32 = 3, 6


def codes(random: np.random.Generator, *shape: int) -> Array:
    return random.integers(-128, 128, shape, dtype=np.int8)


def rescaling(random: np.random.Generator, columns: int, least: int) -> dict[str, Array]:
    """Multipliers and shifts; from 33 on the high word of a product is enough."""
    m = random.integers(2**30, 2**31 - 1, columns, dtype=np.int32)
    return {"m": m, "e": random.integers(least, 45, columns, dtype=np.int32)}


LIMITS = {"lo": np.int32(-128), "hi": np.int32(127)}


def linear(rows: int, k: int, n: int, residual: bool, least: int) -> tuple[str, dict[str, Any]]:
    random = np.random.default_rng(rows * k + n)
    inputs: dict[str, Any] = {"x": codes(random, rows, k)}
    if residual:
        inputs["r"] = random.integers(-(2**15), 2**15, (rows, n), dtype=np.int16)
    inputs["w"] = codes(random, k, n)
    inputs["bias"] = random.integers(-(2**20), 2**20, n, dtype=np.int32)
    inputs |= rescaling(random, n, least)
    if residual:
        other = rescaling(random, n, 33)
        inputs |= {"m_r": other["m"], "e_r": other["e"]}
    return "QLinearAdd" if residual else "QLinear", {**inputs, **LIMITS}


def looked_up(rows: int, k: int, n: int, least: int, parts: bool) -> tuple[str, dict[str, Any]]:
    """A table of any codes behind the layer; `parts`: columns have limits of their own."""
    random = np.random.default_rng(rows + k + n)
    _, inputs = linear(rows, k, n, residual=False, least=least)
    if parts:
        inputs["lo"] = -(2 ** random.integers(1, 8, n, dtype=np.int32))
        inputs["hi"] = -1 - inputs["lo"]
    return "QLinearLut", {**inputs, "table": codes(random, 256)}


def logits(rows: int, k: int, n: int) -> tuple[str, dict[str, Any]]:
    """Codes of 32 bits, as a classifier's last layer returns them."""
    name, inputs = linear(rows, k, n, residual=False, least=33)
    return name, {
        **inputs,
        "lo": np.int32(-(2**31)),
        "hi": np.int32(2**31 - 1),
        "e": inputs["e"] - 8,
    }


def heads(rows: int, k: int, n: int, residual: bool) -> tuple[str, dict[str, Any]]:
    """Codes of 2 to 8 bits, from column to column."""
    name, inputs = linear(rows, k, n, residual, least=33)
    lo = -(2 ** np.random.default_rng(n).integers(1, 8, n, dtype=np.int32))
    return name, {**inputs, "lo": lo, "hi": -lo - 1}


def product(batch: int, m: int, k: int, n: int) -> tuple[str, dict[str, Any]]:
    random = np.random.default_rng(m + k + n)
    inputs = {"a": codes(random, batch, m, k), "b": codes(random, batch, k, n)}
    bias = random.integers(-(2**16), 2**16, (1, m, n), dtype=np.int32)
    scale = {"m": np.int32(2**30 + 7), "e": np.int32(40)}
    return "QMatMul", {**inputs, "bias": bias, **scale, **LIMITS}


def attention(keys: int, heads: int, depth: int, normalized: bool) -> tuple[str, dict[str, Any]]:
    random = np.random.default_rng(keys + depth)
    table = np.round((65535 if normalized else 255) * np.exp(-np.arange(512) / 20)).astype(np.int32)
    inputs = {
        "qkv": codes(random, 2, keys, 3, heads, depth),
        "bias": random.integers(-(2**14), 2**14, (1, heads, keys, keys), dtype=np.int32),
        **{"m_s": np.int32(2**30 + 12345), "e_s": np.int32(41), "lo_s": np.int32(-128)},
        **{"hi_s": np.int32(127), "table": table, "base": np.int32(0)},
        **({"shift": np.int32(16), "zp": np.int32(32768)} if normalized else {}),
        **{"m": np.int32(2**30 + 99), "e": np.int32(44 if normalized else 43), **LIMITS},
    }
    return f"Lut{'Normalized' if normalized else ''}PackedAttention", inputs


SHAPES = [
    *(linear(rows, k, n, residual, least)
      for rows, k, n in ((1, 1, 1), (65, 100, 70), (130, 192, 33), (7, 63, 129),
                         (20, 16, 32), (70, 112, 80), (300, 208, 132))
      for residual in (False, True)
      for least in (1, 33)),
    linear(140, 1168, 132, residual=True, least=33),  # more steps than are in flight
    linear(70, 720, 68, residual=False, least=33),
    *(looked_up(rows, k, n, least, parts)
      for rows, k, n in ((1, 1, 40), (65, 100, 70), (7, 63, 129), (70, 112, 80), (300, 208, 132))
      for least, parts in ((1, False), (33, False), (33, True))),
    *(heads(rows, k, n, residual)
      for rows, k, n in ((65, 100, 70), (300, 208, 132), (70, 112, 80))
      for residual in (False, True)),
    logits(3, 192, 10),
    product(3, 5, 33, 70),
    product(2, 70, 64, 1),
    *(attention(keys, heads, depth, normalized)
      for keys, heads, depth in ((1, 1, 1), (65, 2, 33), (197, 1, 64), (49, 3, 32), (1100, 1, 8))
      for normalized in (False, True)),
]  # fmt: skip


def main() -> None:
    different = []
    for name, inputs in SHAPES:
        first = {key: value for key, value in inputs.items() if key in ("x", "r", "a", "b", "qkv")}
        to = INT32 if np.max(inputs["hi"]) > 127 else INT8
        found = [Kernel(name, inputs, first, to, p).run(first) for p in ("portable", "cuda")]
        if not np.array_equal(*found) or len(np.unique(found[0])) < min(3, found[0].size):
            different.append(f"{name} {[value.shape for value in first.values()]}")
    print(json.dumps({"shapes": len(SHAPES), "different": different}))


if __name__ == "__main__":
    main()
