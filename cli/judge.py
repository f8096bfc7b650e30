"""Judging models side by side on the same images: what mnq-eval and mnq-demo share."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mnq.cli.common import Screen
from mnq.models.images import Batch
from mnq.models.preprocess import Preprocess
from mnq.ops.errors import InputError
from mnq.runtime.accuracy import Accuracy, accuracy

if TYPE_CHECKING:
    from onnx import ModelProto

    from mnq.models.zoo import LoadedModel

Predict = Callable[[NDArray[np.uint8]], NDArray[np.float64]]
"""uint8 images (B, C, H, W) -> logits (B, classes) in real units."""


@dataclass(frozen=True)
class Candidate:
    """A model to judge."""

    name: str
    predict: Predict


def judge(
    screen: Screen,
    candidates: list[Candidate],
    stream: Iterable[Batch],
    total: int,
    with_reference: bool,
) -> list[Accuracy]:
    """Accuracy of all candidates on the same batches; the first may be the reference."""
    collected: list[list[NDArray[np.float64]]] = [[] for _ in candidates]
    labels = []
    with screen.progress("evaluating", total) as advance:
        for pixels, truth, _ in stream:
            for candidate, logits in zip(candidates, collected, strict=True):
                logits.append(candidate.predict(pixels))
            labels.append(truth)
            advance(len(pixels))
    truth = np.concatenate(labels)
    joined = [np.concatenate(logits) for logits in collected]
    for candidate, values in zip(candidates, joined, strict=True):
        if values.shape != joined[0].shape:
            raise InputError(
                f"eval: expected logits {joined[0].shape} as of {candidates[0].name}, found "
                f"{values.shape} of {candidate.name}; judge it in a run of its own"
            )
    reference = joined[0] if with_reference else None
    return [
        accuracy(c.name, logits, truth, None if logits is reference else reference)
        for c, logits in zip(candidates, joined, strict=True)
    ]


def float_predict(loaded: LoadedModel) -> Predict:
    """The float model itself, in PyTorch."""
    import torch

    def predict(pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
        with torch.no_grad():
            images = torch.from_numpy(loaded.preprocess.normalize(pixels))
            result: NDArray[np.float64] = loaded.model(images).double().numpy()
        return result

    return predict


def onnx_predict(
    proto: ModelProto,
    source: str,
    preprocess: Preprocess,
    scale: float = 1.0,
    *,
    provider: str = "cpu",
    threads: int = 0,
    kernels: bool | None = None,
) -> Predict:
    """An .onnx with one image input and (N, classes) logits as output, `scale` real units each.

    It takes raw pixels if its input is uint8, else normalized images, and any fixed number of
    images at a time; `source` names it in errors. kernels: as for `open_session`.
    """
    from mnq.runtime.session import infer, open_session

    session = open_session(proto, provider=provider, threads=threads, kernels=kernels)
    inputs, outputs = session.get_inputs(), session.get_outputs()
    if len(inputs) != 1 or len(outputs[0].shape) != 2:
        raise InputError(
            f"eval: expected an image classifier, one input and logits (N, classes), found "
            f"{len(inputs)} inputs and an output {outputs[0].shape} in {source}; export it so"
        )
    raw = inputs[0].type == "tensor(uint8)"
    fixed = inputs[0].shape[0] if isinstance(inputs[0].shape[0], int) else 0

    def predict(pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
        images = pixels if raw else preprocess.normalize(pixels)
        size = fixed or len(images)
        # A model with a fixed batch gets the last image again where there are too few.
        padded = np.concatenate([images, *[images[-1:]] * (-len(images) % size)])
        parts = [infer(session, padded[i : i + size])[0] for i in range(0, len(padded), size)]
        logits: NDArray[np.float64] = np.concatenate(parts).astype(np.float64) * scale
        return logits[: len(images)]

    return predict
