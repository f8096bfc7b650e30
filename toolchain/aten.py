"""The table of ATen operators: how each becomes nodes of a `Graph`.

A lowering gets the builder, the ATen node, and its arguments, in which captured tensors are
node names and constants are torch tensors. It returns the name of the tensor it made (a list
for operators with several outputs), or a constant. Those that only move values are in
aten_views.py.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import torch
from torch.fx import Node as FxNode

from mnq.ops.errors import InputError
from mnq.toolchain.aten_views import VIEW_LOWERINGS, Lowering, expand
from mnq.toolchain.fxnode import leaf, module_of, place, shape_of

if TYPE_CHECKING:
    from mnq.toolchain.capture import Builder
    from mnq.toolchain.graph import Node

_TINY = 1e-4  # below it a vector of codes at any scale in use is zero


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
    factor = args[1] if isinstance(args[0], str) else args[0]
    x = args[0] if isinstance(args[0], str) else args[1]
    if isinstance(factor, torch.Tensor) and not _is_number(factor):
        return builder.add(fx, "gain", (x,), parameters={"gain": factor.float()})
    return builder.add(fx, "scale", (x,), factor=_number(fx, factor, "product with"))


def _divide(builder: Builder, fx: FxNode, args: Any, kwargs: Any) -> str:
    x, divisor = args
    norm = builder.nodes.get(divisor) if isinstance(divisor, str) else None
    if norm is not None and norm.op == "norm" and norm.inputs == (x,) and _same_shape(fx, norm):
        return builder.add(fx, "normalize", (x,))
    return builder.add(fx, "scale", (x,), factor=1.0 / _number(fx, divisor, "division by"))


def _same_shape(fx: FxNode, norm: Node) -> bool:
    """Whether a result has the axes of the norm, and not more by broadcasting."""
    return shape_of(fx)[:-1] == norm.shape[:-1]


def _vector_norm(builder: Builder, fx: FxNode, args: Any, kwargs: Any) -> str:
    """The length of the last axis' vectors. Only a division of the same vectors may read it."""
    order, axes = (*args[1:], *(2, None)[len(args) - 1 :])[:2]
    keeps = args[3] if len(args) > 3 else kwargs.get("keepdim", False)
    last = len(builder.nodes[args[0]].shape) - 1
    if order != 2 or axes is None or [a % (last + 1) for a in axes] != [last] or not keeps:
        raise InputError(
            f"capture: expected the 2-norm over the last axis, kept with length 1, found "
            f"{fx.format_node()} in module {place(fx)}"
        )
    return builder.add(fx, "norm", (args[0],))


def _clamp_min(builder: Builder, fx: FxNode, args: Any, kwargs: Any) -> str:
    """A norm kept above a tiny number stays a norm."""
    if builder.nodes[args[0]].op != "norm" or not 0 < args[1] < _TINY:
        raise InputError(
            f"capture: no integer lowering for {fx.target} in module {place(fx)} but as part of "
            "functional.normalize; a lowering for it belongs in the table of toolchain/aten.py"
        )
    return str(args[0])


def _expand_as(builder: Builder, fx: FxNode, args: Any, kwargs: Any) -> Any:
    """A norm repeated for every element stays a norm."""
    is_norm = isinstance(args[0], str) and builder.nodes[args[0]].op == "norm"
    return args[0] if is_norm else expand(builder, fx, args, kwargs)


def _mean(builder: Builder, fx: FxNode, args: Any, kwargs: Any) -> str:
    """The mean over the tokens: all axes but the first and the last, or but the first two."""
    x, axes = args[0], args[1]
    keeps = args[2] if len(args) > 2 else kwargs.get("keepdim", False)
    shape = builder.nodes[x].shape
    axes = sorted(axis % len(shape) for axis in ([axes] if isinstance(axes, int) else axes))
    rest = [axis for axis in range(1, len(shape)) if axis not in axes]
    return _token_mean(builder, fx, x, axes, rest, bool(keeps))


def _average_pool(builder: Builder, fx: FxNode, args: Any, kwargs: Any) -> str:
    shape = builder.nodes[args[0]].shape
    if list(args[1]) != [1] * (len(shape) - 2):
        raise InputError(
            f"capture: expected pooling to one value per channel, found {fx.format_node()} in "
            f"module {place(fx)}"
        )
    return _token_mean(builder, fx, args[0], [*range(2, len(shape))], [1], True)


def _token_mean(
    builder: Builder, fx: FxNode, x: str, axes: list[int], rest: list[int], keeps: bool
) -> str:
    shape = builder.nodes[x].shape
    if len(rest) != 1 or shape[0] != -1 or not axes or 0 in axes:
        raise InputError(
            f"capture: expected a mean over all axes but those of images and channels, found "
            f"{fx.format_node()} of shape {shape} in module {place(fx)}"
        )
    perm = (0, *axes, *rest)
    moved = tuple(shape[axis] for axis in perm)
    if perm != tuple(range(len(shape))):
        x = builder.add(fx, "transpose", (x,), shape=moved, perm=perm)
    if len(axes) > 1:
        x = builder.add(fx, "reshape", (x,), shape=(-1, math.prod(moved[1:-1]), moved[-1]))
    x = builder.add(fx, "mean", (x,), shape=(-1, moved[-1]))
    return builder.add(fx, "reshape", (x,)) if keeps else x


def _number(fx: FxNode, value: Any, what: str) -> float:
    number = value.item() if _is_number(value) else value
    # A negative scale would be lost in a LayerNorm, whose input scale cancels.
    if not isinstance(number, (int, float)) or not 0 < number < float("inf"):
        raise InputError(
            f"capture: expected a {what} a positive number, found {fx.format_node()} in "
            f"module {place(fx)}; a lowering for it belongs in toolchain/aten.py"
        )
    return float(number)


def _new(builder: Builder, fx: FxNode, args: Any, kwargs: Any) -> torch.Tensor:
    """A new tensor takes only its dtype from the one that is given."""
    if -1 in args[1]:
        raise InputError(
            f"capture: expected a new tensor of fixed size, found {fx.format_node()} in module "
            f"{place(fx)}; make one for one image and expand it"
        )
    made: torch.Tensor = fx.target(torch.empty(0), *args[1:], **kwargs)  # type: ignore[operator]
    return made


def _to_dtype(builder: Builder, fx: FxNode, args: Any, kwargs: Any) -> str:
    if not fx.meta["val"].is_floating_point():
        raise InputError(
            f"capture: expected real numbers, found {fx.format_node()} in module {place(fx)}"
        )
    return str(args[0])


def _nothing(builder: Builder, fx: FxNode, args: Any, kwargs: Any) -> None:
    """Checks of what was traced."""


def _need_constants(fx: FxNode, *values: Any) -> None:
    if any(isinstance(value, str) for value in values):
        raise InputError(
            f"capture: expected constant weights, found computed ones in module {place(fx)}"
        )


def _affine(weight: torch.Tensor, bias: torch.Tensor | None) -> dict[str, torch.Tensor]:
    zeros = torch.zeros(weight.shape[0])
    return {"weight": weight.float(), "bias": zeros if bias is None else bias.float()}


def _is_number(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.numel() == 1


LOWERINGS: dict[str, Lowering] = {
    **VIEW_LOWERINGS,
    "aten.to.dtype": _to_dtype,
    "aten._assert_tensor_metadata.default": _nothing,
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
    "aten.linalg_vector_norm.default": _vector_norm,
    "aten.clamp_min.default": _clamp_min,
    "aten.expand_as.default": _expand_as,
    **dict.fromkeys(("aten.new_zeros.default", "aten.new_ones.default"), _new),
    "aten.mean.dim": _mean,
    "aten.adaptive_avg_pool2d.default": _average_pool,
    "aten.adaptive_avg_pool1d.default": _average_pool,
}
