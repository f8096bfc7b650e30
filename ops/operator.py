"""`Operator`: one integer definition, run by torch and written out as an ONNX function."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from onnx import FunctionProto

from mnq.ops.body import DOMAIN, AttributeReference, Value, Writer
from mnq.ops.integer import ElementType, Integers


@dataclass(frozen=True)
class Operator:
    """An operator of the domain `mnq`.

    `compute` is the definition. Its positional parameters are the operator's inputs, in
    order (`input_names` where they are made by a factory), and its keyword-only parameters
    are attributes: all of them element types, the only attributes there are. It is written
    in the functions of `integer.py`.

    elementwise: every code it writes depends on the one code at its place in the only activation,
    and on nothing else that differs from place to place.
    """

    name: str
    compute: Callable[..., Integers]
    input_names: tuple[str, ...] = ()
    elementwise: bool = False

    @cached_property
    def inputs(self) -> tuple[str, ...]:
        """Names of the inputs, activations first, then constants."""
        if self.input_names:
            return self.input_names
        parameters = inspect.signature(self.compute).parameters.values()
        return tuple(p.name for p in parameters if p.kind is not p.KEYWORD_ONLY)

    @cached_property
    def attributes(self) -> tuple[str, ...]:
        """Names of the attributes."""
        parameters = inspect.signature(self.compute).parameters.values()
        return tuple(p.name for p in parameters if p.kind is p.KEYWORD_ONLY)

    def __call__(self, *arguments: Integers, **attributes: ElementType) -> Any:
        """Compute on torch tensors, or, inside another operator's body, write a call."""
        for argument in arguments:
            if isinstance(argument, Value):
                return argument.writer.emit(self.name, *arguments, domain=DOMAIN, **attributes)
        return self.compute(*arguments, **attributes)

    @cached_property
    def _written(self) -> tuple[FunctionProto, tuple[str, ...]]:
        writer = Writer(self.inputs)
        references = {name: AttributeReference(name) for name in self.attributes}
        output = self.compute(*writer.inputs, **references)
        doc = inspect.getdoc(self.compute) or ""
        function = writer.finish(self.name, output, self.attributes, doc)
        return function, tuple(writer.calls)

    @property
    def function(self) -> FunctionProto:
        """The ONNX function: standard operators, and calls of other `mnq` functions."""
        return self._written[0]

    @property
    def calls(self) -> tuple[str, ...]:
        """Names of the `mnq` operators that the body calls directly."""
        return self._written[1]
