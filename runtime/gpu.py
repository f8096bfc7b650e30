"""GPU: engines on a CUDA device, all in one stream of torch's, whose events time them."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from mnq.ops.body import BATCH
from mnq.ops.errors import EnvironmentLack
from mnq.runtime.engines import Engine, Opened, session_feed
from mnq.runtime.roofline import Ceilings
from mnq.runtime.session import PROVIDERS, load_onnxruntime, open_session

DEVICE = "cuda"
"""As torch and onnxruntime name it."""

WARM_UPS = 4
"""Runs before the first that counts: onnxruntime records a CUDA graph in one of them."""

_TYPES = {"tensor(int32)": np.int32, "tensor(float)": np.float32, "tensor(float16)": np.float16}
_LARGE = 8192  # of a matrix that fills any GPU
_COPIED = 1 << 30  # bytes, more than any cache
_REPEATS = 10


def load_torch() -> Any:
    """The torch module, on a machine with a GPU. Raises EnvironmentLack without either."""
    if importlib.util.find_spec("torch") is None:
        raise EnvironmentLack("torch: expected it, found none; pip install 'mnq[train]'")
    import torch

    if not torch.cuda.is_available():
        raise EnvironmentLack(
            "bench: expected a GPU that torch can use, found none; run mnq-doctor, or leave out "
            "--provider cuda"
        )
    return torch


@functools.cache
def stream() -> Any:
    """The stream that everything runs in: graphs cannot be recorded in the default one."""
    return load_torch().cuda.Stream()


def milliseconds(call: Callable[[], object]) -> float:
    """The time on the GPU from before a call to after all work that it has started."""
    event = load_torch().cuda.Event
    begin, end = event(enable_timing=True), event(enable_timing=True)
    begin.record(stream())
    call()
    end.record(stream())
    end.synchronize()
    return float(begin.elapsed_time(end))


def used_bytes() -> int:
    """Memory of the GPU that is taken, by anyone."""
    torch = load_torch()
    torch.cuda.synchronize()
    free, whole = torch.cuda.mem_get_info()
    return int(whole - free)


def describe() -> dict[str, str]:
    """The GPU's name, and the version of CUDA that torch was built for."""
    torch = load_torch()
    return {"gpu": torch.cuda.get_device_name(), "cuda": torch.version.cuda}


def ceilings() -> Ceilings:
    """What this GPU reaches: a product of large int8 matrices, and a copy from memory to memory."""
    torch = load_torch()
    a = torch.randint(-128, 128, (_LARGE, _LARGE), dtype=torch.int8, device=DEVICE)
    b = torch.randint(-128, 128, (_LARGE, _LARGE), dtype=torch.int8, device=DEVICE).t()
    source = torch.zeros(_COPIED, dtype=torch.int8, device=DEVICE)
    target = torch.empty_like(source)
    with torch.cuda.stream(stream()):
        multiply = _best(lambda: torch._int_mm(a, b))
        copy = _best(lambda: target.copy_(source))
    return Ceilings(_LARGE**3 / multiply * 1e3, 2 * _COPIED / copy * 1e3)


def _best(call: Callable[[], object]) -> float:
    """Milliseconds of a call at its fastest."""
    call()
    return min(milliseconds(call) for _ in range(_REPEATS))


def provider_options(graph: bool) -> dict[str, str]:
    """Options of onnxruntime's CUDA provider: our stream, and whether to record a CUDA graph."""
    return {
        "user_compute_stream": str(stream().cuda_stream),
        "enable_cuda_graph": str(int(graph)),
    }


def bound(session: Any, batch: int) -> Callable[[], list[Any]]:
    """A call that runs a session on images that stay on the GPU, does not wait for it, and returns
    where its inputs and outputs are.
    """
    ort = load_onnxruntime()
    binding = session.io_binding()
    kept = []
    for key, values in session_feed(session, batch).items():
        kept.append(ort.OrtValue.ortvalue_from_numpy(values, DEVICE, 0))
        binding.bind_ortvalue_input(key, kept[-1])
    for output in session.get_outputs():
        shape, dtype = [batch, *output.shape[1:]], _TYPES[output.type]
        kept.append(ort.OrtValue.ortvalue_from_shape_and_type(shape, dtype, DEVICE, 0))
        binding.bind_ortvalue_output(output.name, kept[-1])
    options = ort.RunOptions()
    options.add_run_config_entry("disable_synchronize_execution_providers", "1")

    def run() -> list[Any]:
        session.run_with_iobinding(binding, options)
        return kept

    return run


def open_engine(engine: Engine, batch: int) -> Opened:
    """Open an engine whose runtime is a key of RUNTIMES; its runs start work, and wait for none.

    Raises EnvironmentLack if the runtime is missing, InputError if it refuses the model.
    """
    return RUNTIMES[engine.runtime](engine.path, batch)


def _open_mnq(path: Path, batch: int, graph: bool = True) -> Opened:
    session = open_session(
        path, provider="cuda", kernels=True, batch=batch, options=provider_options(graph)
    )
    return Opened(bound(session, batch), None)


def _open_onnxruntime(
    path: Path, batch: int, precision: str = "tf32", graph: bool = True
) -> Opened:
    ort = load_onnxruntime()
    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.add_free_dimension_override_by_name(BATCH, batch)
    providers = [(PROVIDERS["cuda"], provider_options(graph))]
    session = ort.InferenceSession(str(path), options, providers=providers)
    return Opened(bound(session, batch), precision)


def _open_torch(path: Path, batch: int, compiled: bool = False) -> Opened:
    """An exported program of half precision."""
    torch = load_torch()
    from torch.export.passes import move_to_device_pass

    program = torch.export.load(path)
    module = move_to_device_pass(program, DEVICE).module()
    if compiled:
        module = torch.compile(module, mode="max-autotune")
    (shape,) = (p.meta["val"].shape for p in program.graph.find_nodes(op="placeholder")[-1:])
    images = torch.randn([batch, *shape[1:]], dtype=torch.float16, device=DEVICE)

    def run() -> Any:
        with torch.inference_mode(), torch.cuda.stream(stream()):
            return module(images)

    return Opened(run, "f16")


RUNTIMES: dict[str, Callable[[Path, int], Opened]] = {
    "cuda mnq": _open_mnq,
    "cuda mnq, launched": functools.partial(_open_mnq, graph=False),
    "cuda onnxruntime fp32": _open_onnxruntime,
    "cuda onnxruntime fp16": functools.partial(_open_onnxruntime, precision="f16"),
    "cuda onnxruntime fp16, launched": functools.partial(
        _open_onnxruntime, precision="f16", graph=False
    ),
    "cuda torch": _open_torch,
    "cuda torch compiled": functools.partial(_open_torch, compiled=True),
}
"""By the name of an engine's runtime. Each kernel of a "launched" one is launched by itself; the
others replay a CUDA graph.
"""
