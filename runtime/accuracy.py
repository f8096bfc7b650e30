"""Accuracy: top-1, top-5, and how far a model's answers are from a reference model's."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Accuracy:
    """Figures of one model over a set of images.

    top1, top5: percent of labelled images. agreement: percent of images with the reference's
    top-1. logit_sqnr_db: 10 log10 of the power ratio of the reference's logits to the
    difference, over all images; None also where one of the two is zero. gained, lost: labelled
    images that the reference answers wrong and this model right, and the other way round. None
    where there is no label or no reference.
    """

    name: str
    images: int
    top1: float | None
    top5: float | None
    agreement: float | None = None
    logit_sqnr_db: float | None = None
    gained: int | None = None
    lost: int | None = None

    def to_json(self) -> dict[str, Any]:
        """The figures as a JSON object."""
        return asdict(self)


def accuracy(
    name: str,
    logits: NDArray[np.float64],
    labels: NDArray[np.int64],
    reference: NDArray[np.float64] | None = None,
) -> Accuracy:
    """Figures for logits (N, classes) in real units; labels (N,), -1 where unknown.

    reference: logits of the reference model on the same images, in the same order.
    """
    known = labels >= 0
    right = logits.argmax(axis=1) == labels
    top1 = top5 = None
    if known.any():
        five = np.argsort(-logits, axis=1, kind="stable")[:, :5]
        top1 = 100.0 * float(right[known].mean())
        top5 = 100.0 * float((five == labels[:, None]).any(axis=1)[known].mean())
    if reference is None:
        return Accuracy(name, len(labels), top1, top5)
    answers = reference.argmax(axis=1)
    noise = float(((reference - logits) ** 2).sum())
    signal = float((reference**2).sum())
    was_right = answers == labels
    return Accuracy(
        name,
        len(labels),
        top1,
        top5,
        agreement=100.0 * float((logits.argmax(axis=1) == answers).mean()),
        logit_sqnr_db=10.0 * math.log10(signal / noise) if signal > 0 and noise > 0 else None,
        gained=int((right & ~was_right & known).sum()) if known.any() else None,
        lost=int((~right & was_right & known).sum()) if known.any() else None,
    )
