"""Integer arithmetic in which the operators are defined, on torch tensors and in ONNX bodies.

Every function takes either int64 torch tensors (and computes) or body `Value`s (and writes
ONNX nodes). Both give the same integers. `+ - *`, unary minus, `%` (floor modulus) and
comparisons are written directly; what differs between the two worlds is here. On `Interval`s, a
function marked `_bounded` is that of the same name in bounds.py: the range of the same integers.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, TypeAlias, TypeVar

import torch
from onnx import TensorProto

from mnq.ops import bounds
from mnq.ops.body import AttributeReference, Value
from mnq.ops.interval import Interval

Integers: TypeAlias = Any
"""A torch integer tensor, a body Value, an Interval, or (for constants) a Python int."""

ElementType: TypeAlias = int | AttributeReference
"""An onnx TensorProto element type, or the attribute of a function that holds one."""

INT8 = int(TensorProto.INT8)
INT16 = int(TensorProto.INT16)
INT32 = int(TensorProto.INT32)
INT64 = int(TensorProto.INT64)

TORCH_DTYPE = {INT8: torch.int8, INT16: torch.int16, INT32: torch.int32, INT64: torch.int64}

_POWERS_OF_TWO = tuple(2**k for k in range(63))

# float32 adds integers exactly below 2^24, and a product of two 8-bit codes is at most 2^14.
_EXACT_TERMS = 1 << 10


_Function = TypeVar("_Function", bound=Callable[..., Any])


def _bounded(function: _Function) -> _Function:
    """`function`, and for Intervals the function of bounds.py that has its name."""

    @wraps(function)
    def call(*arguments: Any, **others: Any) -> Any:
        if any(isinstance(each, Interval) for each in arguments):
            return getattr(bounds, function.__name__)(*arguments, **others)
        return function(*arguments, **others)

    return call  # type: ignore[return-value]


def _tensors(*values: Integers) -> list[torch.Tensor]:
    device = next((v.device for v in values if isinstance(v, torch.Tensor)), None)
    return [torch.as_tensor(v, dtype=torch.int64, device=device) for v in values]


@_bounded
def cast(x: Integers, to: ElementType) -> Integers:
    """`x` in another integer type; the caller has made sure that every value fits."""
    if isinstance(x, Value):
        return x.writer.emit("Cast", x, to=to)
    assert isinstance(to, int), "only a function body can defer its element type"
    return x.to(TORCH_DTYPE[to])


def i64(x: Integers) -> Integers:
    """`x` as int64, the type in which all arithmetic is done."""
    return cast(x, INT64)


# Bodies do not use ONNX Max and Min: onnxruntime 1.31.1 (CPU) compares the low halves of
# int64 values as signed numbers, so that Max(2^31, 1) is 1. Less and Where are right.


@_bounded
def maximum(a: Integers, b: Integers) -> Integers:
    """The larger of each pair."""
    for v in (a, b):
        if isinstance(v, Value):
            return v.writer.emit("Where", v.writer.emit("Less", a, b), b, a)
    return torch.maximum(*_tensors(a, b))


@_bounded
def minimum(a: Integers, b: Integers) -> Integers:
    """The smaller of each pair."""
    for v in (a, b):
        if isinstance(v, Value):
            return v.writer.emit("Where", v.writer.emit("Less", a, b), a, b)
    return torch.minimum(*_tensors(a, b))


def clamp(x: Integers, lo: Integers, hi: Integers) -> Integers:
    """`x` limited to [lo, hi]: the saturation of a requantization."""
    return minimum(maximum(x, lo), hi)


@_bounded
def where(condition: Integers, a: Integers, b: Integers) -> Integers:
    """`a` where the condition holds, else `b`."""
    if isinstance(condition, Value):
        return condition.writer.emit("Where", condition, a, b)
    return torch.where(condition, *_tensors(a, b))


@_bounded
def power_of_two(k: Integers) -> Integers:
    """2^k for 0 <= k <= 62."""
    if isinstance(k, Value):
        return k.writer.emit("Gather", k.writer.constant(_POWERS_OF_TWO), k)
    if isinstance(k, int):
        return 2**k
    return torch.ones_like(k) << k


@_bounded
def floor_divmod(x: Integers, divisor: Integers) -> tuple[Integers, Integers]:
    """Quotient toward minus infinity, and the remainder, which has the divisor's sign."""
    for v in (x, divisor):
        if isinstance(v, Value):
            remainder = v.writer.emit("Mod", x, divisor)
            return v.writer.emit("Div", v.writer.emit("Sub", x, remainder), divisor), remainder
    x, divisor = _tensors(x, divisor)
    return torch.div(x, divisor, rounding_mode="floor"), torch.remainder(x, divisor)


def floor_divide(x: Integers, divisor: Integers) -> Integers:
    """Quotient toward minus infinity."""
    return floor_divmod(x, divisor)[0]


@_bounded
def quotient(x: Integers, divisor: Integers) -> Integers:
    """x // divisor for x >= 0 and divisor > 0, where truncation and floor are the same."""
    for v in (x, divisor):
        if isinstance(v, Value):
            return v.writer.emit("Div", x, divisor)
    x, divisor = _tensors(x, divisor)
    return torch.div(x, divisor, rounding_mode="trunc")


@_bounded
def quotient_remainder(x: Integers, divisor: Integers) -> tuple[Integers, Integers]:
    """x // divisor and what is left, for x >= 0 and divisor > 0."""
    whole = quotient(x, divisor)
    return whole, x - whole * divisor


def shift_right(x: Integers, k: Integers) -> Integers:
    """floor(x / 2^k) for 0 <= k <= 62, of either sign."""
    if isinstance(x, torch.Tensor):
        return x >> k
    return floor_divide(x, power_of_two(k))


@_bounded
def round_shift(x: Integers, k: Integers) -> Integers:
    """x / 2^k rounded half up, for 1 <= k <= 62 and |x| < 2^62 + 2^61."""
    return shift_right(x + power_of_two(k - 1), k)


def shift(x: Integers, k: Integers) -> Integers:
    """x * 2^k for a k of either sign, toward minus infinity if k < 0."""
    left = x * power_of_two(maximum(k, 0))
    return shift_right(left, maximum(-k, 0))


def round_half_even_divide(x: Integers, divisor: Integers) -> Integers:
    """x / divisor rounded to the nearest integer, ties to even; divisor > 0."""
    q, r = floor_divmod(x, divisor)
    twice = r * 2
    up = where(twice > divisor, 1, where(twice < divisor, 0, q % 2))
    return q + up


@_bounded
def row_max(x: Integers) -> Integers:
    """Maximum over the last axis, which is kept with length 1."""
    if isinstance(x, Value):
        return x.writer.emit("ReduceMax", x, x.writer.constant((-1,)), keepdims=1)
    return x.amax(dim=-1, keepdim=True)


@_bounded
def total(x: Integers, axis: int = -1) -> Integers:
    """Sum over one axis, which is kept with length 1; |sum| < 2^53.

    Beyond 2^53 onnxruntime 1.31.1 (CPU) returns int64 sums rounded to a double.
    """
    if isinstance(x, Value):
        return x.writer.emit("ReduceSum", x, x.writer.constant((axis,)), keepdims=1)
    return x.sum(dim=axis, keepdim=True)


@_bounded
def wide_total(x: Integers) -> Integers:
    """Sum of x >= 0 over the last axis for sums up to 2^63: two halves, added separately."""
    high = quotient(x, 2**31)
    return total(high) * 2**31 + total(x - high * 2**31)


@_bounded
def last_length(x: Integers) -> Integers:
    """Length of the last axis."""
    if isinstance(x, Value):
        return x.writer.emit("Shape", x, start=-1)
    return x.shape[-1]


@_bounded
def gather(table: Integers, index: Integers, axis: int = 0) -> Integers:
    """The entries `index` of one axis, which gives way to the axes of `index`; all in range."""
    if isinstance(index, Value):
        return index.writer.emit("Gather", table, index, axis=axis)
    return table.to(index.device)[(slice(None),) * axis + (index,)]


@_bounded
def transpose(x: Integers, perm: tuple[int, ...]) -> Integers:
    """`x` with its axes in the order `perm`."""
    if isinstance(x, Value):
        return x.writer.emit("Transpose", x, perm=perm)
    return x.permute(perm)


@_bounded
def select(x: Integers, index: int, axis: int = 0) -> Integers:
    """One entry of an axis, which goes."""
    if isinstance(x, Value):
        return x.writer.emit("Gather", x, index, axis=axis)
    return x.select(axis, index)


@_bounded
def reshape(x: Integers, shape: Integers | tuple[int, ...]) -> Integers:
    """The elements of `x` in the same order, in `shape`: int64 lengths, or a tuple of them.

    One of them may be -1, which is what is left; 0 is the length that `x` has there.
    """
    if isinstance(x, Value):
        lengths = x.writer.constant(shape) if isinstance(shape, tuple) else shape
        return x.writer.emit("Reshape", x, lengths)
    lengths = shape if isinstance(shape, tuple) else shape.tolist()
    return x.reshape([n if n != 0 else x.shape[axis] for axis, n in enumerate(lengths)])


@_bounded
def matmul(a: Integers, b: Integers) -> Integers:
    """int8 (..., M, K) times int8 (..., K, N): the exact int32 accumulators, as int64.

    In torch the product runs in float32 over slices of 1024 terms: every partial sum is an
    integer below 2^24, so no rounding happens on any device and at any summation order.
    """
    if isinstance(a, Value):
        return i64(a.writer.emit("MatMulInteger", a, b))
    if b.ndim == 2:
        rows = matmul_2d(a.reshape(-1, a.shape[-1]), b)
        return rows.reshape(*a.shape[:-1], b.shape[-1])
    return matmul_2d(a, b)


def matmul_2d(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """`matmul` for torch tensors whose leading axes already agree."""
    inner = a.shape[-1]
    af, bf = a.to(torch.float32), b.to(torch.float32)
    if inner <= _EXACT_TERMS:
        return (af @ bf).to(torch.int64)
    slices = range(0, inner, _EXACT_TERMS)
    parts = [
        (af[..., s : s + _EXACT_TERMS] @ bf[..., s : s + _EXACT_TERMS, :]).to(torch.int64)
        for s in slices
    ]
    return torch.stack(parts).sum(dim=0)


@_bounded
def bit_length(x: Integers) -> Integers:
    """Number of bits of x, 0 <= x < 2^63; 0 for 0."""
    if isinstance(x, torch.Tensor):
        # One too many where rounding to a double has reached the next power of two.
        exponent = torch.frexp(x.double()).exponent.long().clamp(1, 63)
        return minimum(exponent - (x < power_of_two(exponent - 1)).long(), x)
    bits: Integers = 0
    for step in (32, 16, 8, 4, 2, 1):
        big = x >= 2**step
        bits = bits + where(big, step, 0)
        x = where(big, quotient(x, 2**step), x)
    return bits + x


@_bounded
def isqrt(x: Integers) -> Integers:
    """floor(sqrt(x)) for 0 <= x < 2^62.

    Newton from a power of two between sqrt(x) and 2*sqrt(x): the relative error goes
    1, 1/4, 1/40, 3e-4, 5e-8, 1e-15, and `minimum` keeps the end from oscillating.
    """
    positive = maximum(x, 1)  # a root of 0 would be the next step's divisor
    root = power_of_two(quotient(bit_length(positive) + 1, 2))
    for _ in range(6):
        root = minimum(root, quotient(root + quotient(positive, root), 2))
    return minimum(root, x)
