"""Engines: one model file each, opened in the runtime that the file was made for.

Each runtime has its strongest set-up: all graph optimizations, a fixed batch size, for OpenVINO
its own default precision. Importing this module imports no runtime.
"""

from __future__ import annotations

import functools
import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnq.ops.body import BATCH
from mnq.ops.errors import EnvironmentLack
from mnq.runtime.session import PROVIDERS, load_onnxruntime, open_session

SEED = 0
"""Of the random images."""


@dataclass(frozen=True)
class Engine:
    """A model file and what runs it.

    name: as tables show it; runtime: a key of RUNTIMES; path: the .onnx, or OpenVINO's .xml.
    """

    name: str
    runtime: str
    path: Path

    @property
    def file_bytes(self) -> int:
        """Size of the model: OpenVINO keeps the weights in a second file."""
        files = [self.path]
        if self.runtime == "openvino":
            files.append(self.path.with_suffix(".bin"))
        return sum(file.stat().st_size for file in files)


@dataclass(frozen=True)
class Opened:
    """A session with its input. precision: of the operators that are not integer, or None."""

    run: Callable[[], object]
    precision: str | None


def open_engine(engine: Engine, batch: int, threads: int) -> Opened:
    """Open a session with `threads` threads and feed it `batch` random images at each run.

    Raises EnvironmentLack if the runtime is missing, InputError if it refuses the model.
    """
    return RUNTIMES[engine.runtime](engine.path, batch, threads)


def images(shape: list[int | str | None], raw: bool) -> NDArray[Any]:
    """Random images: bytes where the model takes raw pixels, else normal floats."""
    rng = np.random.default_rng(SEED)
    size = [int(d) for d in shape if d is not None]
    if raw:
        return rng.integers(0, 256, size, dtype=np.uint8)
    return rng.standard_normal(size, dtype=np.float32)


def session_feed(session: Any, batch: int) -> dict[str, NDArray[Any]]:
    """What an onnxruntime session with one image input is fed."""
    (source,) = session.get_inputs()
    found = images([batch, *source.shape[1:]], raw=source.type == "tensor(uint8)")
    half = source.type == "tensor(float16)"
    return {source.name: found.astype(np.float16) if half else found}


def _open_mnq(path: Path, batch: int, threads: int, kernels: bool | None = None) -> Opened:
    """An exported model, on the native library where there is one."""
    session = open_session(path, threads=threads, kernels=kernels)
    feed = session_feed(session, batch)
    return Opened(lambda: session.run(None, feed), None)


def _open_onnxruntime(path: Path, batch: int, threads: int) -> Opened:
    ort = load_onnxruntime()
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    # With the batch known, onnxruntime computes all shapes beforehand.
    options.add_free_dimension_override_by_name(BATCH, batch)
    # By its path: from bytes, a session would hold the file's bytes too.
    session = ort.InferenceSession(str(path), options, providers=[PROVIDERS["cpu"]])
    feed = session_feed(session, batch)
    return Opened(lambda: session.run(None, feed), "f32")


def _open_openvino(path: Path, batch: int, threads: int) -> Opened:
    openvino = load_openvino()
    core = openvino.Core()
    model = core.read_model(path)
    (source,) = model.inputs
    shape = [batch, *(d.get_length() for d in list(source.partial_shape)[1:])]
    model.reshape({source.any_name: shape})
    settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": threads}
    compiled = core.compile_model(model, "CPU", settings)
    request = compiled.create_infer_request()
    feed = {0: openvino.Tensor(images(shape, raw=False))}
    precision = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
    return Opened(lambda: request.infer(feed, share_inputs=True), precision)


RUNTIMES: dict[str, Callable[[Path, int, int], Opened]] = {
    "mnq": _open_mnq,
    "bodies": functools.partial(_open_mnq, kernels=False),
    "onnxruntime": _open_onnxruntime,
    "openvino": _open_openvino,
}


def load_openvino() -> Any:
    """The openvino module. Raises EnvironmentLack if it is not installed."""
    if importlib.util.find_spec("openvino") is None:
        raise EnvironmentLack("openvino: expected it, found none; pip install 'mnq[bench]'")
    # It and NNCF report their use over the network if they can import this.
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino

    return openvino
