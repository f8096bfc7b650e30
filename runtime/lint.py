"""Lint: what in an .onnx computes in float, differs between machines, or runs slowly, and why.

Looks at any model, ours or not, and runs nothing.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

from onnx import GraphProto, ModelProto, NodeProto, TensorProto

from mnq.ops.body import DOMAIN
from mnq.runtime.coverage import Coverage
from mnq.runtime.purity import element_types, float_names, inferred, nodes_of
from mnq.runtime.session import PROVIDERS

ERROR, WARNING = "error", "warning"

_SIGNED = {TensorProto.INT8, TensorProto.INT16, TensorProto.INT32, TensorProto.INT64}
_WIDE = {TensorProto.INT64, TensorProto.UINT64}
_PRODUCTS = {  # the inputs whose element types are multiplied
    "MatMulInteger": (0, 1),
    "ConvInteger": (0, 1),
    "QLinearMatMul": (0, 3),
    "QLinearConv": (0, 3),
    "DynamicQuantizeMatMul": (),
    "MatMul": (0, 1),
    "Gemm": (0, 1),
    "Conv": (0, 1),
}
_LONGEST = 64  # nodes that make a length
_FLOOR = "(x - Mod(x, d)) / d"


@dataclass(frozen=True)
class Finding:
    """One kind of thing that lint objects to.

    rule: its short name; severity: ERROR (the integers differ between machines, or are none) or
    WARNING (slower than it need be, or right only where values allow). where: up to three names of
    nodes or tensors, of `count`. cost: what it does; remedy: what to do.
    """

    rule: str
    severity: str
    count: int
    where: tuple[str, ...]
    cost: str
    remedy: str

    def to_json(self) -> dict[str, Any]:
        """The finding as a JSON object."""
        return asdict(self)


def lint(
    model: ModelProto, kernels: frozenset[str] | None = None, provider: str | None = None
) -> list[Finding]:
    """What there is to object to in a model, errors first.

    kernels: operators of the domain `mnq` that the native library runs; None if there is none.
    provider: whose kernels the nodes should have, a key of session.PROVIDERS; None for any.

    Raises InputError if the functions of the model cannot be inlined, EnvironmentLack if the
    installed onnxruntime is built without the provider.
    """
    whole = inferred(model)
    types, every = element_types(whole), list(nodes_of(whole))
    outer = inferred(model, keep=DOMAIN)  # our own bodies divide and compare where it is right
    outer_types, rest = element_types(outer), list(nodes_of(outer))
    found = [
        _floats(whole),
        _mixed_products(every, types),
        _signed_shifts(every, types),
        _truncating_divisions(rest, outer_types, {value.name for value in outer.input}),
        _low_halves(rest, outer_types),
        _without_kernel(model, kernels),
        None if provider is None else _not_taken(model, every, types, provider),
    ]
    return sorted((f for f in found if f is not None), key=lambda f: f.severity != ERROR)


def _finding(rule: str, severity: str, names: list[str], cost: str, remedy: str) -> Finding | None:
    if not names:
        return None
    return Finding(rule, severity, len(names), tuple(names[:3]), cost, remedy)


def _floats(graph: GraphProto) -> Finding | None:
    return _finding(
        "float-tensor",
        ERROR,
        float_names(graph),
        "computes in float: results depend on the machine's order of sums and its math library",
        "export with mnq-export, which leaves none; in a QDQ model every operator between "
        "DequantizeLinear and QuantizeLinear is float",
    )


def _mixed_products(nodes: list[NodeProto], types: dict[str, int]) -> Finding | None:
    """Products of uint8 by int8 codes, also as a float product that a runtime fuses to one."""
    made = {output: node for node in nodes for output in node.output}

    def codes(name: str) -> int:
        node = made.get(name)
        fused = node is not None and node.op_type == "DequantizeLinear"
        return types.get(node.input[0] if fused and node else name, 0)

    names = []
    for node in nodes:
        places = _PRODUCTS.get(node.op_type, ())
        kinds = [codes(node.input[i]) for i in places if i < len(node.input)]
        if (
            kinds == [TensorProto.UINT8, TensorProto.INT8]
            or node.op_type == "DynamicQuantizeMatMul"
        ):
            names.append(_name(node))
    return _finding(
        "u8-times-s8",
        ERROR,
        names,
        "pairs of products saturate at 16 bits on CPUs without VNNI: other integers there",
        "multiply s8 by s8 (subtract 128 from the codes, add 128 times the column sums), or keep "
        "the weights within 7 bits (reduce_range)",
    )


def _signed_shifts(nodes: list[NodeProto], types: dict[str, int]) -> Finding | None:
    names = [
        _name(node)
        for node in nodes
        if node.op_type == "BitShift" and types.get(node.input[0], 0) in _SIGNED
    ]
    return _finding(
        "signed-shift",
        ERROR,
        names,
        "ONNX defines BitShift for unsigned types only: runtimes refuse it, or fill with zeros",
        f"multiply, or divide by a power of two as {_FLOOR}",
    )


def _truncating_divisions(
    nodes: list[NodeProto], types: dict[str, int], inputs: set[str]
) -> Finding | None:
    """Signed integer divisions of what may be negative, for all that can be seen."""
    made = {output: node for node in nodes for output in node.output}
    names = []
    for node in nodes:
        if node.op_type == "Div" and types.get(node.output[0], 0) in _SIGNED:
            exact = _is_exact(made.get(node.input[0]), made, node.input[1])
            if not exact and not _is_a_length(node.input[0], made, inputs):
                names.append(_name(node))
    return _finding(
        "truncating-division",
        WARNING,
        names,
        "integer Div rounds toward zero where a shift or floor rounds down: negative values come "
        "out one too large",
        f"write {_FLOOR}, or see to it that the dividend is never negative",
    )


def _is_exact(dividend: NodeProto | None, made: dict[str, NodeProto], divisor: str) -> bool:
    """Whether a dividend is x - Mod(x, divisor): then nothing is rounded."""
    if dividend is None or dividend.op_type != "Sub":
        return False
    rest = made.get(dividend.input[1])
    return bool(
        rest is not None
        and rest.op_type == "Mod"
        and list(rest.input) == [dividend.input[0], divisor]
    )


def _is_a_length(name: str, made: dict[str, NodeProto], inputs: set[str]) -> bool:
    """Whether a tensor is made of constants and the shapes of others, which are not negative."""
    names, seen, shapes = [name], set[str](), False
    while names:
        node = made.get(name := names.pop())
        if name in inputs:
            return False
        if node is None or name in seen or node.op_type == "Constant":
            continue
        seen.add(name)
        if node.op_type in ("Shape", "Size"):
            shapes = True
        elif len(seen) > _LONGEST:
            return False
        else:
            names += node.input
    return shapes


def _low_halves(nodes: list[NodeProto], types: dict[str, int]) -> Finding | None:
    names = [
        _name(node)
        for node in nodes
        if node.op_type in ("Max", "Min") and types.get(node.output[0], 0) in _WIDE
    ]
    return _finding(
        "int64-max-min",
        WARNING,
        names,
        "onnxruntime (CPU, 1.31.1 and before) compares the low halves of 64-bit values: "
        "Max(2^31, 1) is 1",
        "use Less and Where",
    )


def _without_kernel(model: ModelProto, kernels: frozenset[str] | None) -> Finding | None:
    ours = Counter(node.op_type for node in model.graph.node if node.domain == DOMAIN)
    names = [name for name in ours if kernels is None or name not in kernels]
    remedy = (
        "use the library of this version of mnq"
        if kernels is not None
        else ("build the native library; mnq-doctor says what is missing")
    )
    return _finding(
        "no-kernel",
        WARNING,
        names,
        "runs by the functions in the file: the same integers, many times slower",
        remedy,
    )


def _not_taken(
    model: ModelProto, nodes: list[NodeProto], types: dict[str, int], provider: str
) -> Finding | None:
    opsets = {entry.domain: entry.version for entry in model.opset_import}
    names = [_name(node) for node in Coverage(provider).missing(nodes, types, opsets)]
    wanted, cpu = PROVIDERS[provider], provider == "cpu"
    return _finding(
        "not-taken",
        ERROR if cpu else WARNING,
        names,
        f"{wanted} has no kernel for these element types: "
        + (
            "onnxruntime refuses the model"
            if cpu
            else "the nodes run on the CPU, with copies there and back, and no CUDA graph"
        ),
        "cast to types that it takes" + ("" if cpu else ", or run the model on the CPU"),
    )


def _name(node: NodeProto) -> str:
    return node.name or (node.output[0] if node.output else node.op_type)
