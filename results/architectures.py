"""Takes many architectures through capture, calibration, export and verification.

    python results/architectures.py [--model NAME]

Weights are random, and not near zero; methods differ from site to site, so that each is met. Every
tensor is compared: PyTorch's integers with those of the functions in the file, and with the
kernels'. Writes results/architectures.json after every model; one that is there is left alone.
"""

from __future__ import annotations

import gc
import itertools
import json
import time
from collections.abc import Callable
from dataclasses import replace
from importlib import metadata, util
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from numpy.typing import NDArray

from mnq.cli.common import Screen
from mnq.models.preprocess import Preprocess
from mnq.models.weights import digest
from mnq.models.zoo import LoadedModel, load
from mnq.ops.files import write_atomically
from mnq.ops.registry import METHODS
from mnq.runtime import verify
from mnq.runtime.machine import processor
from mnq.runtime.modelfile import ModelFile, parse
from mnq.runtime.session import infer, open_session
from mnq.toolchain.build import UnusableMethod
from mnq.toolchain.calibrate import Statistics, collect
from mnq.toolchain.export import export, graph_of, rebuild, reference
from mnq.toolchain.graph import Graph
from mnq.toolchain.map import Map

OUTPUT = Path(__file__).with_suffix(".json")
SEED = 0
CALIBRATION, IMAGES, REPEATS = 4, 2, 9
TIMM = (
    *("vit_tiny_patch16_224", "vit_small_patch16_224", "vit_base_patch16_224"),
    *("deit_t", "deit_s", "deit_b", "deit_tiny_distilled_patch16_224"),
    *("deit3_small_patch16_224", "swin_t", "swin_s", "swinv2_tiny_window8_256"),
    *("beit_base_patch16_224", "vit_small_patch14_reg4_dinov2", "vit_small_patch16_384"),
    *("swin_t:features", "micro_vit", "micro_swin"),
)
TORCHVISION = ("vit_b_16", "swin_t", "swin_v2_t")
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def _torchvision(name: str) -> LoadedModel:
    import torchvision

    size = 256 if "v2" in name else 224
    torch.manual_seed(SEED)
    return _wrapped(f"torchvision {name}", getattr(torchvision.models, name)(), size)


def _transformers() -> LoadedModel:
    from transformers import ViTConfig, ViTForImageClassification

    class Logits(torch.nn.Module):
        """The tensor instead of the object around it."""

        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(SEED)
            self.net = ViTForImageClassification(ViTConfig(attn_implementation="eager"))

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            """Logits of images."""
            logits: torch.Tensor = self.net(images).logits
            return logits

    return _wrapped("transformers ViTForImageClassification", Logits(), 224)


def _wrapped(name: str, net: torch.nn.Module, size: int) -> LoadedModel:
    preprocess = Preprocess(size, size, "bicubic", *IMAGENET, 3)
    return LoadedModel(name, None, net.eval(), preprocess, None, 0, digest(net))


def models() -> dict[str, Callable[[], LoadedModel]]:
    """What is tried, by name."""
    found: dict[str, Callable[[], LoadedModel]] = {}
    for name in TIMM:
        found[name] = lambda name=name: load(name, random=SEED)  # type: ignore[misc]
    for name in TORCHVISION:
        found[f"torchvision {name}"] = lambda name=name: _torchvision(name)  # type: ignore[misc]
    if util.find_spec("transformers"):
        found["transformers ViTForImageClassification"] = _transformers
    return found


def shake(net: torch.nn.Module) -> None:
    """Random weights that say something: no norm is 1, no bias or layer scale near 0."""
    draw = torch.Generator().manual_seed(SEED)
    with torch.no_grad():
        for parameter in net.parameters():
            spread = 0.2 if parameter.ndim == 1 else 0.02
            parameter.add_(torch.randn(parameter.shape, generator=draw) * spread)


def exported(
    loaded: LoadedModel, graph: Graph, statistics: Statistics
) -> tuple[ModelFile, dict[str, str]]:
    """The model with another method at every site, and these methods."""
    turns = {kind: itertools.cycle(names) for kind, names in METHODS.items()}
    methods = {site: next(turns[kind]) for site, kind in graph.sites().items()}
    while True:
        entries = {site: {"method": method} for site, method in methods.items()}
        try:
            mapping = Map(loaded.name, sites=entries)
            return parse(export(loaded, graph, statistics, mapping), loaded.name), methods
        except UnusableMethod as error:
            methods[error.site] = "ibert"  # works at every scale


def measure(loaded: LoadedModel) -> dict[str, Any]:
    """One row of the result file."""
    shake(loaded.model)
    loaded = replace(loaded, weights_digest=digest(loaded.model))
    p = loaded.preprocess
    rng = np.random.default_rng(SEED)
    pixels = rng.integers(0, 256, (CALIBRATION + IMAGES, p.channels, p.size, p.size), np.uint8)
    begun = time.perf_counter()
    graph = graph_of(loaded)
    captured = time.perf_counter()
    batches = torch.from_numpy(p.normalize(pixels[:CALIBRATION])).split(2)
    statistics = collect(graph, lambda: batches, {"source": "random"})
    model, methods = exported(loaded, graph, statistics)
    done = time.perf_counter()
    expected = _once(reference(rebuild(model, loaded)))
    report = verify.check_purity(model)
    for kernels in verify.forms():
        held_out = [pixels[CALIBRATION:]]
        report.runs.append(verify.compare(model, expected, held_out, kernels=kernels))
    names = [node.op_type for node in model.proto.graph.node]
    return {
        "size": p.size,
        "sites": {kind: [*graph.sites().values()].count(kind) for kind in METHODS},
        "methods": sorted(set(methods.values())),
        "windows": sum("Window" in name for name in names),
        "outputs": len(model.output_scales),
        "images": IMAGES,
        "tensors": report.runs[0].tensors,
        "differing_integers": [run.differing_integers for run in report.runs],
        "float_tensors": len(report.float_tensors),
        "float_bytes": sum(4 * tensor.numel() for tensor in loaded.model.parameters()),
        "file_bytes": model.proto.ByteSize(),
        "capture_s": round(captured - begun, 1),
        "export_s": round(done - captured, 1),
        "ms": _milliseconds(model, pixels[:1]),
    }


def _once(run: verify.Reference) -> verify.Reference:
    """A reference that computes its only batch once."""
    kept: list[Any] = []

    def reference(images: NDArray[Any]) -> Any:
        if not kept:
            kept.append(run(images))
        return kept[0]

    return reference


def _milliseconds(model: ModelFile, image: NDArray[np.uint8]) -> float:
    """Median time of an image with the kernels, one thread."""
    session = open_session(model.proto, threads=1, kernels=True)
    times = []
    for _ in range(REPEATS):
        begun = time.perf_counter()
        infer(session, image)
        times.append(time.perf_counter() - begun)
    return round(1e3 * float(np.median(times)), 1)


@click.command()
@click.option("--model", "chosen", multiple=True, help="These only, also if they are there.")
def main(chosen: tuple[str, ...]) -> None:
    """Measure and write results/architectures.json."""
    screen = Screen(as_json=False, quiet=False)
    result: dict[str, Any] = {"rows": {}}
    if OUTPUT.exists():
        result = json.loads(OUTPUT.read_text())
    packages = ("mnq", "torch", "timm", "torchvision", "transformers", "onnxruntime")
    result["versions"] = {n: metadata.version(n) for n in packages if util.find_spec(n)}
    result["machine"] = {"processor": processor()}
    for name, build in models().items():
        if name not in chosen if chosen else name in result["rows"]:
            continue
        screen.note(name)
        result["rows"][name] = row = measure(build())
        screen.note(f"  {row}")
        write_atomically(OUTPUT, (json.dumps(result, indent=1) + "\n").encode())
        gc.collect()


if __name__ == "__main__":
    main()
