"""Engines: what they are fed, with how many threads they run, and how large their files are."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from runtime_tiny import SIZE, Tiny

from mnq.ops.body import BATCH, IR_VERSION, OPSET
from mnq.ops.errors import EnvironmentLack
from mnq.runtime import engines
from mnq.runtime.engines import Engine, images, open_engine

pytestmark = pytest.mark.onnxruntime


@pytest.fixture
def float_onnx(tmp_path: Path) -> Path:
    """A float model with a free batch size: twice the image."""
    x, y = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [BATCH, 3, 4, 4]) for name in "xy"
    )
    graph = helper.make_graph([helper.make_node("Add", ["x", "x"], ["y"])], "g", [x], [y])
    path = tmp_path / "m.onnx"
    opsets = [helper.make_opsetid("", OPSET)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=IR_VERSION), path)
    return path


def test_an_exported_model_gets_a_batch_of_bytes(tiny: Tiny, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(tiny.data)
    opened = open_engine(Engine("mnq", "mnq", path), 3, 1)
    (logits,) = opened.run()  # type: ignore[misc]
    assert logits.shape == (3, 5)
    assert logits.dtype == np.int32
    assert opened.precision is None


def test_a_float_model_gets_a_batch_of_floats(float_onnx: Path) -> None:
    opened = open_engine(Engine("peer", "onnxruntime", float_onnx), 2, 1)
    (doubled,) = opened.run()  # type: ignore[misc]
    np.testing.assert_array_equal(doubled, 2 * images([2, 3, 4, 4], raw=False))
    assert opened.precision == "f32"


def test_images_are_the_same_every_time() -> None:
    floats, raw = images([2, 3, SIZE, SIZE], raw=False), images([2, 3, SIZE, SIZE], raw=True)
    assert (floats.dtype, raw.dtype) == (np.float32, np.uint8)
    np.testing.assert_array_equal(floats, images([2, 3, SIZE, SIZE], raw=False))
    assert raw.max() > 250


@pytest.mark.parametrize("runtime", ["mnq", "onnxruntime"])
def test_threads_are_those_asked_for(
    runtime: str, float_onnx: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnxruntime

    seen: list[int] = []
    original = onnxruntime.InferenceSession

    def spy(model: Any, options: Any, **more: Any) -> Any:
        seen.append(options.intra_op_num_threads)
        return original(model, options, **more)

    monkeypatch.setattr(onnxruntime, "InferenceSession", spy)
    open_engine(Engine("e", runtime, float_onnx), 1, 2)
    assert seen == [2]


def test_the_size_of_an_openvino_model_counts_its_weights(tmp_path: Path) -> None:
    (tmp_path / "m.xml").write_bytes(b"x" * 10)
    (tmp_path / "m.bin").write_bytes(b"x" * 500)
    (tmp_path / "m.onnx").write_bytes(b"x" * 7)
    assert Engine("a", "openvino", tmp_path / "m.xml").file_bytes == 510
    assert Engine("a", "onnxruntime", tmp_path / "m.onnx").file_bytes == 7


def test_openvino_runs_the_batch_in_a_precision_that_it_names(float_onnx: Path) -> None:
    if importlib.util.find_spec("openvino") is None:
        pytest.skip("missing OpenVINO: install the extra bench")
    opened = open_engine(Engine("peer", "openvino", float_onnx), 2, 1)
    found = opened.run()
    (doubled,) = found.values()  # type: ignore[attr-defined]
    # bf16 keeps eight bits.
    np.testing.assert_allclose(doubled, 2 * images([2, 3, 4, 4], raw=False), rtol=2**-7)
    assert opened.precision in ("f32", "bf16", "f16")


def test_without_openvino_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    fake = SimpleNamespace(find_spec=lambda name: None)
    monkeypatch.setattr(engines.importlib, "util", fake)
    with pytest.raises(EnvironmentLack, match=r"found none; pip install 'mnq\[bench\]'"):
        open_engine(Engine("peer", "openvino", Path("m.xml")), 1, 1)
