"""A transformer small enough to export in a second, and the ways in which tests spoil it."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper
from timm.models.vision_transformer import VisionTransformer

from mnq.models import weights
from mnq.models.preprocess import Preprocess
from mnq.models.zoo import LoadedModel
from mnq.runtime import certificate
from mnq.runtime.modelfile import ModelFile, metadata, parse
from mnq.toolchain import export
from mnq.toolchain.calibrate import collect
from mnq.toolchain.map import uniform

SIZE = 16
CLASSES = ["ant", "bee", "cat", "dog", "emu"]


@dataclass(frozen=True)
class Tiny:
    """An exported model as bytes, its PyTorch reference, and random images for it."""

    data: bytes
    reference: Callable[[NDArray[Any]], dict[str, NDArray[Any]]]
    images: NDArray[Any]

    def copy(self) -> ModelProto:
        model = ModelProto()
        model.ParseFromString(self.data)
        return model


def load_tiny() -> LoadedModel:
    """The float model, with the same weights each time."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        net = VisionTransformer(
            img_size=SIZE, patch_size=8, embed_dim=16, depth=1, num_heads=2, num_classes=5
        ).eval()
    preprocess = Preprocess(SIZE, SIZE, "bicubic", (0.5,) * 3, (0.5,) * 3, 3)
    digest = weights.digest(net)
    return LoadedModel("tiny", None, net, preprocess, CLASSES, len(CLASSES), digest)


def export_tiny(input_kind: str) -> Tiny:
    loaded = load_tiny()
    normalized = torch.randn(8, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(3))
    graph = export.graph_of(loaded)
    origin = {"source": "random", "weights": loaded.weights_digest}
    statistics = collect(graph, lambda: [normalized], origin)
    settings = export.Settings(input_kind=input_kind)
    proto = export.export(loaded, graph, statistics, uniform("tiny", "lut"), settings)
    program = export.rebuild(parse(proto, "tiny.onnx"), loaded)
    pixels = np.random.default_rng(4).integers(0, 256, (5, 3, SIZE, SIZE), dtype=np.uint8)
    images = pixels if input_kind == "uint8" else loaded.preprocess.normalize(pixels)
    return Tiny(proto.SerializeToString(), export.reference(program), images)


def initializer(proto: ModelProto, name: str) -> TensorProto:
    (tensor,) = [tensor for tensor in proto.graph.initializer if tensor.name == name]
    return tensor


def flip_bit(proto: ModelProto, name: str, index: int, bit: int) -> None:
    """Flip one bit of one element (flat index) of an initializer."""
    tensor = initializer(proto, name)
    values = numpy_helper.to_array(tensor).copy()
    values.flat[index] ^= values.dtype.type(1 << bit)
    tensor.CopyFrom(numpy_helper.from_array(values, name))


def set_metadata(proto: ModelProto, key: str, value: str | None) -> None:
    """Replace a metadata entry; None removes it."""
    entries = {**metadata(proto), key: value}
    helper.set_model_props(proto, {k: v for k, v in entries.items() if v is not None})


def edit_json(proto: ModelProto, key: str, **changes: Any) -> None:
    """Change keys of a metadata entry that holds a JSON object."""
    set_metadata(proto, key, json.dumps({**json.loads(metadata(proto)[key]), **changes}))


def add_node(
    proto: ModelProto,
    kind: str,
    inputs: list[str],
    output: str,
    domain: str = "",
    **attributes: Any,
) -> NodeProto:
    """Put a node in front of the others."""
    node = helper.make_node(kind, inputs, [output], domain=domain, **attributes)
    proto.graph.node.insert(0, node)
    return node


def recertified(model: ModelFile, **changes: Any) -> ModelFile:
    """The model with other entries in its certificate, which is whole all the same."""
    return replace(model, certificate=certificate.seal({**model.certificate, **changes}))
