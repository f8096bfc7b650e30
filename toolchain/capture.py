"""Capture: a float torch module to a `Graph`, through torch.export and a table of ATen operators.

The path knows operators, not models. What is not in the table is refused before any work.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch.fx import Node as FxNode

from mnq.ops.errors import InputError
from mnq.toolchain.aten import LOWERINGS
from mnq.toolchain.fxnode import grows, module_of, place, shape_of, sizes
from mnq.toolchain.graph import Graph, Node

Operand: TypeAlias = "str | torch.Tensor"
"""What a captured tensor is: the name of a graph node, or a value that no input reaches."""

EXAMPLES = 2
"""Images in the example's batch."""


def capture(model: torch.nn.Module, example: torch.Tensor) -> Graph:
    """The graph of `model` in eval mode for inputs shaped like `example` (2, C, H, W).

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
    return Builder(program).build()


class Builder:
    """Walks the ATen graph once and collects nodes."""

    def __init__(self, program: torch.export.ExportedProgram) -> None:
        self.program = program
        self.nodes: dict[str, Node] = {}
        self.values: dict[FxNode, Any] = {}
        self.batch = ""

    def build(self) -> Graph:
        """The captured graph."""
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
                inputs.append(self.add(fx, "input", ()))
                self.batch = str(fx.meta["val"].shape[0])
            elif fx.op == "call_function":
                self.values[fx] = self._call(fx)
            elif fx.op == "output":
                values = [self.values.get(value) for value in fx.args[0]]
                outputs = [value for value in values if isinstance(value, str)]
        if len(inputs) != 1 or not outputs or len({*outputs}) < len(values):
            raise InputError(
                f"capture: expected a model with one image input, and outputs that are different "
                f"tensors made of it, found {len(inputs)} inputs, and {len({*outputs})} such "
                f"tensors among {len(values)} outputs; wrap it in a module that has these"
            )
        return Graph(self.nodes, inputs[0], outputs[-1], tuple(outputs[:-1]))

    def add(
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
        """Add a node for `fx` under a unique name, which is returned.

        Constants among `inputs` become nodes of their own. `name` and `shape` default to the
        module's path with the op, and to the shape of the ATen node.
        """
        module = module_of(fx)
        names = tuple(self._constant(fx, value) for value in inputs)
        unique = stem = name or ("input" if op == "input" else f"{module}.{op}".lstrip("."))
        count = 1
        while unique in self.nodes:
            unique, count = f"{stem}_{count}", count + 1
        self.nodes[unique] = Node(
            unique,
            op,
            names,
            shape_of(fx) if shape is None else shape,
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
        return self.add(
            fx, "constant", (), shape=tuple(value.shape), parameters={"value": value.float()}
        )

    def _call(self, fx: FxNode) -> Any:
        target = fx.target
        name = str(target)
        args: Any = torch.fx.map_arg(fx.args, lambda n: self.values[n])
        kwargs: Any = torch.fx.map_arg(fx.kwargs, lambda n: self.values[n])
        if "val" in fx.meta and isinstance(fx.meta["val"], (int, torch.SymInt)):
            return fx.meta["val"] if isinstance(fx.meta["val"], int) else -1
        if target is operator.getitem:
            return _kept(fx, args[0][args[1]])
        leaves = _flat((args, [*kwargs.values()]))
        growing = any(isinstance(leaf, Growing) for leaf in leaves)
        if not any(isinstance(leaf, str) for leaf in leaves):
            return self._compute(fx)
        if growing:
            repeats = name == "aten.cat.default"  # other operators broadcast
            args = _map(args, lambda leaf: self._of_one_image(fx, leaf, repeats))
            kwargs = _map(kwargs, lambda leaf: self._of_one_image(fx, leaf, repeats))
        if name in LOWERINGS:
            return LOWERINGS[name](self, fx, args, kwargs)
        raise InputError(
            f"capture: no integer lowering for {name} in module {place(fx)}; "
            "a lowering for it belongs in the table of toolchain/aten.py"
        )

    def _compute(self, fx: FxNode) -> Any:
        """The value of what no input reaches, for the example's batch where it grows with it."""

        def given(node: FxNode) -> Any:
            value, size = self.values[node], node.meta.get("val")
            if isinstance(size, torch.SymInt):
                hint: Any = size.node.hint
                return int(hint)
            return value.value if isinstance(value, Growing) else value

        with torch.no_grad():
            value = fx.target(  # type: ignore[operator]
                *torch.fx.map_arg(fx.args, given), **torch.fx.map_arg(fx.kwargs, given)
            )
        return _kept(fx, value)

    def _of_one_image(self, fx: FxNode, leaf: Any, repeats: bool) -> Any:
        """A growing constant as that of a single image; `repeats`: as a node that repeats it.

        Raises InputError if images differ in it.
        """
        if not isinstance(leaf, Growing):
            return leaf
        images = leaf.value.chunk(EXAMPLES)
        same = len(images) == EXAMPLES and all(torch.equal(image, images[0]) for image in images)
        if not same or leaf.axis != 0 or (repeats and images[0].shape[0] != 1):
            raise InputError(
                f"capture: expected constants that are the same for every image, found one that "
                f"is not, read by {fx.target} in module {place(fx)}; expand its first axis, "
                "before images are cut into windows"
            )
        value = images[0].clone(memory_format=torch.contiguous_format)  # of one that was expanded
        return self.add(fx, "expand", (value,), shape=(-1, *value.shape[1:])) if repeats else value


@dataclass(frozen=True)
class Growing:
    """A constant that grows with the batch, like a mask per image: its value for the example.

    axis: the one that grows.
    """

    value: torch.Tensor
    axis: int


def _kept(fx: FxNode, value: Any) -> Any:
    """A value of `fx`, marked if it is a constant that grows."""
    if isinstance(value, torch.Tensor) and grows(fx):
        return Growing(value, sizes(fx.meta["val"].shape).index(-1))
    return value


def _map(values: Any, change: Callable[[Any], Any]) -> Any:
    if isinstance(values, dict):
        return {key: _map(value, change) for key, value in values.items()}
    if isinstance(values, (list, tuple)):
        return type(values)(_map(value, change) for value in values)
    return change(values)


def _flat(values: Any) -> list[Any]:
    if isinstance(values, (list, tuple)):
        return [leaf for value in values for leaf in _flat(value)]
    return [values]
