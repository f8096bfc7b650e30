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
from mnq.ops.body import BATCH
from mnq.ops.errors import EnvironmentLack, InputError
from mnq.runtime import child
from mnq.runtime.engines import Engine

CALIBRATION_IMAGES = 8
SEED = 0
"""Of the calibration images; random weights are drawn with it too."""

_OPSET = 17  # the first with LayerNormalization, the last that all of these tools take well


@dataclass(frozen=True)
class Peer:
    """A kind of peer. name: as tables show it; runtime: of mnq.runtime.engines, or gpu; suffix: of
    the file; modules: what builds and runs it; of: the kind whose file it is, "" for its own.
    """

    name: str
    runtime: str
    suffix: str
    modules: tuple[str, ...] = ("onnxruntime",)
    of: str = ""


FLOAT = "fp32"
PEERS = {
    "cpu": {
        FLOAT: Peer("onnxruntime fp32", "onnxruntime", ".onnx"),
        "qdq": Peer("onnxruntime QDQ int8", "onnxruntime", ".onnx"),
        "dynamic": Peer("onnxruntime dynamic int8", "onnxruntime", ".onnx"),
        "openvino": Peer("OpenVINO int8", "openvino", ".xml", ("openvino", "nncf")),
    },
    "cuda": {
        FLOAT: Peer("onnxruntime fp32", "cuda onnxruntime fp32", ".onnx"),
        "fp16": Peer("onnxruntime fp16", "cuda onnxruntime fp16", ".onnx"),
        "fp16-launched": Peer(
            "onnxruntime fp16, no graph", "cuda onnxruntime fp16, launched", ".onnx", of="fp16"
        ),
        "torch": Peer("torch fp16", "cuda torch", ".pt2", ("torch",)),
        "compiled": Peer(
            "torch.compile fp16", "cuda torch compiled", ".pt2", ("torch", "triton"), of="torch"
        ),
    },
}
"""By provider, and by kind as --peers names them."""


def missing(kind: str, provider: str = "cpu") -> str:
    """What a peer lacks on this machine, as an error message; "" if nothing."""
    peer = PEERS[provider][kind]
    lacking = [m for m in peer.modules if importlib.util.find_spec(m) is None]
    if not lacking:
        return ""
    extra = {"openvino": "bench", "nncf": "bench", "onnxruntime": "cpu"}.get(lacking[0], "train")
    return (
        f"{peer.name}: expected the module {lacking[0]}, found none; "
        f"pip install 'mnq[{extra}]', or choose others with --peers"
    )


def build(
    loaded: LoadedModel,
    kinds: Iterable[str],
    folder: Path,
    done: Callable[[int], None] = lambda count: None,
    provider: str = "cpu",
) -> list[Engine]:
    """The engines of these kinds of a provider's PEERS; files that `folder` lacks are built first.

    A file is written whole or not at all, under a name that says from which weights and with
    which versions. `done` is called with 1 per kind. Raises EnvironmentLack if a tool is missing
    or fails, InputError if the folder cannot be written.
    """
    kinds = list(kinds)
    for kind in kinds:
        if reason := missing(kind, provider):
            raise EnvironmentLack(reason)
    result = []
    try:
        folder.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".mnq-", dir=folder) as place:
            for kind in kinds:
                peer = PEERS[provider][kind]
                target = folder / _file_name(loaded, peer.of or kind, peer)
                if not target.exists():
                    _build(loaded, peer.of or kind, peer, Path(place), target)
                result.append(Engine(peer.name, peer.runtime, target))
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


def export_half(loaded: LoadedModel, path: Path) -> None:
    """Write the float model as torch's exported program (.pt2): normalized float16 images
    (batch, C, S, S) to logits. Attention is torch's fused one.
    """
    p = loaded.preprocess
    images = torch.zeros(2, p.channels, p.size, p.size, dtype=torch.float16)
    net = copy.deepcopy(loaded.model).half().eval()
    batch = torch.export.Dim(BATCH, min=1)
    torch.export.save(torch.export.export(net, (images,), dynamic_shapes=({0: batch},)), path)


def _build(loaded: LoadedModel, kind: str, peer: Peer, place: Path, target: Path) -> None:
    """Build `target` in `place`, and move it when it is whole."""
    made = place / target.name
    if kind == FLOAT:
        export_float(loaded, made)
    elif peer.suffix == ".pt2":
        export_half(loaded, made)
    else:
        plain = PEERS["cpu"][FLOAT]
        source = target.parent / _file_name(loaded, FLOAT, plain)
        if not source.exists():
            _build(loaded, FLOAT, plain, place, source)
        try:
            child.run("mnq.toolchain.quantize_peer", kind, source, made, CALIBRATION_IMAGES, SEED)
        except child.ChildFailed as error:
            raise EnvironmentLack(
                f"{peer.name}: expected its tool to convert {loaded.name}, found: {error}; "
                "choose others with --peers"
            ) from error
    if target.suffix == ".xml":  # its weights first: the .xml says that all is there
        made.with_suffix(".bin").replace(target.with_suffix(".bin"))
    made.replace(target)


def _file_name(loaded: LoadedModel, kind: str, peer: Peer) -> str:
    """Another name for other weights, sizes or versions."""
    tools = ("torch", "timm", "onnxruntime", "onnxruntime-gpu", *peer.modules)
    origin = [loaded.weights_digest, loaded.preprocess.size, _OPSET, CALIBRATION_IMAGES, SEED]
    key = json.dumps([origin, {tool: version(tool) for tool in tools}])
    digest = hashlib.sha256(key.encode()).hexdigest()[:12]
    stem = re.sub(r"[^A-Za-z0-9_.-]", "_", loaded.name)
    return f"{stem}-{digest}-{kind}{peer.suffix}"


def version(name: str) -> str | None:
    """Installed version of a package."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
