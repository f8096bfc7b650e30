"""A GPU that is the CPU: what tests put in the place of torch's and onnxruntime's CUDA."""

from __future__ import annotations

import contextlib
import time
from types import SimpleNamespace
from typing import Any

import pytest

from mnq.runtime import gpu, session


class Event:
    """Marks a moment of the host's clock."""

    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing

    def record(self, stream: object) -> None:
        assert stream is gpu.stream()
        self.moment = time.perf_counter()

    def synchronize(self) -> None:
        pass

    def elapsed_time(self, end: Event) -> float:
        return (end.moment - self.moment) * 1e3


def install(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sessions for GPUs run on the CPU's provider and kernels, torch's on the CPU."""
    import torch

    used = iter(range(0, 1 << 60, 1 << 20))
    replaced: dict[str, Any] = {
        "is_available": lambda: True,
        "Event": Event,
        "Stream": lambda: SimpleNamespace(cuda_stream=7),
        "stream": lambda _: contextlib.nullcontext(),
        "synchronize": lambda: None,
        "mem_get_info": lambda: (2**40 - next(used), 2**40),
        "get_device_name": lambda: "A GPU",
    }
    for name, value in replaced.items():
        monkeypatch.setattr(torch.cuda, name, value)
    monkeypatch.setattr(torch, "compile", lambda module, mode: module)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(gpu, "DEVICE", "cpu")
    monkeypatch.setattr(gpu, "_LARGE", 64)
    monkeypatch.setattr(gpu, "_COPIED", 1 << 16)
    monkeypatch.setattr(gpu, "provider_options", lambda graph: {})
    monkeypatch.setitem(gpu.PROVIDERS, "cuda", "CPUExecutionProvider")
    monkeypatch.setattr(session, "cuda_lacking", lambda library: "")
    gpu.stream.cache_clear()
