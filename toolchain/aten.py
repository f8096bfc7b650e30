"""The table of ATen operators: how each becomes nodes of a `Graph`.

A lowering gets the builder, the ATen node, and its arguments, in which captured tensors are
node names and constants are torch tensors. It returns the name of the tensor it made (a list
for operators with several outputs), or a constant.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch.fx import Node as FxNode

from mnq.ops.errors import InputError
from mnq.toolchain.fxnode import leaf, module_of, place, shape_of, sizes

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


def _linear(builder: Builder, fx: FxNode, args: Any, kwargs: Any) -> str:
    x, weight, bias = args[0], args[1], args[2] if len(args) > 2 else None
    _need_constants(fx, weight, bias)
    return builder.add(fx, "linear", (x,), name=module_of(fx), parameters=_affine(weight, bias))


def _conv2d(builder: Builder, fx: FxNode, args: Any, kwargs: Any) -> str:
    values: Any = (
        *args,
        *(None, [1, 1], [0, 0], [1, 1], 1)[len(args) - 2 :],
    )
    x, weight, bias, stride, padding, dilation, groups = values
    _need_constants(fx, weight, bias)
    out, channels, kh, kw = weight.shape
    height, width = builder.nodes[x].shape[2:]
    whole = height % kh == 0 and width % kw == 0
    patches = list(stride) == [kh, kw] and not any(padding) and list(dilation) == [1, 1]
    if not (patches and groups == 1 and whole):
        raise InputError(
            f"capture: expected a patch embedding (kernel = stride, no padding, sizes that "
            f"divide), found a convolution {tuple(weight.shape)} with stride {stride}, padding "
            f"{padding}, groups {groups} on {height}x{width} in module {place(fx)}"
        )
    rows, columns = height // kh, width // kw
    split = (-1, channels, rows, kh, columns, kw)
    patch = (-1, rows, columns, channels, kh, kw)
    flat = (-1, rows, columns, channels * kh * kw)
    module = module_of(fx)
    x = builder.add(fx, "reshape", (x,), shape=split)
    x = builder.add(fx, "transpose", (x,), shape=patch, perm=(0, 2, 4, 1, 3, 5))
    x = builder.add(fx, "reshape", (x,), shape=flat)
    x = builder.add(
        fx,
        "linear",
        (x,),
        name=module,
        shape=(-1, rows, columns, out),
        parameters=_affine(weight.reshape(out, -1), bias),
    )
    return builder.add(fx, "transpose", (x,), perm=(0, 3, 1, 2))


def _layer_norm(builder: Builder, fx: FxNode, args: Any, kwargs: Any) -> str:
    x, normalized = args[0], args[1]
    weight = args[2] if len(args) > 2 and args[2] is not None else torch.ones(normalized)
    bias = args[3] if len(args) > 3 and args[3] is not None else torch.zeros(normalized)
    if len(normalized) != 1:
        raise InputError(
            f"capture: expected a LayerNorm over the last axis, found {normalized} in module "
            f"{place(fx)}"
        )
    epsilon = args[4] if len(args) > 4 else 1e-5
    return builder.add(
        fx,
        "layernorm",
        (x,),
        name=module_of(fx),
        parameters=_affine(weight, bias),
        epsilon=float(epsilon),
    )


def _gelu(builder: Builder, fx: FxNode, args: Any, kwargs: Any) -> str:
    kind = kwargs.get("approximate", "none")
    return builder.add(fx, "gelu", (args[0],), name=leaf(fx, "gelu"), approximate=kind)


def _softmax(builder: Builder, fx: FxNode, args: Any, kwargs: Any) -> str:
    if args[1] not in (-1, len(shape_of(fx)) - 1):
        raise InputError(
            f"capture: expected a softmax over the last axis, found axis {args[1]} in module "
            f"{place(fx)}"
        )
    return builder.add(fx, "softmax", (args[0],), name=leaf(fx, "softmax"))


def _matmul(builder: Builder, fx: FxNode, args: Any, kwargs: Any) -> str:
    return builder.add(fx, "matmul", (args[0], args[1]))


def _scaled_attention(builder: Builder, fx: FxNode, args: Any, kwargs: Any) -> str:
    q, k, v, mask, _dropout, causal = (*args, *(None, 0.0, False)[len(args) - 3 :])[:6]
    found = ""
    if causal:
        found = "a causal mask"
    elif isinstance(mask, str):
        found = "a computed mask"
    elif mask is not None and not mask.is_floating_point():
        found = f"a mask of {mask.dtype}"
    elif kwargs.get("enable_gqa"):
        found = "grouped queries"
    if found:
        raise InputError(
            f"capture: expected attention with a constant float mask or none, found {found} "
            f"in module {place(fx)}"
        )
    depth = builder.nodes[q].shape[-1] if isinstance(q, str) else q.shape[-1]
    scale = kwargs.get("scale")
    factor = float(depth) ** -0.5 if scale is None else float(scale)
    # A bias enters before the multiplication by the factor: (q k + bias) * factor.
    parameters = {} if mask is None else {"bias": mask.float() / factor}
    module = module_of(fx)
    return builder.add(
        fx,
        "attention",
        (q, k, v),
        name=f"{module}.context".lstrip("."),
        parameters=parameters,
        factor=factor,
        site=f"{module}.softmax".lstrip("."),
    )


def _add_tensors(builder: Builder, fx: FxNode, args: Any, kwargs: Any) -> str:
    if kwargs.get("alpha", 1) != 1 or not all(isinstance(a, (str, torch.Tensor)) for a in args):
        raise InputError(
            f"capture: expected the sum of two tensors, found {fx.format_node()} in module "
            f"{place(fx)}"
        )
    return builder.add(fx, "add", (args[0], args[1]))


def _multiply(builder: Builder, fx: FxNode, args: Any, kwargs: Any) -> str:
    return builder.add(fx, "scale", (args[0],), factor=_number(fx, args[1], "product with"))


def _divide(builder: Builder, fx: FxNode, args: Any, kwargs: Any) -> str:
    divisor = _number(fx, args[1], "division by")
    return builder.add(fx, "scale", (args[0],), factor=1.0 / divisor)


def _number(fx: FxNode, value: Any, what: str) -> float:
    number = value.item() if _is_number(value) else value
    # A negative scale would be lost in a LayerNorm, whose input scale cancels.
    if not isinstance(number, (int, float)) or not 0 < number < float("inf"):
        raise InputError(
            f"capture: expected a {what} a positive number, found {fx.format_node()} in "
            f"module {place(fx)}; a lowering for it belongs in toolchain/aten.py"
        )
    return float(number)


def _concatenate(builder: Builder, fx: FxNode, args: Any, kwargs: Any) -> str:
    axis = (args[1] if len(args) > 1 else 0) % len(shape_of(fx))
    return builder.add(fx, "concat", tuple(args[0]), axis=axis)


def _expand(builder: Builder, fx: FxNode, args: Any, kwargs: Any) -> Operand:
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


def _need_constants(fx: FxNode, *values: Any) -> None:
    if any(isinstance(value, str) for value in values):
        raise InputError(
            f"capture: expected constant weights, found computed ones in module {place(fx)}"
        )


def _permutation(name: str, args: Any, fx: FxNode) -> tuple[int, ...]:
    rank = len(fx.meta["val"].shape)
    if name == "aten.permute.default":
        return tuple(axis % rank for axis in args[1])
    first, second = (args[1] % rank, args[2] % rank) if len(args) > 1 else (0, 1)
    perm = list(range(rank))
    perm[first], perm[second] = perm[second], perm[first]
    return tuple(perm)


def _affine(weight: torch.Tensor, bias: torch.Tensor | None) -> dict[str, torch.Tensor]:
    zeros = torch.zeros(weight.shape[0])
    return {"weight": weight.float(), "bias": zeros if bias is None else bias.float()}


def _is_number(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.numel() == 1


LOWERINGS: dict[str, Lowering] = {
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
            "aten.squeeze.dim",
            "aten.squeeze.dims",
        ),
        _reshape,
    ),
    **dict.fromkeys(("aten.transpose.int", "aten.permute.default", "aten.t.default"), _transpose),
    "aten.linear.default": _linear,
    "aten.conv2d.default": _conv2d,
    "aten.layer_norm.default": _layer_norm,
    "aten.gelu.default": _gelu,
    "aten.softmax.int": _softmax,
    "aten._softmax.default": _softmax,
    "aten.matmul.default": _matmul,
    "aten.bmm.default": _matmul,
    "aten.scaled_dot_product_attention.default": _scaled_attention,
    "aten.add.Tensor": _add_tensors,
    "aten.mul.Tensor": _multiply,
    "aten.div.Tensor": _divide,
    "aten.cat.default": _concatenate,
    "aten.expand.default": _expand,
    "aten.select.int": _select,
    "aten.unbind.int": _unbind,
    "aten.slice.Tensor": _slice,
    "aten.split.Tensor": _split,
    "aten.split_with_sizes.default": _split,
    "aten.chunk.default": _split,
}
