"""Contents: digests of everything in a file that decides integers, and what has changed in it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from onnx import FunctionProto, ModelProto, NodeProto, numpy_helper

from mnq.runtime import certificate
from mnq.runtime.modelfile import ModelFile, metadata

_COMMENTS = ("name", "doc_string", "metadata_props")  # of a node: they decide no integer
_OTHER = {
    "constant": "other values than certified",
    "node": "another operator, inputs or attributes than certified",
    "function": "another body than certified",
    "metadata": "another text than certified",
}


@dataclass(frozen=True)
class Change:
    """Something in the file that is not as certified.

    kind: "constant", "node", "function", "graph" or "metadata"; name: of the constant, the
    node's first output, the function or the key; nodes: first outputs of the nodes that it
    reaches; found: what is wrong with it.
    """

    kind: str
    name: str
    nodes: tuple[str, ...]
    found: str

    def __str__(self) -> str:
        text = f"{self.kind} {self.name!r}" if self.name else self.kind
        if self.kind in ("constant", "function") and self.nodes:
            more = f" and {len(self.nodes) - 1} more" if len(self.nodes) > 1 else ""
            text += f" of node {self.nodes[0]!r}{more}"
        return f"{text}: {self.found}"


def digests(model: ModelProto) -> dict[str, Any]:
    """The part of a certificate that says what the file holds.

    constants: names by the SHA-256 of dtype, shape and values, as many scalars are equal; nodes:
    by first output; functions: by name, with a hint for each node; graph: inputs, outputs and
    the imported operator sets; metadata: every `mnq.*` entry but the certificate.
    """
    constants: dict[str, list[str]] = {}
    for name, value in _constants(model):
        constants.setdefault(value, []).append(name)
    return {
        "constants": constants,
        "nodes": dict(_nodes(model)),
        "functions": {
            _text(function.name): {
                "digest": _of_function(function),
                "nodes": "".join(_hints(function)),
            }
            for function in model.functions
        },
        "graph": _of_interface(model),
        "metadata": dict(_metadata(model)),
    }


def changes(model: ModelFile) -> list[Change]:
    """What in the file is not as its certificate says, constants first; [] if nothing.

    Raises InputError if the certificate is malformed, CheckFailed if it is damaged.
    """
    certified, proto = model.certificate, model.proto
    certificate.check_format(certified)
    wanted = {name: value for value, names in certified["constants"].items() for name in names}
    readers: dict[str, list[str]] = {}
    for node in proto.graph.node:
        for name in {_text(name) for name in node.input}:
            readers.setdefault(name, []).append(_title(node))
    result = []
    for name, found in _compared("constant", wanted, _constants(proto)):
        result.append(Change("constant", name, tuple(readers.get(name, ())), found))
    for name, found in _compared("node", certified["nodes"], _nodes(proto)):
        result.append(Change("node", name, (name,), found))
    result += _changed_functions(proto, certified["functions"])
    if _of_interface(proto) != certified["graph"]:
        outputs = tuple(_text(value.name) for value in proto.graph.output)
        found = "other inputs, outputs or operator sets than certified"
        result.append(Change("graph", "", outputs, found))
    for name, found in _compared("metadata", certified["metadata"], _metadata(proto)):
        result.append(Change("metadata", name, (), found))
    return result


def _compared(
    kind: str, wanted: Mapping[str, str], items: Iterable[tuple[str, str]]
) -> Iterator[tuple[str, str]]:
    """Names of items that are not as wanted, in the order of the file, and what is wrong."""
    seen = set()
    for name, value in items:
        if name in seen:
            yield name, "there more than once"
        elif name not in wanted:
            yield name, "not certified"
        elif value != wanted[name]:
            yield name, _OTHER[kind]
        seen.add(name)
    for name in wanted:
        if name not in seen:
            yield name, "missing"


def _changed_functions(proto: ModelProto, wanted: Mapping[str, Any]) -> Iterator[Change]:
    bodies = {name: body["digest"] for name, body in wanted.items()}
    items = [(_text(function.name), _of_function(function)) for function in proto.functions]
    for name, found in _compared("function", bodies, items):
        where = ""
        if found == _OTHER["function"]:
            (function,) = [f for f in proto.functions if _text(f.name) == name]
            where = _inside(function, wanted[name]["nodes"])
        yield Change("function", name, _callers(proto, name), found + where)


def _inside(function: FunctionProto, hints: str) -> str:
    """Where in a function the first other node is."""
    size = certificate.HINT
    wanted = [hints[start : start + size] for start in range(0, len(hints), size)]
    found = _hints(function)
    if len(found) != len(wanted):
        return f", {len(found)} nodes in place of {len(wanted)}"
    for number, (left, right) in enumerate(zip(found, wanted, strict=True)):
        if left != right:
            node = function.node[number]
            return f", at node {number} ({_text(node.op_type)} {_title(node)!r})"
    return ", at its inputs, outputs or attributes"


def _callers(proto: ModelProto, name: str) -> tuple[str, ...]:
    """First outputs of the graph's nodes that call a function, through others or directly."""
    callers: dict[str, set[str]] = {}
    for function in proto.functions:
        for node in function.node:
            callers.setdefault(_text(node.op_type), set()).add(_text(function.name))
    reached, waiting = {name}, [name]
    while waiting:
        new = callers.get(waiting.pop(), set()) - reached
        reached |= new
        waiting += new
    return tuple(_title(node) for node in proto.graph.node if _text(node.op_type) in reached)


def _constants(model: ModelProto) -> Iterator[tuple[str, str]]:
    for tensor in model.graph.initializer:
        try:
            value = certificate.digest(numpy_helper.to_array(tensor))
        except Exception:  # a hostile tensor; whatever it is, it was not certified
            value = "unreadable"
        yield _text(tensor.name), value
    for sparse in model.graph.sparse_initializer:
        yield _text(sparse.values.name), "sparse"


def _nodes(model: ModelProto) -> Iterator[tuple[str, str]]:
    return ((_title(node), _of_node(node)) for node in model.graph.node)


def _metadata(model: ModelProto) -> Iterator[tuple[str, str]]:
    for key, value in metadata(model).items():
        if key != certificate.KEY:
            yield key, hashlib.sha256(_bytes(value)).hexdigest()


def _of_node(node: NodeProto) -> str:
    bare = NodeProto()
    bare.CopyFrom(node)
    for field in _COMMENTS:
        if field in bare.DESCRIPTOR.fields_by_name:
            bare.ClearField(field)
    bare.attribute.sort(key=lambda attribute: _bytes(attribute.name))
    return _of_parts([bare.SerializeToString(deterministic=True)])


def _of_function(function: FunctionProto) -> str:
    names = (function.input, function.output, function.attribute)
    parts = [_bytes(function.domain), _bytes(function.name)]
    parts += [_of_parts(map(_bytes, part)).encode() for part in names]
    parts += [p.SerializeToString(deterministic=True) for p in function.attribute_proto]
    parts += sorted(p.SerializeToString(deterministic=True) for p in function.opset_import)
    return _of_parts([*parts, *(_of_node(node).encode() for node in function.node)])


def _hints(function: FunctionProto) -> list[str]:
    return [_of_node(node)[: certificate.HINT] for node in function.node]


def _of_interface(model: ModelProto) -> str:
    parts = [str(model.ir_version).encode()]
    parts += sorted(p.SerializeToString(deterministic=True) for p in model.opset_import)
    for values in (model.graph.input, model.graph.output):
        texts = [value.SerializeToString(deterministic=True) for value in values]
        parts.append(_of_parts(texts).encode())
    return _of_parts(parts)


def _of_parts(parts: Iterable[bytes]) -> str:
    """SHA-256 of a list of texts: of their lengths and bytes, so that no two lists are one."""
    hashed = hashlib.sha256()
    for part in parts:
        hashed.update(f"{len(part)} ".encode() + part)
    return hashed.hexdigest()


def _title(node: NodeProto) -> str:
    return _text(node.output[0]) if node.output else ""


def _text(name: str | bytes) -> str:
    """A name; protobuf gives bytes for text that is no UTF-8."""
    return name if isinstance(name, str) else name.decode(errors="replace")


def _bytes(name: str | bytes) -> bytes:
    return name if isinstance(name, bytes) else name.encode()
