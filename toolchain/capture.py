"""Capture: a float torch module to a `Graph`, through torch.export and a table of ATen operators.

The path knows operators, not models. What is not in the table is refused before any work.
"""

from __future__ import annotations

import operator
from typing import Any, TypeAlias

import torch
from torch.fx import Node as FxNode

from mnq.ops.errors import InputError
from mnq.toolchain.aten import LOWERINGS
from mnq.toolchain.fxnode import grows, module_of, place, shape_of
from mnq.toolchain.graph import Graph, Node

Operand: TypeAlias = "str | torch.Tensor"
"""What a captured tensor is: the name of a graph node, or a value that no input reaches."""


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
        if not len(inputs) == len(outputs) == len(values) == 1:
            raise InputError(
                f"capture: expected a model with one image input and one output tensor, found "
                f"{len(inputs)} and {len(outputs)}; wrap it in a module that has one of each"
            )
        return Graph(self.nodes, inputs[0], outputs[0])

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
            return args[0][args[1]]
        tensors = [a for a in _flat(args) if isinstance(a, (str, torch.Tensor))]
        constant = not any(isinstance(a, str) for a in tensors) and "expand" not in name
        if constant and not grows(fx):
            with torch.no_grad():
                return target(*args, **kwargs)  # type: ignore[operator]
        if not constant and name in LOWERINGS:
            return LOWERINGS[name](self, fx, args, kwargs)
        raise InputError(
            f"capture: no integer lowering for {name} in module {place(fx)}; "
            "a lowering for it belongs in the table of toolchain/aten.py"
        )


def _flat(values: Any) -> list[Any]:
    if isinstance(values, (list, tuple)):
        return [leaf for value in values for leaf in _flat(value)]
    return [values]
