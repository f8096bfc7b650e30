"""Capture: a float torch module to a `Graph`, through torch.export and a table of ATen operators.

The path knows operators, not models. What is not in the table is refused before any work.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch.fx import Node as FxNode

from mnq.ops.errors import InputError
from mnq.toolchain.graph import Graph, Node

Operand: TypeAlias = "str | torch.Tensor"
"""What a captured tensor is: the name of a graph node, or a value that no input reaches."""

_IDENTITIES = {
    "aten.dropout.default",
    "aten.contiguous.default",
    "aten.clone.default",
    "aten.detach.default",
    "aten.detach_.default",
    "aten.alias.default",
    "aten.lift_fresh_copy.default",
}
_RESHAPES = {
    "aten.reshape.default",
    "aten.view.default",
    "aten.flatten.using_ints",
    "aten.unflatten.int",
    "aten.unsqueeze.default",
    "aten.squeeze.dim",
    "aten.squeeze.dims",
}
_PERMUTATIONS = {"aten.transpose.int", "aten.permute.default", "aten.t.default"}


def capture(model: torch.nn.Module, example: torch.Tensor) -> Graph:
    """The graph of `model` in eval mode for inputs shaped like `example` (B >= 2, C, H, W).

    Raises InputError if torch.export cannot trace the model, or naming the operator and the
    module of the first thing that has no lowering.
    """
    try:
        with torch.no_grad():
            program = torch.export.export(
                model.eval(), (example,), dynamic_shapes=({0: torch.export.Dim.DYNAMIC},)
            )
    except Exception as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(
            f"capture: expected a model that torch.export can trace, found: {first}; "
            "run torch.export.export on it for the full report"
        ) from error
    return _Builder(program).build()


class _Builder:
    """Walks the ATen graph once and collects nodes."""

    def __init__(self, program: torch.export.ExportedProgram) -> None:
        self.program = program
        self.nodes: dict[str, Node] = {}
        self.values: dict[FxNode, Any] = {}
        self.batch = ""

    def build(self) -> Graph:
        signature = self.program.graph_signature
        stored = {**self.program.state_dict, **self.program.constants}
        where = {
            **signature.inputs_to_parameters,
            **signature.inputs_to_buffers,
            **signature.inputs_to_lifted_tensor_constants,
        }
        inputs = []
        for fx in self.program.graph.nodes:
            if fx.op == "placeholder" and fx.name in where:
                self.values[fx] = stored[where[fx.name]].detach()
            elif fx.op == "placeholder":
                if not isinstance(fx.meta["val"], torch.Tensor):
                    raise InputError(
                        f"capture: expected a model with one image input, found an input "
                        f"{fx.name!r} that is no tensor; wrap it in a module without"
                    )
                inputs.append(self._add(fx, "input", ()))
                self.batch = str(fx.meta["val"].shape[0])
            elif fx.op == "call_function":
                self.values[fx] = self._call(fx)
            elif fx.op == "output":
                values = [self.values.get(value) for value in fx.args[0]]
                outputs = [value for value in values if isinstance(value, str)]
        if not len(inputs) == len(outputs) == len(values) == 1:
            raise InputError(
                f"capture: expected a model with one image input and one output tensor, found "
                f"{len(inputs)} and {len(outputs)}; wrap it in a module that has one of each"
            )
        return Graph(self.nodes, inputs[0], outputs[0])

    def _add(
        self,
        fx: FxNode,
        op: str,
        inputs: tuple[Operand, ...],
        *,
        name: str = "",
        shape: tuple[int, ...] | None = None,
        parameters: dict[str, torch.Tensor] | None = None,
        **settings: Any,
    ) -> str:
        module = _module(fx)
        names = tuple(self._constant(fx, value) for value in inputs)
        unique = stem = name or ("input" if op == "input" else f"{module}.{op}".lstrip("."))
        count = 1
        while unique in self.nodes:
            unique, count = f"{stem}_{count}", count + 1
        self.nodes[unique] = Node(
            unique,
            op,
            names,
            _shape(fx) if shape is None else shape,
            module,
            parameters or {},
            settings,
        )
        if op == "input":
            self.values[fx] = unique
        return unique

    def _constant(self, fx: FxNode, value: Operand) -> str:
        if isinstance(value, str):
            return value
        return self._add(
            fx, "constant", (), shape=tuple(value.shape), parameters={"value": value.float()}
        )

    def _call(self, fx: FxNode) -> Any:
        target = fx.target
        name = str(target)
        args = torch.fx.map_arg(fx.args, lambda n: self.values[n])
        kwargs = torch.fx.map_arg(fx.kwargs, lambda n: self.values[n])
        if "val" in fx.meta and isinstance(fx.meta["val"], (int, torch.SymInt)):
            return fx.meta["val"] if isinstance(fx.meta["val"], int) else -1
        if target is operator.getitem:
            return args[0][args[1]]
        tensors = [a for a in _flat(args) if isinstance(a, (str, torch.Tensor))]
        constant = not any(isinstance(a, str) for a in tensors) and "expand" not in name
        if constant and not _grows(fx):
            with torch.no_grad():
                return target(*args, **kwargs)  # type: ignore[operator]
        if not constant:
            if name in _IDENTITIES:
                return args[0]
            if name in _RESHAPES:
                return self._add(fx, "reshape", (args[0],))
            if name in _PERMUTATIONS:
                return self._add(fx, "transpose", (args[0],), perm=_permutation(name, args, fx))
            if name in _LOWERINGS:
                return _LOWERINGS[name](self, fx, args, kwargs)
        raise InputError(
            f"capture: no integer lowering for {name} in module {_place(fx)}; "
            "a lowering for it belongs in the table of toolchain/capture.py"
        )

    # --- lowerings of the table below; each returns the name(s) of what it made ---

    def _linear(self, fx: FxNode, args: Any, kwargs: Any) -> str:
        x, weight, bias = args[0], args[1], args[2] if len(args) > 2 else None
        self._need_constants(fx, weight, bias)
        return self._add(fx, "linear", (x,), name=_module(fx), parameters=_affine(weight, bias))

    def _conv2d(self, fx: FxNode, args: Any, kwargs: Any) -> str:
        x, weight, bias, stride, padding, dilation, groups = (
            *args,
            *(None, [1, 1], [0, 0], [1, 1], 1)[len(args) - 2 :],
        )
        self._need_constants(fx, weight, bias)
        out, channels, kh, kw = weight.shape
        height, width = self.nodes[x].shape[2:]
        whole = height % kh == 0 and width % kw == 0
        patches = list(stride) == [kh, kw] and not any(padding) and list(dilation) == [1, 1]
        if not (patches and groups == 1 and whole):
            raise InputError(
                f"capture: expected a patch embedding (kernel = stride, no padding, sizes that "
                f"divide), found a convolution {tuple(weight.shape)} with stride {stride}, padding "
                f"{padding}, groups {groups} on {height}x{width} in module {_place(fx)}"
            )
        rows, columns = height // kh, width // kw
        split = (-1, channels, rows, kh, columns, kw)
        patch = (-1, rows, columns, channels, kh, kw)
        flat = (-1, rows, columns, channels * kh * kw)
        module = _module(fx)
        x = self._add(fx, "reshape", (x,), shape=split)
        x = self._add(fx, "transpose", (x,), shape=patch, perm=(0, 2, 4, 1, 3, 5))
        x = self._add(fx, "reshape", (x,), shape=flat)
        x = self._add(
            fx,
            "linear",
            (x,),
            name=module,
            shape=(-1, rows, columns, out),
            parameters=_affine(weight.reshape(out, -1), bias),
        )
        return self._add(fx, "transpose", (x,), perm=(0, 3, 1, 2))

    def _layer_norm(self, fx: FxNode, args: Any, kwargs: Any) -> str:
        x, normalized = args[0], args[1]
        weight = args[2] if len(args) > 2 and args[2] is not None else torch.ones(normalized)
        bias = args[3] if len(args) > 3 and args[3] is not None else torch.zeros(normalized)
        if len(normalized) != 1:
            raise InputError(
                f"capture: expected a LayerNorm over the last axis, found {normalized} in module "
                f"{_place(fx)}"
            )
        epsilon = args[4] if len(args) > 4 else 1e-5
        return self._add(
            fx,
            "layernorm",
            (x,),
            name=_module(fx),
            parameters=_affine(weight, bias),
            epsilon=float(epsilon),
        )

    def _gelu(self, fx: FxNode, args: Any, kwargs: Any) -> str:
        kind = kwargs.get("approximate", "none")
        return self._add(fx, "gelu", (args[0],), name=_leaf(fx, "gelu"), approximate=kind)

    def _softmax(self, fx: FxNode, args: Any, kwargs: Any) -> str:
        if args[1] not in (-1, len(_shape(fx)) - 1):
            raise InputError(
                f"capture: expected a softmax over the last axis, found axis {args[1]} in module "
                f"{_place(fx)}"
            )
        return self._add(fx, "softmax", (args[0],), name=_leaf(fx, "softmax"))

    def _matmul(self, fx: FxNode, args: Any, kwargs: Any) -> str:
        return self._add(fx, "matmul", (args[0], args[1]))

    def _scaled_attention(self, fx: FxNode, args: Any, kwargs: Any) -> str:
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
                f"in module {_place(fx)}"
            )
        depth = self.nodes[q].shape[-1] if isinstance(q, str) else q.shape[-1]
        scale = kwargs.get("scale")
        factor = float(depth) ** -0.5 if scale is None else float(scale)
        # A bias enters before the multiplication by the factor: (q k + bias) * factor.
        parameters = {} if mask is None else {"bias": mask.float() / factor}
        module = _module(fx)
        return self._add(
            fx,
            "attention",
            (q, k, v),
            name=f"{module}.context".lstrip("."),
            parameters=parameters,
            factor=factor,
            site=f"{module}.softmax".lstrip("."),
        )

    def _add_tensors(self, fx: FxNode, args: Any, kwargs: Any) -> str:
        if kwargs.get("alpha", 1) != 1 or not all(isinstance(a, (str, torch.Tensor)) for a in args):
            raise InputError(
                f"capture: expected the sum of two tensors, found {fx.format_node()} in module "
                f"{_place(fx)}"
            )
        return self._add(fx, "add", (args[0], args[1]))

    def _multiply(self, fx: FxNode, args: Any, kwargs: Any) -> str:
        return self._add(fx, "scale", (args[0],), factor=self._number(fx, args[1], "product with"))

    def _divide(self, fx: FxNode, args: Any, kwargs: Any) -> str:
        divisor = self._number(fx, args[1], "division by")
        return self._add(fx, "scale", (args[0],), factor=1.0 / divisor)

    def _number(self, fx: FxNode, value: Any, what: str) -> float:
        number = value.item() if _is_number(value) else value
        # A negative scale would be lost in a LayerNorm, whose input scale cancels.
        if not isinstance(number, (int, float)) or not 0 < number < float("inf"):
            raise InputError(
                f"capture: expected a {what} a positive number, found {fx.format_node()} in "
                f"module {_place(fx)}; a lowering for it belongs in toolchain/capture.py"
            )
        return float(number)

    def _concatenate(self, fx: FxNode, args: Any, kwargs: Any) -> str:
        axis = (args[1] if len(args) > 1 else 0) % len(_shape(fx))
        return self._add(fx, "concat", tuple(args[0]), axis=axis)

    def _expand(self, fx: FxNode, args: Any, kwargs: Any) -> Operand:
        value, shape = args[0], _shape(fx)
        if isinstance(value, torch.Tensor) and -1 not in shape:
            return value.expand(shape)
        if str(fx.meta["val"].shape[0]) != self.batch:
            raise InputError(
                f"capture: expected a tensor repeated for every image, found one expanded to "
                f"{tuple(fx.meta['val'].shape)} in module {_place(fx)}; expand its first axis, "
                "before images are cut into windows"
            )
        return self._add(fx, "expand", (value,))

    def _select(self, fx: FxNode, args: Any, kwargs: Any) -> str:
        rank = len(self.nodes[args[0]].shape)
        return self._add(fx, "select", (args[0],), axis=args[1] % rank, index=int(args[2]))

    def _unbind(self, fx: FxNode, args: Any, kwargs: Any) -> list[str]:
        axis = (args[1] if len(args) > 1 else 0) % len(self.nodes[args[0]].shape)
        shapes = [_sizes(value.shape) for value in fx.meta["val"]]
        return [
            self._add(fx, "select", (args[0],), shape=shape, axis=axis, index=i)
            for i, shape in enumerate(shapes)
        ]

    def _slice(self, fx: FxNode, args: Any, kwargs: Any) -> str:
        shape = self.nodes[args[0]].shape
        axis, start, stop, step = (*args[1:], *(0, 0, None, 1)[len(args) - 1 :])
        axis %= len(shape)
        start, stop = start or 0, 2**63 - 1 if stop is None else stop
        if start == 0 and step == 1 and (stop >= 2**31 or stop == shape[axis] != -1):
            return str(args[0])
        return self._add(fx, "slice", (args[0],), axis=axis, start=start, stop=stop, step=step)

    def _split(self, fx: FxNode, args: Any, kwargs: Any) -> list[str]:
        axis = (args[2] if len(args) > 2 else 0) % len(self.nodes[args[0]].shape)
        names, start = [], 0
        for value in fx.meta["val"]:
            shape = _sizes(value.shape)
            stop = start + shape[axis]
            names.append(
                self._add(
                    fx, "slice", (args[0],), shape=shape, axis=axis, start=start, stop=stop, step=1
                )
            )
            start = stop
        return names

    def _need_constants(self, fx: FxNode, *values: Any) -> None:
        if any(isinstance(value, str) for value in values):
            raise InputError(
                f"capture: expected constant weights, found computed ones in module {_place(fx)}"
            )


_LOWERINGS: dict[str, Callable[[_Builder, FxNode, Any, Any], Any]] = {
    "aten.linear.default": _Builder._linear,
    "aten.conv2d.default": _Builder._conv2d,
    "aten.layer_norm.default": _Builder._layer_norm,
    "aten.gelu.default": _Builder._gelu,
    "aten.softmax.int": _Builder._softmax,
    "aten._softmax.default": _Builder._softmax,
    "aten.matmul.default": _Builder._matmul,
    "aten.bmm.default": _Builder._matmul,
    "aten.scaled_dot_product_attention.default": _Builder._scaled_attention,
    "aten.add.Tensor": _Builder._add_tensors,
    "aten.mul.Tensor": _Builder._multiply,
    "aten.div.Tensor": _Builder._divide,
    "aten.cat.default": _Builder._concatenate,
    "aten.expand.default": _Builder._expand,
    "aten.select.int": _Builder._select,
    "aten.unbind.int": _Builder._unbind,
    "aten.slice.Tensor": _Builder._slice,
    "aten.split.Tensor": _Builder._split,
    "aten.split_with_sizes.default": _Builder._split,
    "aten.chunk.default": _Builder._split,
}


def _module(fx: FxNode) -> str:
    """Path of the innermost torch module that made this node; "" for the model itself."""
    stack = fx.meta.get("nn_module_stack") or {}
    path = list(stack.values())[-1][0] if stack else ""
    return "" if path.startswith("_empty") else str(path)


def _place(fx: FxNode) -> str:
    """The module's path in quotes, for error messages."""
    return repr(_module(fx) or "(top)")


def _leaf(fx: FxNode, kind: str) -> str:
    """The module's own path if it is a module of this kind, else path.kind."""
    stack = fx.meta.get("nn_module_stack") or {}
    owner = str(list(stack.values())[-1][1]) if stack else ""
    module = _module(fx)
    return module if kind in owner.rsplit(".", 1)[-1].lower() else f"{module}.{kind}".lstrip(".")


def _grows(fx: FxNode) -> bool:
    """Whether the tensor that this node makes grows with the batch."""
    value = fx.meta.get("val")
    return isinstance(value, torch.Tensor) and -1 in _sizes(value.shape)


def _sizes(shape: Any) -> tuple[int, ...]:
    return tuple(size if isinstance(size, int) else -1 for size in shape)


def _shape(fx: FxNode) -> tuple[int, ...]:
    shape = _sizes(fx.meta["val"].shape)
    if shape.count(-1) > 1:
        raise InputError(
            f"capture: expected shapes in which only the batch varies, found "
            f"{tuple(fx.meta['val'].shape)} in module {_place(fx)}"
        )
    return shape


def _permutation(name: str, args: Any, fx: FxNode) -> tuple[int, ...]:
    rank = len(fx.meta["val"].shape)
    if name == "aten.permute.default":
        return tuple(axis % rank for axis in args[1])
    first, second = (args[1] % rank, args[2] % rank) if len(args) > 1 else (0, 1)
    perm = list(range(rank))
    perm[first], perm[second] = perm[second], perm[first]
    return tuple(perm)


def _flat(values: Any) -> list[Any]:
    if isinstance(values, (list, tuple)):
        return [leaf for value in values for leaf in _flat(value)]
    return [values]


def _affine(weight: torch.Tensor, bias: torch.Tensor | None) -> dict[str, torch.Tensor]:
    zeros = torch.zeros(weight.shape[0])
    return {"weight": weight.float(), "bias": zeros if bias is None else bias.float()}


def _is_number(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.numel() == 1
