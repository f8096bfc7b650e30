"""The operators in plain Python integers, from the text of the specification.

Slow, of unlimited precision, and sharing no code with `mnq.ops`: roundings are said with
fractions and nothing is rearranged to fit 64 bits. Numbers in brackets are sections of the
specification. Functions take and return lists of Python integers, one row at a time.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from decimal import Decimal, localcontext
from fractions import Fraction

Row = Sequence[int]


def f32(x: float) -> float:
    """`x` rounded to float32."""
    return float(struct.unpack("f", struct.pack("f", x))[0])


def half_up(x: Fraction) -> int:
    return math.floor(x + Fraction(1, 2))


def half_even(x: Fraction) -> int:
    return round(x)


def half_away(x: Fraction) -> int:
    return half_up(x) if x >= 0 else -half_up(-x)


def power(k: int) -> Fraction:
    """2^k for a k of either sign."""
    return Fraction(2) ** k


def saturate(y: int, lo: int, hi: int) -> int:
    return lo if y < lo else hi if y > hi else y


def code_range(bits: int) -> tuple[int, int]:
    return -(2 ** (bits - 1)), 2 ** (bits - 1) - 1


def mantissa(ratio: float) -> tuple[int, int]:
    """(m, e): the 31 leading bits of `ratio` != 0, half away from zero [1.4]; e has no limit."""
    exact, e = Fraction(ratio), 0
    while abs(exact) * power(e) < 2**30:
        e += 1
    while abs(exact) * power(e) >= 2**31:
        e -= 1
    m = half_away(exact * power(e))
    return (m // 2, e - 1) if abs(m) == 2**31 else (m, e)


def dyadic(ratio: float) -> tuple[int, int]:
    """`mantissa`, and (0, 62) for 0 and where e would pass 62 [1.4]."""
    m, e = mantissa(ratio) if ratio else (0, 62)
    return (m, e) if e <= 62 else (0, 62)


def scaled(z: int, m: int, e: int) -> int:
    """z * m / 2^e, half up [1.4]."""
    return half_up(z * m * power(-e))


# Softmax


def shift_exp(q: int, x0: int, n: int) -> int:
    """ShiftExp [2.1] in its official form."""
    p = q + math.floor(Fraction(q, 2)) - math.floor(Fraction(q, 16))
    p = max(p, n * x0)
    k = p // x0
    r = p - k * x0
    return max(math.floor((Fraction(r, 2) - x0) * power(n - k)), 0)


def shiftmax(row: Row, x0: int, bits: int) -> list[int]:
    """[2.2]"""
    exps = [shift_exp(q - max(row), x0, 15) for q in row]
    factor = (2**31 - 1) // min(sum(exps), 2**31 - 1)
    return [(e * factor) >> (32 - bits) for e in exps]


def i_exp_constants(scale: float) -> tuple[int, int, int]:
    """(x0, b, c) [3.1], each step rounded to float32; c is kept at 1 at least."""
    s = f32(scale)
    a1, a0 = 0.96963238 / 0.35815147, 1.0 / 0.35815147
    x0 = f32(f32(-0.6931) / s) // 1
    b = f32(f32(a1) / s) // 1
    c = f32(f32(a0) / f32(s * s)) // 1
    return int(x0), int(b), max(int(c), 1)


def i_exp(q: int, x0: int, b: int, c: int) -> tuple[int, int]:
    """(z, k) of i-exp [3.1], z not below 0."""
    p = max(q, 30 * x0)
    k = p // x0
    r = p - k * x0
    return max(r * (r + b) + c, 0), k


def i_exps(row: Row, x0: int, b: int, c: int) -> list[int]:
    """i-exp of a row minus its maximum, written out: up to c * 2^30 [3.1]."""
    pairs = [i_exp(q - max(row), x0, b, c) for q in row]
    return [z * 2 ** (30 - k) for z, k in pairs]


def i_softmax(row: Row, x0: int, b: int, c: int, bits: int) -> list[int]:
    """Unsigned codes [3.2]."""
    m, e = mantissa(32767.0 / (c * 2.0**30))
    codes = [min(scaled(exp, m, e), 32767) for exp in i_exps(row, x0, b, c)]
    factor = 2**32 // sum(codes)
    return [(code * factor) >> (32 - bits) for code in codes]


def log_int_softmax(row: Row, x0: int, b: int, c: int) -> list[int | None]:
    """Negative logarithms [4.1]; None where the exponential is 0."""
    exps = i_exps(row, x0, b, c)
    logs: list[int | None] = []
    for exp in exps:
        if exp == 0:
            logs.append(None)
            continue
        ratio = half_even(Fraction(sum(exps), exp))
        last = ratio.bit_length() - 1
        above = last > 0 and ratio - 2**last >= 2 ** (last - 1)
        logs.append(last + 1 if above else last)
    return logs


def log_codes(logs: Sequence[int | None]) -> list[int]:
    """4-bit codes: 15 means zero."""
    return [15 if log is None else min(log, 15) for log in logs]


def exp_table(scale: float, top: int) -> list[int]:
    """half_up(top * exp(-S t)) for t = 0..255 [4.7], with 40 digits."""
    with localcontext() as context:
        context.prec = 40
        exact = [(Decimal(-scale) * t).exp() * top for t in range(256)]
    return [half_up(Fraction(x)) for x in exact]


def lut_softmax(row: Row, scale: float, bits: int) -> list[int]:
    """Unsigned codes with the exact exponential of every code."""
    table = exp_table(scale, 65535)
    weights = [table[max(row) - q] for q in row]
    factor = 2**32 // sum(weights)
    return [(w * factor) >> (32 - bits) for w in weights]


# GELU


def shift_gelu(row: Row, x0: int, numerator: int) -> list[int]:
    """q * sigmoid [2.4]."""
    top, out = max(row), []
    e2 = shift_exp(-top, x0, 23)
    for q in row:
        e1 = shift_exp(q - top, x0, 23)
        factor = numerator // min(e1 + e2, 2**31 - 1)
        out.append(q * ((e1 * factor) >> 24))
    return out


def i_gelu(q: int, b: int, c: int, n: int, one: int) -> int:
    """[3.3]"""
    sign = (q > 0) - (q < 0)
    y = sign * ((min(abs(q), -b) + b) ** 2 + c)
    return q * ((y >> n) + one)


# LayerNorm


def centred(row: Row) -> list[int]:
    mean = half_even(Fraction(sum(row), len(row)))
    return [q - mean for q in row]


def i_layernorm(row: Row, bq: Row) -> list[int]:
    """I-ViT's [2.5]."""
    ys = centred(row)
    variance, k = sum(y * y for y in ys), 2**16
    for _ in range(10):
        k = (k + variance // k) >> 1
    factor = (2**31 - 1) // k
    return [((y * factor) >> 1) + bias for y, bias in zip(ys, bq, strict=True)]


def bert_layernorm(row: Row, bq: Row, shift: int = 0) -> list[int]:
    """I-BERT's [3.4]."""
    ys = centred(row)
    root = math.isqrt(sum((y >> shift) ** 2 for y in ys)) << shift
    factor = 2**31 // max(root, 1)
    return [((y * factor) >> 1) + bias for y, bias in zip(ys, bq, strict=True)]


def fq_layernorm(row: Row, mant: Row, p: int, bq: Row) -> list[int]:
    """FQ-ViT's before saturation [4.4]; N by bit lengths, those of 0 are 0."""
    s1, channels = sum(row), len(row)
    d = channels * sum(x * x for x in row) - s1 * s1
    t = (62 - d.bit_length()) // 2
    root = max(math.isqrt(d << (2 * t)), 1)
    out = []
    for x, w, bias in zip(row, mant, bq, strict=True):
        if d == 0:
            out.append(half_even(Fraction(bias, 2**20)))
            continue
        a = (abs(w) << 31) // root
        size = a * power(t - p - 31)
        n = saturate(7 - (a.bit_length() - 1 + t - p - 31), 0, 31)
        m = min(math.floor(size * 2**n), 255)
        sign = -1 if w < 0 else 1
        from_bias = math.floor(bias * power(n - 20 + 8))
        from_mean = math.floor(sign * s1 * size * power(n + 8) / channels)
        offset = half_even(Fraction(from_bias - from_mean, 256))
        out.append(half_even(Fraction(sign * m * x + offset, 2**n)))
    return out


def layernorm_line(
    normalized: Row, weight: Sequence[float], bias: Sequence[float], out_scale: float
) -> list[Fraction]:
    """The exact line (t * sqrt(C) / 2^30 * w + b) / S_out of integers t at 2^-30 sqrt(C) [2.5]."""
    unit = Fraction(math.sqrt(len(normalized))) / 2**30
    return [
        (t * unit * Fraction(w) + Fraction(b)) / Fraction(out_scale)
        for t, w, b in zip(normalized, weight, bias, strict=True)
    ]
