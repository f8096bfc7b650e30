"""Runs an exported model with nothing but onnxruntime and the native library.

    python run.py model.onnx libmnq_ops.so [pixels]

With - in place of the library the model runs from its own functions: the same integers, slowly.
`pixels` is a file of uint8 values, channel by channel, in the model's size; without it the image
is made up.
"""

from __future__ import annotations

import sys

import numpy as np
import onnxruntime


def main(model: str, library: str, pixels: str | None = None) -> None:
    """Print the five largest logits."""
    options = onnxruntime.SessionOptions()
    if library != "-":
        options.register_custom_ops_library(library)
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    image = session.get_inputs()[0]
    if image.type != "tensor(uint8)":
        sys.exit("model: expected uint8 pixels as input; export with --input uint8")
    shape = (1, *image.shape[1:])  # one image; any other number does as well
    if pixels is None:
        values = (np.arange(np.prod(shape)) * 7 % 251).astype(np.uint8)
    else:
        values = np.fromfile(pixels, np.uint8)
    (logits,) = session.run(["logits"], {"image": values.reshape(shape)})
    for index in np.argsort(-logits[0], kind="stable")[:5]:
        print(f"class {index}: {logits[0, index]}")


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        sys.exit("usage: run.py MODEL.ONNX LIBMNQ_OPS.SO|- [PIXELS]")
    main(*sys.argv[1:])
