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
from mnq.runtime import certificate, contents, overflow
from mnq.runtime.modelfile import FORMAT, ModelFile
from mnq.toolchain import map as maps
from mnq.toolchain.build import assemble
from mnq.toolchain.calibrate import METHODS, Statistics, scales
from mnq.toolchain.capture import capture
from mnq.toolchain.checkpoint import Checkpoint
from mnq.toolchain.edges import assign_edges
from mnq.toolchain.equalize import equalize
from mnq.toolchain.fuse import fuse, fuse_views
from mnq.toolchain.graph import Graph
from mnq.toolchain.heads import find_parts, softmax_of, weight_of
from mnq.toolchain.image import ImageInput, image_input
from mnq.toolchain.lower import lower
from mnq.toolchain.map import Map
from mnq.toolchain.overflow import prove
from mnq.toolchain.prepare import prepare
from mnq.toolchain.program import Program
from mnq.toolchain.qat import with_weights
from mnq.toolchain.quantizers import RANGES
from mnq.toolchain.tensor_codes import Scales
from mnq.toolchain.widths import Widths, layout_of
from mnq.toolchain.widths import from_json as widths_from_json

_INNER = (weight_of, softmax_of)  # quantizers that are no tensor's
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


def input_of(loaded: LoadedModel, settings: Settings) -> ImageInput:
    """How images enter the integer model."""
    p = loaded.preprocess
    return image_input(settings.input_kind, p.mean, p.std, (p.channels, p.size, p.size))


def quantize(
    loaded: LoadedModel,
    graph: Graph,
    found: Scales,
    mapping: Map,
    settings: Settings,
    widths: Widths | None = None,
) -> Program:
    """The integer program for scales by quantizer; widths: the map's, if there are no others."""
    return fuse(_assembled(loaded, graph, found, mapping, settings, widths))


def quantize_sites(
    loaded: LoadedModel, graph: Graph, found: Scales, mapping: Map, settings: Settings
) -> Program:
    """`quantize` with a step for every site alone: what measures or swaps methods needs one."""
    return fuse_views(_assembled(loaded, graph, found, mapping, settings, None))


def _assembled(
    loaded: LoadedModel,
    graph: Graph,
    found: Scales,
    mapping: Map,
    settings: Settings,
    widths: Widths | None,
) -> Program:
    image = input_of(loaded, settings)
    choices, bits = mapping.resolve(graph.sites()), widths or mapping.widths()
    return assemble(graph, assign_edges(graph), found, bits, choices, image, settings.form)


def export(
    loaded: LoadedModel,
    graph: Graph,
    statistics: Statistics,
    mapping: Map,
    settings: Settings | None = None,
) -> ModelProto:
    """The certified ONNX model: integer program, preprocessing, provenance and certificate.

    Raises CheckFailed if an integer of the program may overflow.
    """
    settings = settings or Settings()
    graph = equalize(graph, statistics.equalization)
    edges = assign_edges(graph)
    found = scales(statistics, edges, mapping.activation_bits, settings.method, settings.form)
    origin = {
        "equalization": dict(sorted(statistics.equalization.items())),
        "weights": loaded.weights_digest,
        "calibration": dict(sorted(statistics.provenance.items())),
    }
    return _certified(loaded, graph, found, mapping, mapping.widths(), settings, origin)


def export_trained(loaded: LoadedModel, trained: Checkpoint) -> ModelProto:
    """The certified ONNX model of a checkpoint of QAT. `loaded` gives the architecture only.

    Raises InputError if the checkpoint is of another model.
    """
    graph, found, mapping, settings, widths = restored(loaded, trained)
    header = trained.header
    origin = {
        "weights": header["weights"],
        "calibration": dict(sorted(header["calibration"].items())),
        "checkpoint": trained.digest(),
        "recipe": header["recipe"],
        "step": header["progress"].get("step"),
    }
    return _certified(loaded, graph, found, mapping, widths, settings, origin)


def _certified(
    loaded: LoadedModel,
    graph: Graph,
    found: Scales,
    mapping: Map,
    widths: Widths,
    settings: Settings,
    origin: dict[str, Any],
) -> ModelProto:
    program = quantize(loaded, graph, found, mapping, settings, widths)
    quantization = {
        "scales": scales_json(dict(sorted(found.items()))),
        **({"widths": widths.to_json()} if widths.bits else {}),
        "method": settings.method,
        "form": settings.form,
        **origin,
    }
    entries = {
        "mnq.format": FORMAT,
        "mnq.model": loaded.name,
        "mnq.input": settings.input_kind,
        "mnq.preprocess": loaded.preprocess.to_json(),
        "mnq.classes": _json(loaded.classes),
        "mnq.output": _json({"scales": [*program.outputs.values()]}),
        "mnq.tensors": _json(_tensors(program)),
        "mnq.map": _json(mapping.to_json()),
        "mnq.quantization": _json(quantization),
        "mnq.overflow": _json(overflow.to_json(prove(program))),
        "mnq.versions": _json({name: _version(name) for name in _VERSIONS}),
    }
    model = lower(program, entries)
    certificate.attach(model, _certificate(program, contents.digests(model)))
    return model


def scales_json(found: Scales) -> dict[str, Any]:
    """Scales for a file: a number, or a list of one for each part."""
    return {name: np.asarray(scale, np.float64).tolist() for name, scale in found.items()}


def restored(
    loaded: LoadedModel, trained: Checkpoint
) -> tuple[Graph, Scales, Map, Settings, Widths]:
    """The trained graph and its scales. Raises InputError if they are not of this model."""
    header = trained.header
    if header["model"] != loaded.name:
        raise InputError(
            f"checkpoint: expected one of {loaded.name}, found one of {header['model']!r}; give "
            "the model that was trained"
        )
    graph = with_weights(graph_of(loaded), trained.weights())
    given = header["settings"]
    settings = Settings(*(str(given.get(key)) for key in ("method", "form", "input_kind")))
    mapping = maps.from_json(header["map"], loaded.name, "the checkpoint")
    widths = _widths(graph, header["widths"], mapping, "the checkpoint")
    head = "checkpoint: expected"
    found = _scales(header["scales"], graph, widths, head, "the checkpoint")
    return graph, found, mapping, settings, widths


def _widths(graph: Graph, data: dict[str, Any], mapping: Map, source: str) -> Widths:
    """The bits in JSON, or the map's where there are none. Raises InputError."""
    if not data:
        return mapping.widths()
    parts = find_parts(graph, layout_of(data, source))
    known = {*assign_edges(graph).kinds, *(f(node.name) for node in graph for f in _INNER)}
    return widths_from_json(data, parts, known, mapping.widths(), source)


def _scales(table: Any, graph: Graph, widths: Widths, head: str, source: str) -> Scales:
    """Scales of all quantizers from JSON. Raises InputError if they are not those."""
    wanted = {g: 0 for g, kind in assign_edges(graph).kinds.items() if kind != "logits"}
    if widths.bits:
        wanted |= {weight_of(node.name): 1 for node in graph if node.op == "linear"}
    wanted |= {name: 1 for name in wanted if widths.parts.count(name) > 1}
    result = {}
    if isinstance(table, dict) and set(table) == set(wanted):
        result = {
            name: _numbers(table[name], widths.parts.count(name) if listed else None)
            for name, listed in wanted.items()
        }
    if not result or any(scale is None for scale in result.values()):
        raise InputError(
            f"{head} a positive scale for every tensor in {source}, found something else; "
            "export or train the model again"
        )
    return {name: scale for name, scale in result.items() if scale is not None}


def _numbers(value: Any, count: int | None) -> NDArray[np.float32] | np.float32 | None:
    """A scale, or a list of `count`; None if it can be none."""
    given = value if isinstance(value, list) and count is not None else [value]
    good = all(isinstance(s, float) and 1e-37 < s < 3e38 for s in given)
    if not good or (count is not None and (not isinstance(value, list) or len(given) != count)):
        return None
    return np.float32(value) if count is None else np.array(given, np.float32)


def reference(program: Program) -> Callable[[NDArray[Any]], dict[str, NDArray[Any]]]:
    """The program as a function of numpy images, for runtime.verify.compare."""

    def run(images: NDArray[Any]) -> dict[str, NDArray[Any]]:
        with torch.no_grad():
            results = program.run(torch.from_numpy(images))
        return {name: value.contiguous().numpy() for name, value in results.items()}

    return run


def rebuild(model: ModelFile, loaded: LoadedModel, trained: Checkpoint | None = None) -> Program:
    """The PyTorch program that an exported model was made from, from the float weights.

    trained: the checkpoint, if it was made from one; `loaded` then gives the architecture only.
    Raises InputError if the weights, the checkpoint or the model are not those of the export.
    """
    stored = model.quantization
    if stored.get("checkpoint") != (trained and trained.digest()):
        other = "another one" if "checkpoint" in stored else "one, though it was made from none"
        raise InputError(
            f"verify: expected the checkpoint that {model.name} was exported from, found "
            f"{other if trained else 'none'}; "
            + ("pass it as --checkpoint" if "checkpoint" in stored else "pass --weights instead")
        )
    if trained is not None:
        return quantize(loaded, *restored(loaded, trained))
    if stored.get("weights") != loaded.weights_digest:
        raise InputError(
            f"verify: expected the weights that {model.name} was exported from, found others "
            "(their digests differ); pass the same --weights file"
        )
    exponents = stored.get("equalization")
    if not isinstance(exponents, dict):
        raise InputError("verify: expected equalization exponents, found none; export again")
    graph = equalize(graph_of(loaded), exponents)
    settings = Settings(stored.get("method", ""), stored.get("form", ""), model.input_kind)
    mapping = maps.from_json(model.map, loaded.name, "the model's metadata")
    widths = mapping.widths()
    found = _scales(stored.get("scales"), graph, widths, "verify: expected", "the metadata")
    return quantize(loaded, graph, found, mapping, settings, widths)


def _certificate(program: Program, file: dict[str, Any]) -> dict[str, Any]:
    source = certificate.images(program.image.kind, program.image.shape)
    return certificate.make(source, reference(program)(source), certificate.SEED, file)


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
