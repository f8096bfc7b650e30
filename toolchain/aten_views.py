"""ATen operators that move values and change none: how each becomes view nodes of a `Graph`.

Lowerings as in aten.py.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch.fx import Node as FxNode

from mnq.ops.errors import InputError
from mnq.toolchain.fxnode import place, shape_of, sizes

if TYPE_CHECKING:
    from mnq.toolchain.capture import Builder, Operand

Lowering: TypeAlias = "Callable[[Builder, FxNode, Any, Any], Any]"


def _identity(builder: Builder, fx: FxNode, args: Any, kwargs: Any) -> Operand:
    value: Operand = args[0]
    return value


def _reshape(builder: Builder, fx: FxNode, args: Any, kwargs: Any) -> str:
    return builder.add(fx, "reshape", (args[0],))


def _transpose(builder: Builder, fx: FxNode, args: Any, kwargs: Any) -> str:
    return builder.add(fx, "transpose", (args[0],), perm=_permutation(str(fx.target), args, fx))


def _concatenate(builder: Builder, fx: FxNode, args: Any, kwargs: Any) -> str:
    axis = (args[1] if len(args) > 1 else 0) % len(shape_of(fx))
    return builder.add(fx, "concat", tuple(args[0]), axis=axis)


def expand(builder: Builder, fx: FxNode, args: Any, kwargs: Any) -> Operand:
    """Repeated along axes of length 1: a constant, or anything for every image."""
    value, shape = args[0], shape_of(fx)
    if isinstance(value, torch.Tensor) and -1 not in shape:
        return value.expand(shape)
    if str(fx.meta["val"].shape[0]) != builder.batch:
        raise InputError(
            f"capture: expected a tensor repeated for every image, found one expanded to "
            f"{tuple(fx.meta['val'].shape)} in module {place(fx)}; expand its first axis, "
            "before images are cut into windows"
        )
    return builder.add(fx, "expand", (value,))


def _select(builder: Builder, fx: FxNode, args: Any, kwargs: Any) -> str:
    rank = len(builder.nodes[args[0]].shape)
    return builder.add(fx, "select", (args[0],), axis=args[1] % rank, index=int(args[2]))


def _unbind(builder: Builder, fx: FxNode, args: Any, kwargs: Any) -> list[str]:
    axis = (args[1] if len(args) > 1 else 0) % len(builder.nodes[args[0]].shape)
    shapes = [sizes(value.shape) for value in fx.meta["val"]]
    return [
        builder.add(fx, "select", (args[0],), shape=shape, axis=axis, index=i)
        for i, shape in enumerate(shapes)
    ]


def _slice(builder: Builder, fx: FxNode, args: Any, kwargs: Any) -> str:
    shape = builder.nodes[args[0]].shape
    values: Any = (*args[1:], *(0, 0, None, 1)[len(args) - 1 :])
    axis, start, stop, step = values
    axis %= len(shape)
    start, stop = start or 0, 2**63 - 1 if stop is None else stop
    if start == 0 and step == 1 and (stop >= 2**31 or stop == shape[axis] != -1):
        return str(args[0])
    return builder.add(fx, "slice", (args[0],), axis=axis, start=start, stop=stop, step=step)


def _split(builder: Builder, fx: FxNode, args: Any, kwargs: Any) -> list[str]:
    axis = (args[2] if len(args) > 2 else 0) % len(builder.nodes[args[0]].shape)
    names, start = [], 0
    for value in fx.meta["val"]:
        shape = sizes(value.shape)
        stop = start + shape[axis]
        names.append(
            builder.add(
                fx, "slice", (args[0],), shape=shape, axis=axis, start=start, stop=stop, step=1
            )
        )
        start = stop
    return names


def _permutation(name: str, args: Any, fx: FxNode) -> tuple[int, ...]:
    rank = len(fx.meta["val"].shape)
    if name == "aten.permute.default":
        return tuple(axis % rank for axis in args[1])
    first, second = (args[1] % rank, args[2] % rank) if len(args) > 1 else (0, 1)
    perm = list(range(rank))
    perm[first], perm[second] = perm[second], perm[first]
    return tuple(perm)


def _roll(builder: Builder, fx: FxNode, args: Any, kwargs: Any) -> Operand:
    """A cyclic shift is a gather along each axis."""
    x, shifts = args[0], args[1]
    axes = args[2] if len(args) > 2 else []
    shape = builder.nodes[x].shape
    if len(shifts) != len(axes) or any(shape[axis] == -1 for axis in axes):
        raise InputError(
            f"capture: expected a roll along axes of fixed length, found {fx.format_node()} in "
            f"module {place(fx)}"
        )
    for shift, axis in zip(shifts, axes, strict=True):
        axis %= len(shape)
        order = tuple((i - shift) % shape[axis] for i in range(shape[axis]))
        x = builder.add(fx, "gather", (x,), axis=axis, order=order)
    return str(x)


def _constant_pad(builder: Builder, fx: FxNode, args: Any, kwargs: Any) -> Operand:
    return _pad(builder, fx, (*args[:2], "constant", *args[2:]), kwargs)


def _pad(builder: Builder, fx: FxNode, args: Any, kwargs: Any) -> Operand:
    """Zeros around: code 0 is the value 0. Sizes come from the last axis to the first."""
    x, sizes_ = args[0], args[1]
    mode = args[2] if len(args) > 2 else kwargs.get("mode", "constant")
    value = args[3] if len(args) > 3 else kwargs.get("value")
    if not any(sizes_):
        return str(x)
    if mode != "constant" or value or min(sizes_) < 0 or len(sizes_) > 2 * len(shape_of(fx)) - 2:
        raise InputError(
            f"capture: expected padding by zeros, found {fx.format_node()} in module {place(fx)}"
        )
    before, after = sizes_[::2][::-1], sizes_[1::2][::-1]
    rest = (0,) * (len(shape_of(fx)) - len(before))
    return builder.add(fx, "pad", (x,), before=(*rest, *before), after=(*rest, *after))


VIEW_LOWERINGS: dict[str, Lowering] = {
    **dict.fromkeys(
        (
            "aten.dropout.default",
            "aten.contiguous.default",
            "aten.clone.default",
            "aten.detach.default",
            "aten.detach_.default",
            "aten.alias.default",
            "aten.lift_fresh_copy.default",
        ),
        _identity,
    ),
    **dict.fromkeys(
        (
            "aten.reshape.default",
            "aten.view.default",
            "aten.flatten.using_ints",
            "aten.unflatten.int",
            "aten.unsqueeze.default",
            "aten.squeeze.default",
            "aten.squeeze.dim",
            "aten.squeeze.dims",
        ),
        _reshape,
    ),
    **dict.fromkeys(("aten.transpose.int", "aten.permute.default", "aten.t.default"), _transpose),
    "aten.roll.default": _roll,
    "aten.pad.default": _pad,
    "aten.constant_pad_nd.default": _constant_pad,
    "aten.cat.default": _concatenate,
    "aten.expand.default": expand,
    "aten.select.int": _select,
    "aten.unbind.int": _unbind,
    "aten.slice.Tensor": _slice,
    "aten.split.Tensor": _split,
    "aten.split_with_sizes.default": _split,
    "aten.chunk.default": _split,
}
