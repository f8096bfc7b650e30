"""Coverage: which nodes a provider of the installed onnxruntime has kernels for.

onnxruntime's own registry says so, for every operator, version and element type.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from onnx import NodeProto, TensorProto, defs

from mnq.ops.errors import EnvironmentLack
from mnq.runtime.session import PROVIDERS, load_onnxruntime

_BUILT_IN = "Constant"  # becomes an initializer


class Coverage:
    """The kernels of a provider (a key of PROVIDERS).

    Raises EnvironmentLack if the installed onnxruntime is built without it.
    """

    def __init__(self, provider: str) -> None:
        wanted, version = PROVIDERS[provider], load_onnxruntime().__version__
        self._casts = provider == "cpu"  # onnxruntime computes float16 as float32 there
        self._kernels: defaultdict[tuple[str, str], list[Any]] = defaultdict(list)
        for kernel in _registry():
            if kernel.provider == wanted:
                self._kernels[kernel.domain, kernel.op_name].append(kernel)
        if not self._kernels:
            raise EnvironmentLack(
                f"onnxruntime: expected one with the kernels of {wanted}, found {version} without "
                "them; pip install 'mnq[gpu]' in place of 'mnq[cpu]', or leave --provider out"
            )

    def missing(
        self, nodes: Iterable[NodeProto], types: Mapping[str, int], opsets: Mapping[str, int]
    ) -> Iterator[NodeProto]:
        """The nodes without a kernel for their element types.

        types: of tensors by name, where they are known; opsets: imported version by domain.
        """
        for node in nodes:
            domain = "" if node.domain == "ai.onnx" else node.domain
            kernels = self._kernels.get((domain, node.op_type), [])
            if not (self._fits(node, kernels, types, opsets.get(domain, 1)) or _is_built_in(node)):
                yield node

    def _fits(
        self, node: NodeProto, kernels: list[Any], types: Mapping[str, int], version: int
    ) -> bool:
        schema = _schema(node, version)
        if schema is None:  # an operator of onnxruntime's own
            return bool(kernels)
        if schema.has_function or schema.has_context_dependent_function:
            return True  # onnxruntime writes it as others
        places = [*_typed(node.input, schema.inputs), *_typed(node.output, schema.outputs)]
        known = [(self._type(types[name]), of) for name, of in places if types.get(name)]
        return any(
            kernel.version_range[0] <= schema.since_version <= kernel.version_range[1]
            and all(kind in kernel.type_constraints.get(of, [kind]) for kind, of in known)
            for kernel in kernels
        )

    def _type(self, element: int) -> str:
        if element == TensorProto.FLOAT16 and self._casts:
            element = TensorProto.FLOAT
        return f"tensor({TensorProto.DataType.Name(element).lower()})"


def _registry() -> list[Any]:
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    found: list[Any] = state.get_all_opkernel_def()
    return found


def _is_built_in(node: NodeProto) -> bool:
    return node.op_type == _BUILT_IN and not node.domain


def _schema(node: NodeProto, version: int) -> Any:
    try:
        return defs.get_schema(node.op_type, version, node.domain)
    except defs.SchemaError:
        return None


def _typed(names: Iterable[str], formals: Any) -> Iterator[tuple[str, str]]:
    """Names of a node's tensors with the type parameter of each; the last formal may repeat."""
    for number, name in enumerate(names):
        if name and formals:
            yield name, formals[min(number, len(formals) - 1)].type_str
