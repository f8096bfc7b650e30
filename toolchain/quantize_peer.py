"""Converts a float .onnx with another project's tool: onnxruntime's, or NNCF for OpenVINO.

A process of its own, since the tools print, log, patch torch and keep threads.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mnq.runtime.engines import load_openvino

Images = list[NDArray[np.float32]]


def qdq(source: Path, target: Path, images: Images) -> None:
    """onnxruntime's static quantization of all operators, uint8 activations, int8 weights."""
    from onnxruntime import quantization
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(quantization.CalibrationDataReader):
        """Each image once."""

        def __init__(self) -> None:
            self.left = iter(images)

        def get_next(self) -> dict[str, Any] | None:
            """The next image, None at the end."""
            image = next(self.left, None)
            return None if image is None else {"image": image}

    with tempfile.TemporaryDirectory(prefix="mnq-") as folder:
        prepared = Path(folder) / "prepared.onnx"
        try:
            quant_pre_process(str(source), str(prepared))
        except Exception:  # it raises that, where it cannot follow shapes that grow with the batch
            quant_pre_process(str(source), str(prepared), skip_symbolic_shape=True)
        quantization.quantize_static(
            str(prepared),
            str(target),
            Reader(),
            quant_format=quantization.QuantFormat.QDQ,
            activation_type=quantization.QuantType.QUInt8,  # int8 ones are slower
            weight_type=quantization.QuantType.QInt8,
            per_channel=True,
            calibrate_method=quantization.CalibrationMethod.MinMax,
        )


def dynamic(source: Path, target: Path, images: Images) -> None:
    """onnxruntime's dynamic quantization: int8 weights, activations measured as they come."""
    from onnxruntime import quantization

    # Not of a prepared model: onnxruntime then trips over shapes that it has noted itself.
    quantization.quantize_dynamic(
        str(source), str(target), weight_type=quantization.QuantType.QInt8
    )


def openvino(source: Path, target: Path, images: Images) -> None:
    """NNCF's post-training quantization, told that it is a transformer."""
    ov = load_openvino()
    import nncf

    model = nncf.quantize(
        ov.Core().read_model(source),
        nncf.Dataset(images),
        subset_size=len(images),
        model_type=nncf.ModelType.TRANSFORMER,
    )
    ov.save_model(model, target, compress_to_fp16=False)


def fp16(source: Path, target: Path, images: Images) -> None:
    """Half precision, after onnxruntime's own fusions for vision transformers on a GPU."""
    from onnxruntime.transformers import optimizer

    model = optimizer.optimize_model(
        str(source), model_type="bert", opt_level=0, use_gpu=True, only_onnxruntime=False
    )
    model.convert_float_to_float16(keep_io_types=False)
    model.save_model_to_file(str(target))


KINDS: dict[str, Callable[[Path, Path, Images], None]] = {
    "qdq": qdq,
    "dynamic": dynamic,
    "openvino": openvino,
    "fp16": fp16,
}


def main(kind: str, source: str, target: str, count: str, seed: str) -> None:
    """Quantize `source` to `target` on `count` random images."""
    import onnx

    shape = onnx.load(source).graph.input[0].type.tensor_type.shape
    size = [1, *(d.dim_value for d in shape.dim[1:])]
    rng = np.random.default_rng(int(seed))
    images = [rng.standard_normal(size, dtype=np.float32) for _ in range(int(count))]
    KINDS[kind](Path(source), Path(target), images)
    print(f"\n{json.dumps({'done': kind})}")


if __name__ == "__main__":
    main(*sys.argv[1:])
