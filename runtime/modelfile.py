"""Reads an exported .onnx: the model and what its metadata says. Files are not trusted."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import DecodeError, Message
from onnx import ModelProto, TensorProto

from mnq.models.preprocess import Preprocess
from mnq.ops.errors import InputError

FORMAT = "mnq-model/1"
INPUT_KINDS = ("uint8", "float")
MAX_BYTES = 2 << 30
MAX_METADATA_BYTES = 64 << 20


@dataclass(frozen=True)
class ModelFile:
    """An exported model.

    proto: the model; name: the float model's name; input_kind: "uint8" or "float".
    preprocess: from an image to the input; classes: class names or None.
    output_scales: value of one integer of every output.
    tensors: by tensor name the torch module, the non-linear site and the scale of one code.
    map, quantization, overflow, certificate, versions: JSON objects, see docs/architecture.md.
    """

    proto: ModelProto
    name: str
    input_kind: str
    preprocess: Preprocess
    classes: list[str] | None
    output_scales: tuple[float, ...]
    tensors: dict[str, dict[str, Any]]
    map: dict[str, Any]
    quantization: dict[str, Any]
    overflow: dict[str, Any]
    certificate: dict[str, Any]
    versions: dict[str, str]

    @property
    def output_scale(self) -> float:
        """Value of one integer of the last output: of a classifier, its logits."""
        return self.output_scales[-1]

    def module(self, tensor: str) -> str:
        """The torch module that a tensor comes from; "" if it is not known."""
        return str(self.tensors.get(tensor, {}).get("module", ""))


def read_proto(path: Path) -> ModelProto:
    """Parse any .onnx of at most 2 GB without following paths in it.

    Raises InputError if it is missing, too large, no ONNX, or keeps tensors in other files.
    """
    try:
        if path.exists() and not path.is_file():
            raise InputError(
                f"model: expected an .onnx file, found no regular file at {path}; check the path"
            )
        if path.stat().st_size > MAX_BYTES:
            raise InputError(f"model: expected at most 2 GB, found more in {path}; is it one?")
        model = onnx.load_model_from_string(path.read_bytes())
    except OSError as error:
        raise InputError(
            f"model: expected an .onnx file, found {error.strerror}: {path}; check the path"
        ) from error
    except DecodeError as error:
        raise InputError(
            f"model: expected an .onnx file, found something else in {path}; export it again"
        ) from error
    if not (model.graph.node and model.graph.input and model.graph.output):
        raise InputError(
            f"model: expected an .onnx graph, found an empty one in {path}; export again"
        )
    if any(tensor.data_location == TensorProto.EXTERNAL for tensor in _tensors(model)):
        raise InputError(
            f"model: expected weights inside the file, found references to other files in {path}; "
            "save it as one file"
        )
    return model


def _tensors(message: Message) -> Iterator[TensorProto]:
    """Every tensor inside a message: weights, constants of nodes, of functions, of branches."""
    if isinstance(message, TensorProto):
        yield message
        return
    for field, value in message.ListFields():
        if field.message_type is not None:
            for item in [value] if isinstance(value, Message) else value:
                yield from _tensors(item)


def metadata(model: ModelProto) -> dict[str, str]:
    """The `mnq.*` entries of a model's metadata. Of keys that are no text, protobuf gives bytes."""
    entries = [(p.key, p.value) for p in model.metadata_props if isinstance(p.key, str)]
    return {key: value for key, value in entries if key.startswith("mnq.")}


def read(path: Path) -> ModelFile:
    """Load a model exported by mnq. Raises InputError if it is not ours or its metadata is bad."""
    model = read_proto(path)
    return parse(model, str(path))


def _numbers(values: Any) -> list[float]:
    """A JSON list of numbers. Raises TypeError if it is none."""
    if not isinstance(values, list) or not all(type(value) in (int, float) for value in values):
        raise TypeError("scales that are no numbers")
    return [float(value) for value in values]


def parse(model: ModelProto, source: str) -> ModelFile:
    """The ModelFile of a proto; `source` names it in errors."""
    entries = metadata(model)
    if entries.get("mnq.format") != FORMAT:
        found = entries.get("mnq.format", "no mnq metadata")
        raise InputError(
            f"model: expected {FORMAT}, found {found!r} in {source}; export it with mnq-export"
        )
    if sum(len(value) for value in entries.values()) > MAX_METADATA_BYTES:
        raise InputError(
            f"model: expected metadata below 64 MB, found more in {source}; export again"
        )
    try:
        output = json.loads(entries["mnq.output"])
        classes = json.loads(entries["mnq.classes"])
        tensors = json.loads(entries["mnq.tensors"])
        output_scales = _numbers(output["scales"])
        objects = {
            key: json.loads(entries[f"mnq.{key}"])
            for key in ("map", "quantization", "overflow", "certificate", "versions")
        }
        kind, name = entries["mnq.input"], entries["mnq.model"]
        good = (
            kind in INPUT_KINDS
            and isinstance(name, str)  # protobuf gives bytes for text that is no UTF-8
            and len(output_scales) == len(model.graph.output)
            and all(0 < scale < math.inf for scale in output_scales)
            and all(isinstance(value, dict) for value in objects.values())
            and isinstance(tensors, dict)
            and all(isinstance(value, dict) for value in tensors.values())
            and (
                classes is None
                or (isinstance(classes, list) and all(isinstance(c, str) for c in classes))
            )
        )
        if not good:
            raise ValueError("a value of another kind")
        return ModelFile(
            proto=model,
            name=name,
            input_kind=kind,
            preprocess=Preprocess.from_json(entries["mnq.preprocess"]),
            classes=classes,
            output_scales=tuple(output_scales),
            tensors=tensors,
            **objects,
        )
    except (KeyError, TypeError, ValueError, OverflowError, RecursionError) as error:
        raise InputError(
            f"model: expected complete metadata, found {type(error).__name__} {error} in {source}; "
            "export it again"
        ) from error
