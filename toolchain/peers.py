"""Peers: the same float model in other runtimes' forms, to compare speed with.

Quantized as their own tools do it by default, on random images: their speed is right, their
accuracy unknown.
"""

from __future__ import annotations

import copy
import hashlib
import importlib.util
import json
import re
import tempfile
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from mnq.models.zoo import LoadedModel
from mnq.ops.errors import EnvironmentLack, InputError
from mnq.runtime import child
from mnq.runtime.engines import BATCH, Engine

CALIBRATION_IMAGES = 8
SEED = 0
"""Of the calibration images; random weights are drawn with it too."""

_OPSET = 17  # the first with LayerNormalization, the last that all of these tools take well


@dataclass(frozen=True)
class Peer:
    """A kind of peer. name: as tables show it; runtime: of mnq.runtime.engines; suffix: of the
    file; modules: what builds and runs it.
    """

    name: str
    runtime: str
    suffix: str
    modules: tuple[str, ...] = ("onnxruntime",)


FLOAT = "fp32"
PEERS = {
    FLOAT: Peer("onnxruntime fp32", "onnxruntime", ".onnx"),
    "qdq": Peer("onnxruntime QDQ int8", "onnxruntime", ".onnx"),
    "dynamic": Peer("onnxruntime dynamic int8", "onnxruntime", ".onnx"),
    "openvino": Peer("OpenVINO int8", "openvino", ".xml", ("openvino", "nncf")),
}


def missing(kind: str) -> str:
    """What a peer lacks on this machine, as an error message; "" if nothing."""
    lacking = [m for m in PEERS[kind].modules if importlib.util.find_spec(m) is None]
    if not lacking:
        return ""
    extra = "bench" if "openvino" in PEERS[kind].modules else "cpu"
    return (
        f"{PEERS[kind].name}: expected the module {lacking[0]}, found none; "
        f"pip install 'mnq[{extra}]', or choose others with --peers"
    )


def build(
    loaded: LoadedModel,
    kinds: Iterable[str],
    folder: Path,
    done: Callable[[int], None] = lambda count: None,
) -> list[Engine]:
    """The engines of these kinds (keys of PEERS); files that `folder` lacks are built first.

    A file is written whole or not at all, under a name that says from which weights and with
    which versions. `done` is called with 1 per kind. Raises EnvironmentLack if a tool is missing
    or fails, InputError if the folder cannot be written.
    """
    kinds = list(kinds)
    for kind in kinds:
        if reason := missing(kind):
            raise EnvironmentLack(reason)
    result = []
    try:
        folder.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".mnq-", dir=folder) as place:
            for kind in kinds:
                target = folder / _file_name(loaded, kind)
                if not target.exists():
                    _build(loaded, kind, folder, Path(place), target)
                result.append(Engine(PEERS[kind].name, PEERS[kind].runtime, target))
                done(1)
    except OSError as error:
        raise InputError(
            f"peers: expected a folder for the models, found {error.strerror}: {folder}; free "
            "space or choose another with --peers-dir"
        ) from error
    return result


def export_float(loaded: LoadedModel, path: Path) -> None:
    """Write the float model as .onnx: float32 images (batch, C, S, S), normalized, to logits."""
    net = copy.deepcopy(loaded.model)
    modules: list[Any] = list(net.modules())
    for module in modules:
        # timm's fused attention exports to more nodes, and to none that runtimes fuse.
        if hasattr(module, "fused_attn"):
            module.fused_attn = False
    p = loaded.preprocess
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter's age, of constants it traced
        torch.onnx.export(
            net,
            (torch.zeros(1, p.channels, p.size, p.size),),
            str(path),
            dynamo=False,  # of the other exporter's nodes onnxruntime fuses no GELU
            opset_version=_OPSET,
            input_names=["image"],
            output_names=["logits"],
            dynamic_axes={"image": {0: BATCH}, "logits": {0: BATCH}},
        )


def _build(loaded: LoadedModel, kind: str, folder: Path, place: Path, target: Path) -> None:
    """Build `target` in `place`, and move it when it is whole."""
    made = place / target.name
    if kind == FLOAT:
        export_float(loaded, made)
    else:
        source = folder / _file_name(loaded, FLOAT)
        if not source.exists():
            _build(loaded, FLOAT, folder, place, source)
        try:
            child.run("mnq.toolchain.quantize_peer", kind, source, made, CALIBRATION_IMAGES, SEED)
        except child.ChildFailed as error:
            raise EnvironmentLack(
                f"{PEERS[kind].name}: expected its tool to quantize {loaded.name}, found: {error}; "
                "choose others with --peers"
            ) from error
    if target.suffix == ".xml":  # its weights first: the .xml says that all is there
        made.with_suffix(".bin").replace(target.with_suffix(".bin"))
    made.replace(target)


def _file_name(loaded: LoadedModel, kind: str) -> str:
    """Another name for other weights, sizes or versions."""
    tools = ("torch", "timm", "onnxruntime", "onnxruntime-gpu", *PEERS[kind].modules)
    origin = [loaded.weights_digest, loaded.preprocess.size, _OPSET, CALIBRATION_IMAGES, SEED]
    key = json.dumps([origin, {tool: version(tool) for tool in tools}])
    digest = hashlib.sha256(key.encode()).hexdigest()[:12]
    stem = re.sub(r"[^A-Za-z0-9_.-]", "_", loaded.name)
    return f"{stem}-{digest}-{kind}{PEERS[kind].suffix}"


def version(name: str) -> str | None:
    """Installed version of a package."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
