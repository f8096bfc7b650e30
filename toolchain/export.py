"""From a float model and calibration statistics to a certified ONNX model, and back again."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from importlib import metadata as packages
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import ModelProto

from mnq.models.zoo import LoadedModel
from mnq.ops.errors import InputError
from mnq.runtime import certificate
from mnq.runtime.modelfile import FORMAT, ModelFile
from mnq.toolchain import map as maps
from mnq.toolchain.build import build
from mnq.toolchain.calibrate import METHODS, Statistics, scales
from mnq.toolchain.capture import capture
from mnq.toolchain.edges import assign_edges
from mnq.toolchain.equalize import equalize
from mnq.toolchain.graph import Graph
from mnq.toolchain.image import image_input
from mnq.toolchain.lower import lower
from mnq.toolchain.map import Map
from mnq.toolchain.prepare import prepare
from mnq.toolchain.program import Program
from mnq.toolchain.quantizers import RANGES

_VERSIONS = ("mnq", "torch", "timm", "onnx", "onnx-graphsurgeon")


@dataclass(frozen=True)
class Settings:
    """How to quantize: calibration method (calibrate.METHODS), range form (quantizers.RANGES)
    and input kind ("uint8" or "float").
    """

    method: str = "mse"
    form: str = "ivit"
    input_kind: str = "uint8"

    def __post_init__(self) -> None:
        for value, allowed, name in (
            (self.method, METHODS, "calibration method"),
            (self.form, RANGES, "range form"),
        ):
            if value not in allowed:
                raise InputError(
                    f"{name}: expected {' or '.join(allowed)}, found {value!r}; choose one of these"
                )


def graph_of(loaded: LoadedModel) -> Graph:
    """The prepared graph of a loaded float model."""
    p = loaded.preprocess
    return prepare(capture(loaded.model, torch.zeros(2, p.channels, p.size, p.size)))


def quantize(
    loaded: LoadedModel,
    graph: Graph,
    found: dict[str, np.float32],
    mapping: Map,
    settings: Settings,
) -> Program:
    """The integer program for scales by quantizer group."""
    p = loaded.preprocess
    image = image_input(settings.input_kind, p.mean, p.std, (p.channels, p.size, p.size))
    choices = mapping.resolve(graph.sites())
    return build(graph, assign_edges(graph), found, mapping, choices, image, settings.form)


def export(
    loaded: LoadedModel,
    graph: Graph,
    statistics: Statistics,
    mapping: Map,
    settings: Settings | None = None,
) -> ModelProto:
    """The certified ONNX model: integer program, preprocessing, provenance and certificate."""
    settings = settings or Settings()
    graph = equalize(graph, statistics.equalization)
    found = scales(
        statistics,
        assign_edges(graph),
        mapping.activation_bits,
        settings.method,
        settings.form,
    )
    program = quantize(loaded, graph, found, mapping, settings)
    quantization = {
        "scales": {group: float(scale) for group, scale in sorted(found.items())},
        "equalization": dict(sorted(statistics.equalization.items())),
        "method": settings.method,
        "form": settings.form,
        "weights": loaded.weights_digest,
        "calibration": dict(sorted(statistics.provenance.items())),
    }
    entries = {
        "mnq.format": FORMAT,
        "mnq.model": loaded.name,
        "mnq.input": settings.input_kind,
        "mnq.preprocess": loaded.preprocess.to_json(),
        "mnq.classes": _json(loaded.classes),
        "mnq.output": _json({"scale": program.output_scale}),
        "mnq.tensors": _json(_tensors(program)),
        "mnq.map": _json(mapping.to_json()),
        "mnq.quantization": _json(quantization),
        "mnq.certificate": _json(_certificate(program)),
        "mnq.versions": _json({name: _version(name) for name in _VERSIONS}),
    }
    return lower(program, entries)


def reference(program: Program) -> Callable[[NDArray[Any]], dict[str, NDArray[Any]]]:
    """The program as a function of numpy images, for runtime.verify.compare."""

    def run(images: NDArray[Any]) -> dict[str, NDArray[Any]]:
        with torch.no_grad():
            results = program.run(torch.from_numpy(images))
        return {name: value.contiguous().numpy() for name, value in results.items()}

    return run


def rebuild(model: ModelFile, loaded: LoadedModel) -> Program:
    """The PyTorch program that an exported model was made from, from the float weights.

    Raises InputError if the weights or the model are not those of the export.
    """
    stored = model.quantization
    if stored.get("weights") != loaded.weights_digest:
        raise InputError(
            f"verify: expected the weights that {model.name} was exported from, found others "
            "(their digests differ); pass the same --weights file"
        )
    exponents = stored.get("equalization")
    if not isinstance(exponents, dict):
        raise InputError("verify: expected equalization exponents, found none; export again")
    graph = equalize(graph_of(loaded), exponents)
    kinds = assign_edges(graph).kinds
    table: Any = stored.get("scales")
    wanted = {group for group, kind in kinds.items() if kind != "logits"}
    good = isinstance(table, dict) and set(table) == wanted
    if not good or not all(isinstance(s, float) and 1e-37 < s < 3e38 for s in table.values()):
        raise InputError(
            "verify: expected a positive scale for every tensor in the metadata, found something "
            "else; export the model again"
        )
    found = {group: np.float32(scale) for group, scale in table.items()}
    settings = Settings(stored.get("method", ""), stored.get("form", ""), model.input_kind)
    mapping = maps.from_json(model.map, loaded.name, "the model's metadata")
    return quantize(loaded, graph, found, mapping, settings)


def _certificate(program: Program) -> dict[str, Any]:
    source = certificate.images(program.image.kind, program.image.shape)
    return certificate.make(source, reference(program)(source), certificate.SEED)


def _tensors(program: Program) -> dict[str, Any]:
    return {
        step.output: {"module": step.module, "site": step.site, "scale": step.scale}
        for step in program.steps
    }


def _json(value: Any) -> str:
    return json.dumps(value, sort_keys=False, separators=(",", ":"))


def _version(name: str) -> str:
    try:
        return packages.version(name)
    except packages.PackageNotFoundError:
        return "unknown"
