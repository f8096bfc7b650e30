"""Reads the vectors of this folder, and makes ONNX models of them. Needs numpy and onnx only."""

from __future__ import annotations

import functools
import hashlib
import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import FunctionProto, ModelProto, helper, numpy_helper

Array = NDArray[Any]

HERE = Path(__file__).resolve().parent
FORMAT = "mnq-vectors/1"
FOLDERS = ("vectors", "onnx", "models")
TYPES = ("uint8", "int8", "int16", "int32", "int64")

DOMAIN, DOMAIN_VERSION = "mnq", 1
OPSET, IR_VERSION = 21, 10
OUTPUT = "y"


@dataclass(frozen=True)
class Vector:
    """What a runtime is given, and what it has to return.

    operator: of the domain mnq; "" if the vector is a whole model. row: the table's row.
    inputs: what is fed; constants: the operator's other inputs. Both are named as its page names
        them, and together in its order if inputs come first.
    to: element type of the output, None where the operator has no such attribute.
    expected: the integers, by output; a runtime returns a list in this order.
    make: builds `model`.
    """

    row: str
    name: str
    operator: str
    inputs: Mapping[str, Array]
    constants: Mapping[str, Array]
    to: str | None
    expected: Mapping[str, Array]
    make: Callable[[], ModelProto]

    @functools.cached_property
    def model(self) -> ModelProto:
        """The vector as an ONNX model: `inputs` are fed, `constants` are initializers."""
        return self.make()


def tensor(data: Mapping[str, Any]) -> Array:
    """An array of {"type", "shape", "data"}: the integers row by row, the last axis fastest."""
    if data["type"] not in TYPES or len(data["data"]) != math.prod(data["shape"]):
        raise ValueError(f"expected {data['shape']} integers of {TYPES}, found {data['type']}")
    wide = np.array(data["data"], np.int64)
    found = wide.astype(data["type"])
    if (found != wide).any():
        raise ValueError(f"expected integers of type {data['type']}, found larger ones")
    return found.reshape(data["shape"])


def element_type(name: str) -> int:
    """ONNX's number of an element type: what the attribute `to` holds in a node."""
    return int(helper.np_dtype_to_tensor_dtype(np.dtype(name)))


def one_node(
    operator: str,
    inputs: Mapping[str, Array],
    constants: Mapping[str, Array],
    to: str | None,
    output: Array,
    functions: Sequence[FunctionProto],
) -> ModelProto:
    """An ONNX model of one operator, all shapes fixed, with the functions that define it."""

    def info(name: str, array: Array) -> onnx.ValueInfoProto:
        kind = helper.np_dtype_to_tensor_dtype(array.dtype)
        return helper.make_tensor_value_info(name, kind, array.shape)

    attributes = {} if to is None else {"to": element_type(to)}
    names = [*inputs, *constants]
    node = helper.make_node(operator, names, [OUTPUT], domain=DOMAIN, **attributes)
    graph = helper.make_graph(
        [node],
        operator,
        [info(name, array) for name, array in inputs.items()],
        [info(OUTPUT, output)],
        [numpy_helper.from_array(array, name) for name, array in constants.items()],
    )
    imports = [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, DOMAIN_VERSION)]
    return helper.make_model(
        graph, functions=functions, opset_imports=imports, ir_version=IR_VERSION
    )


def every_tensor(model: ModelProto, tensors: Mapping[str, Array]) -> ModelProto:
    """A copy of a model whose outputs are these tensors of it."""
    copy = ModelProto()
    copy.CopyFrom(model)
    del copy.graph.output[:]
    for name, array in tensors.items():
        kind = helper.np_dtype_to_tensor_dtype(array.dtype)
        copy.graph.output.append(helper.make_tensor_value_info(name, kind, array.shape))
    return copy


def vectors(folder: Path = HERE) -> Iterator[Vector]:
    """Every vector: operators in the order of their names, then models."""
    for path in sorted((folder / "vectors").glob("*.json")):
        yield from _of_operator(path, onnx_folder(folder / "onnx", path.stem) / "model.onnx")
    for path in sorted((folder / "models").iterdir()):
        yield from _of_model(path)


def _read(path: Path) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if data.get("format") != FORMAT:
        raise ValueError(f"{path}: expected {FORMAT}, found {data.get('format')!r}")
    return data


def _of_operator(path: Path, model: Path) -> Iterator[Vector]:
    data = _read(path)
    operator = str(data["operator"])
    functions = functools.cache(lambda: onnx.load_model(model).functions)
    for entry in data["vectors"]:
        arrays = {name: tensor(value) for name, value in entry["inputs"].items()}
        fed = {name: arrays[name] for name in data["activations"]}
        constants = {name: arrays[name] for name in data["constants"]}
        output, to = tensor(entry["output"]), entry.get("to")

        def make(
            fed: Mapping[str, Array] = fed,
            constants: Mapping[str, Array] = constants,
            to: str | None = to,
            output: Array = output,
        ) -> ModelProto:
            return one_node(operator, fed, constants, to, output, functions())

        yield Vector(operator, entry["name"], operator, fed, constants, to, {OUTPUT: output}, make)


def _of_model(folder: Path) -> Iterator[Vector]:
    """Two vectors: the model as it is, and with every tensor as an output."""
    model = onnx.load_model(folder / "model.onnx")
    data = _read(folder / "tensors.json")
    fed = {name: tensor(value) for name, value in data["inputs"].items()}
    tensors = {name: tensor(value) for name, value in data["tensors"].items()}
    returned = {name: tensor(value) for name, value in data["outputs"].items()}
    row = f"model {data['model']}"
    yield Vector(row, "outputs", "", fed, {}, None, returned, lambda: model)
    every = functools.partial(every_tensor, model, tensors)
    yield Vector(row, "every tensor", "", fed, {}, None, tensors, every)


def onnx_folder(folder: Path, name: str) -> Path:
    """Where a vector is in a folder of ONNX test data, whose runners expect this prefix."""
    return folder / f"test_{name}"


def write_onnx(vector: Vector, folder: Path) -> None:
    """The vector in the layout of ONNX's own test data; data.json says that nothing may differ."""
    data = folder / "test_data_set_0"
    data.mkdir(parents=True, exist_ok=True)
    (folder / "model.onnx").write_bytes(vector.model.SerializeToString(deterministic=True))
    (folder / "data.json").write_text('{"rtol": 0, "atol": 0}\n')
    for kind, arrays in (("input", vector.inputs), ("output", vector.expected)):
        for index, (name, array) in enumerate(arrays.items()):
            message = numpy_helper.from_array(array, name)
            (data / f"{kind}_{index}.pb").write_bytes(message.SerializeToString())


def digest(folder: Path = HERE) -> str:
    """Names the integers: the first 16 digits of a SHA-256 over the files that hold them."""
    found = hashlib.sha256()
    for pattern in ("vectors/*.json", "models/*/tensors.json"):
        for path in sorted(folder.glob(pattern)):
            content = path.read_bytes()
            found.update(f"{path.relative_to(folder).as_posix()} {len(content)}\n".encode())
            found.update(content)
    return found.hexdigest()[:16]
