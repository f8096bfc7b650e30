"""Writes the vectors of conformance/ again: python tests/conformance/generate.py [FOLDER].

The integers are those of two definitions that have to agree: plain Python integers
(conformance_plain.py) and the operators themselves on torch tensors. An operator that the first
does not have yet has those of the second.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import ModelProto

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
for _folder in (ROOT / "conformance", HERE.parent / "ops", HERE):
    if str(_folder) not in sys.path:
        sys.path.append(str(_folder))

import kit  # noqa: E402
from conformance_cases import cases  # noqa: E402
from conformance_draw import Case  # noqa: E402
from conformance_models import Model, models  # noqa: E402
from conformance_plain import compute  # noqa: E402

from mnq.ops.registry import OPERATORS, with_calls  # noqa: E402

Array = NDArray[Any]

COMMAND = "python tests/conformance/generate.py"


def by_torch(case: Case) -> Array:
    """The output by the operator's definition, on torch tensors."""
    operator = OPERATORS[case.operator]
    tensors = [torch.from_numpy(np.array(case.inputs[name])) for name in operator.inputs]
    to = {} if case.to is None else {"to": kit.element_type(case.to)}
    found: torch.Tensor = operator(*tensors, **to)
    return found.numpy()


def vector_of(case: Case) -> kit.Vector:
    """The case with its integers, after both definitions, if there are two, were compared."""
    names, output = OPERATORS[case.operator].inputs, by_torch(case)
    plain = compute(case.operator, case.inputs)
    if plain is None:
        print(f"{case.operator}, {case.name!r}: by torch alone", file=sys.stderr)
    elif plain.shape != output.shape or (plain != output.astype(object)).any():
        raise AssertionError(f"{case.operator}, {case.name!r}: torch and plain integers differ")
    fed = {name: case.inputs[name] for name in names if name in case.activations}
    fixed = {name: case.inputs[name] for name in names if name in case.constants}

    def make() -> ModelProto:
        functions = [called.function for called in with_calls([case.operator])]
        return kit.one_node(case.operator, fed, fixed, case.to, output, functions)

    expected = {kit.OUTPUT: output}
    return kit.Vector(case.operator, case.name, case.operator, fed, fixed, case.to, expected, make)


def tensor_text(array: Array) -> str:
    data = array.reshape(-1).tolist()
    value = {"type": array.dtype.name, "shape": list(array.shape), "data": data}
    return json.dumps(value, separators=(",", ":"))


def tensors_text(arrays: Mapping[str, Array], indent: str) -> str:
    """A tensor per line."""
    return ",\n".join(f"{indent}{json.dumps(n)}: {tensor_text(x)}" for n, x in arrays.items())


def vector_text(vector: kit.Vector) -> str:
    to = f' "to": "{vector.to}",' if vector.to else ""
    inputs = tensors_text({**vector.inputs, **vector.constants}, "  ")
    output = tensor_text(vector.expected[kit.OUTPUT])
    return (
        f'{{"name": {json.dumps(vector.name)},{to} "inputs": {{\n{inputs}}},\n "output": {output}}}'
    )


def page(operator: str) -> str:
    """The SPEC.md that defines an operator, from the root."""
    pages = (ROOT / "ops").glob("*/SPEC.md")
    (found,) = [path for path in pages if f"`{operator}`" in path.read_text().split("\n\n")[1]]
    return found.relative_to(ROOT).as_posix()


def write_operator(operator: str, given: list[kit.Vector], folder: Path) -> None:
    """vectors/NAME.json, and the first vector as ONNX test data."""
    head = {
        "format": kit.FORMAT,
        "operator": operator,
        "page": page(operator),
        "activations": list(given[0].inputs),
        "constants": list(given[0].constants),
    }
    texts = ",\n".join(map(vector_text, given))
    text = f'{json.dumps(head)[:-1]}, "vectors": [\n{texts}\n]}}\n'
    (folder / "vectors" / f"{operator}.json").write_text(text)
    kit.write_onnx(given[0], kit.onnx_folder(folder / "onnx", operator))


def write_model(name: str, model: Model, folder: Path) -> None:
    """ONNX test data, and every tensor in tensors.json."""

    def make() -> ModelProto:
        return model.proto

    kit.write_onnx(kit.Vector(name, name, "", model.inputs, {}, None, model.outputs, make), folder)
    parts = {"inputs": model.inputs, "outputs": model.outputs, "tensors": model.tensors}
    body = ",\n".join(f' "{key}": {{\n{tensors_text(x, "  ")}}}' for key, x in parts.items())
    text = f'{{"format": "{kit.FORMAT}", "model": "{name}",\n{body}}}\n'
    (folder / "tensors.json").write_text(text)


def write(folder: Path) -> None:
    """Write vectors/, onnx/ and models/ in place of what was there, if all went well."""
    with tempfile.TemporaryDirectory() as temporary:
        made = Path(temporary)
        (made / "vectors").mkdir()
        for operator, given in cases().items():
            write_operator(operator, [vector_of(case) for case in given], made)
        for name, model in models():
            write_model(name, model, kit.onnx_folder(made / "models", name))
        for name in kit.FOLDERS:
            shutil.rmtree(folder / name, ignore_errors=True)
            shutil.copytree(made / name, folder / name)


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "conformance"
    write(target)
    print(f"{sum(1 for _ in kit.vectors(target))} vectors in {target}, digest {kit.digest(target)}")
