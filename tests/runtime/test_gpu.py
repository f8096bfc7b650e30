"""GPU: engines and their clock, with the CPU in the place of the GPU."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_gpu import install
from runtime_tiny import Tiny

from mnq.ops.errors import EnvironmentLack
from mnq.runtime import gpu
from mnq.runtime.compare import compare_on_gpu
from mnq.runtime.engines import Engine, images
from mnq.runtime.session import open_session

pytestmark = [pytest.mark.onnxruntime, pytest.mark.native]


@pytest.fixture
def on_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    install(monkeypatch)
    yield
    gpu.stream.cache_clear()


@pytest.fixture
def path(tiny: Tiny, tmp_path: Path) -> Path:
    path = tmp_path / "m.onnx"
    path.write_bytes(tiny.data)
    return path


def test_without_a_gpu_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(EnvironmentLack, match=r"^bench: expected a GPU that torch can use, found"):
        gpu.load_torch()
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(EnvironmentLack, match=r"^torch: expected it, found none; pip install"):
        gpu.load_torch()


def test_a_session_runs_on_images_that_stay(on_gpu: None, tiny: Tiny) -> None:
    session = open_session(tiny.copy(), batch=3)
    source, logits = gpu.bound(session, 3)()
    (wanted,) = session.run(None, {session.get_inputs()[0].name: source.numpy()})
    np.testing.assert_array_equal(logits.numpy(), wanted)
    np.testing.assert_array_equal(source.numpy(), images(source.shape(), raw=True))
    assert logits.shape() == [3, 5]


@pytest.mark.parametrize("graph", [True, False])
def test_everything_is_in_one_stream(monkeypatch: pytest.MonkeyPatch, graph: bool) -> None:
    monkeypatch.setattr(gpu, "stream", lambda: type("S", (), {"cuda_stream": 7}))
    wanted = {"user_compute_stream": "7", "enable_cuda_graph": "1" if graph else "0"}
    assert gpu.provider_options(graph) == wanted


def test_the_clock_counts_from_before_a_call_to_after_its_work(on_gpu: None) -> None:
    assert 20 <= gpu.milliseconds(lambda: time.sleep(0.02)) < 200


def test_ceilings_are_measured(on_gpu: None) -> None:
    found = gpu.ceilings()
    assert found.macs_per_second > 1e6
    assert found.bytes_per_second > 1e6


def test_our_engines_stand_side_by_side(on_gpu: None, path: Path) -> None:
    engines = [Engine(name, f"cuda {name}", path) for name in ("mnq", "mnq, launched")]
    ticks: list[int] = []
    found = compare_on_gpu(engines, 2, rounds=5, seconds=5, done=ticks.append)
    assert (found.provider, found.batch, found.rounds, sum(ticks)) == ("cuda", 2, 5, 5)
    assert [row.footprint.peak_bytes for row in found.rows] == [1 << 20, 1 << 20]
    assert all(row.figures.milliseconds.median > 0 for row in found.rows)
    assert found.rows[0].footprint.start_seconds > 0
    entry: dict[str, Any] = found.to_json()
    assert entry["provider"] == "cuda"
    assert entry["engines"][1]["peak_bytes_above_empty"] == 1 << 20


def test_half_precision_gets_half_images(on_gpu: None) -> None:
    class Source:
        name, type, shape = "image", "tensor(float16)", ("batch", 3, 4, 4)

    class Session:
        def get_inputs(self) -> list[type[Source]]:
            return [Source]

    (values,) = gpu.session_feed(Session(), 2).values()
    assert (values.dtype, values.shape) == (np.float16, (2, 3, 4, 4))
