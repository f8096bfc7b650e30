"""Times a training step of DeiT-T, and its memory, beside plain float training.

    python results/qat_cost.py --data DIR

DIR holds deit_tiny_patch16_224.safetensors. Steps are taken in turns, so that a shared machine
treats all alike; memory is the peak of a process of its own. Writes results/qat_cost.json.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

import click
import torch
from torch.nn.functional import cross_entropy

from mnq.models.zoo import load
from mnq.ops.files import write_atomically
from mnq.ops.library import cpu_path, library_path
from mnq.runtime.machine import processor
from mnq.toolchain.calibrate import collect
from mnq.toolchain.edges import assign_edges
from mnq.toolchain.equalize import equalize
from mnq.toolchain.export import Settings, graph_of, input_of
from mnq.toolchain.map import uniform
from mnq.toolchain.qat import QuantizedModel
from mnq.toolchain.ranges import Ranges
from mnq.toolchain.train import Recipe, Trainer

OUTPUT = Path(__file__).parent / "qat_cost.json"
MODEL = "deit_t"
BATCH = 32
ROUNDS = 9
# Name: precision, whether the integers are trained, and whether kernels compute them.
VARIANTS = {
    "float": ("float32", False, False),
    "float, bfloat16": ("bfloat16", False, False),
    "QAT": ("float32", True, True),
    "QAT, bfloat16": ("bfloat16", True, True),
    "QAT, learned scales, bfloat16": ("bfloat16", True, True),
    "QAT without kernels": ("float32", True, False),
}


def step_of(name: str, data: Path) -> Callable[[], object]:
    """A training step on BATCH random images."""
    precision, trained, kernels = VARIANTS[name]
    loaded = load(MODEL, data / "deit_tiny_patch16_224.safetensors")
    torch.manual_seed(0)
    pixels = torch.randint(0, 256, (BATCH, 3, 224, 224), dtype=torch.uint8)
    labels = torch.randint(0, 1000, (BATCH,))
    settings = Settings()
    image = input_of(loaded, settings)
    if not trained:
        model = loaded.model.train()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-6)

        def step() -> object:
            optimizer.zero_grad()
            low = precision == "bfloat16"
            with torch.autocast("cpu", torch.bfloat16, enabled=low):
                logits = model(image.values(pixels))
            cross_entropy(logits.float(), labels).backward()
            return optimizer.step()

        return step
    graph = graph_of(loaded)
    found = collect(graph, lambda: [image.values(pixels[:8])], {})
    graph = equalize(graph, found.equalization)
    recipe = Recipe(precision=precision, ranges="learned" if "learned" in name else "ema")
    ranges = Ranges(found, assign_edges(graph), 8, learned=recipe.ranges == "learned")
    mapping = uniform(MODEL, "ivit")
    quantized = QuantizedModel(graph, mapping, ranges, image, precision=precision, kernels=kernels)
    trainer = Trainer(quantized, recipe, 100)
    targets = torch.nn.functional.one_hot(labels, 1000).float()
    return lambda: trainer.train_step(pixels, targets)


def products() -> dict[str, float]:
    """Milliseconds of one layer's exact product (fc1 of BATCH images) by each way torch has."""
    torch.manual_seed(0)
    a = torch.randint(-128, 128, (BATCH * 197, 192), dtype=torch.int8)
    b = torch.randint(-128, 128, (192, 768), dtype=torch.int8)
    ways: dict[str, Callable[[], torch.Tensor]] = {
        "int8 (torch._int_mm)": lambda: torch._int_mm(a, b),
        "float32": lambda: a.to(torch.float32) @ b.to(torch.float32),
        "float64": lambda: a.to(torch.float64) @ b.to(torch.float64),
    }
    expected = ways["float64"]().to(torch.int64)
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS + 1):
        for name, way in ways.items():
            begun = time.perf_counter()
            found = way()
            times[name].append(1000 * (time.perf_counter() - begun))
            assert torch.equal(found.to(torch.int64), expected), name
    return {name: statistics.median(values[1:]) for name, values in times.items()}


def memory_mb(key: str) -> float:
    """VmRSS, what this process has, or VmHWM, the most that it has had since the last reset."""
    status = Path("/proc/self/status").read_text()
    return int(status.split(f"{key}:")[1].split()[0]) / 1024


@click.command()
@click.option("--data", required=True, type=Path, help="Folder with the weights.")
@click.option("--memory", help="Print the memory that two steps of this variant add, and stop.")
def main(data: Path, memory: str | None) -> None:
    """Measure and write results/qat_cost.json."""
    if memory is not None:
        step = step_of(memory, data)
        before = memory_mb("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")  # resets VmHWM
        step()
        step()
        click.echo(json.dumps(memory_mb("VmHWM") - before))
        return
    steps = {name: step_of(name, data) for name in VARIANTS}
    seconds: dict[str, list[float]] = {name: [] for name in VARIANTS}
    for number in range(ROUNDS + 1):
        for name, step in steps.items():
            if number < 3 or VARIANTS[name][2] or not VARIANTS[name][1]:  # the slow one twice
                begun = time.perf_counter()
                step()
                if number:  # the first round warms up
                    seconds[name].append(time.perf_counter() - begun)
    rows: dict[str, Any] = {}
    for name, times in seconds.items():
        call = [sys.executable, __file__, "--data", str(data), "--memory", name]
        found = subprocess.run(call, stdout=subprocess.PIPE, text=True, check=True)
        ratios = [t / f for t, f in zip(times, seconds["float"], strict=False)]
        rows[name] = {
            "milliseconds_per_image": 1000 * statistics.median(times) / BATCH,
            "times_float": statistics.median(ratios),
            "megabytes": json.loads(found.stdout),
            "steps": len(times),
        }
        click.echo(f"{name}: {rows[name]}")
    library = library_path()
    result = {
        "model": MODEL,
        "batch": BATCH,
        "threads": torch.get_num_threads(),
        "kernels": None if library is None else cpu_path(library),
        "machine": {"processor": processor()},
        "versions": {n: metadata.version(n) for n in ("mnq", "torch", "timm")},
        "rows": rows,
        "products": products(),
    }
    write_atomically(OUTPUT, (json.dumps(result, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
