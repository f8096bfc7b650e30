"""Calibrate: streaming statistics of every quantizer, and scales made from them."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from mnq.ops.errors import InputError
from mnq.ops.files import write_atomically
from mnq.toolchain.edges import Edges, assign_edges
from mnq.toolchain.equalize import Exponents, equalize, find_exponents
from mnq.toolchain.evaluate import evaluate, hidden_scores
from mnq.toolchain.graph import Graph
from mnq.toolchain.quantizers import activation_scale, round_up_to_bf16, steps
from mnq.toolchain.views import VIEWS

BINS = 4096
METHODS = ("mse", "minmax", "percentile")
PERCENTILE = 99.99
FORMAT = "mnq-calibration/1"
_KEY = "mnq"  # of the metadata

_UNREADABLE = (
    SafetensorError,
    OSError,
    KeyError,
    TypeError,
    ValueError,
    ArithmeticError,
    RecursionError,
)
_EXACT_COUNT = 1 << 24  # torch counts in float32
_EXPONENTS = range(-125, 128)  # of float32 numbers below 2^127
_CANDIDATES = np.linspace(0.05, 1.0, 96)  # of the largest value, for the MSE search


class Histogram:
    """Counts of |x| in 4096 equal bins of [0, 2^k]; k grows when a larger value comes."""

    def __init__(self, keep_counts: bool) -> None:
        self.counts = torch.zeros(BINS, dtype=torch.int64) if keep_counts else None
        self.exponent: int | None = None
        self.largest = 0.0

    def update(self, name: str, x: torch.Tensor) -> None:
        """Add all elements of a float tensor. Raises InputError if one is 2^127 or more."""
        magnitude = x.detach().abs().reshape(-1)
        largest = float(magnitude.max()) if magnitude.numel() else 0.0
        if not largest < 2.0**127:  # NaN and infinity too
            raise InputError(
                f"calibrate: expected finite activations, found {largest} in tensor {name!r}; "
                "check the weights and the preprocessing"
            )
        self.largest = max(self.largest, largest)
        if self.counts is None:
            return
        needed = int(np.frexp(max(largest, 2.0**-126))[1])  # 2^needed > largest
        if self.exponent is None:
            self.exponent = needed
        while self.exponent < needed:
            folded = self.counts.reshape(-1, 2).sum(dim=1)
            self.counts = torch.cat([folded, torch.zeros_like(folded)])
            self.exponent += 1
        for part in magnitude.split(_EXACT_COUNT):
            histogram = torch.histc(part, bins=BINS, min=0.0, max=2.0**self.exponent)
            self.counts += histogram.to(torch.int64)


@dataclass
class Statistics:
    """What calibration keeps: per quantizer group the largest |value| and, for b-bit groups,
    a histogram; the equalization under which they were taken; and where they come from.
    """

    histograms: dict[str, Histogram]
    equalization: Exponents
    provenance: dict[str, Any]

    def digest(self) -> str:
        """SHA-256 of everything that scales are made from."""
        parts: dict[str, Any] = {"equalization": self.equalization}
        for group, histogram in self.histograms.items():
            counts = None if histogram.counts is None else histogram.counts.tolist()
            parts[group] = [histogram.largest, histogram.exponent, counts]
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def collect(
    graph: Graph,
    passes: Callable[[], Iterable[torch.Tensor]],
    provenance: dict[str, Any],
    equalized: bool = True,
) -> Statistics:
    """Statistics of a float run of `graph` over normalized image batches (B, C, H, W).

    `passes` is called for each pass over the images: one for the equalization (unless
    `equalized` is false), one for the ranges. No activation is stored. The number of images
    goes into the provenance.
    """
    equalization = find_exponents(graph, passes()) if equalized else {}
    graph = equalize(graph, equalization)
    edges = assign_edges(graph)
    histograms = {
        group: Histogram(keep_counts=kind == "activation")
        for group, kind in edges.kinds.items()
        if kind != "logits"
    }
    masks = {n.scores: hidden_scores(n) for n in graph if n.op == "attention"}
    skipped = {node.name for node in graph if node.op in VIEWS or node.op == "scale"}

    def observe(name: str, value: torch.Tensor) -> None:
        group = edges.edges[name].group
        if name not in skipped and group in histograms:
            mask = masks.get(name)
            histograms[group].update(name, value if mask is None else value.masked_fill(mask, 0))

    count = 0
    with torch.no_grad():
        for batch in passes():
            evaluate(graph, batch, observe)
            count += len(batch)
    return Statistics(histograms, equalization, {**provenance, "images": count})


def scales(
    statistics: Statistics, edges: Edges, bits: int, method: str = "mse", form: str = "ivit"
) -> dict[str, np.float32]:
    """A bf16 scale for every calibrated group, from its range in `ranges`."""
    found = ranges(statistics, edges, bits, method, form)
    return {
        group: activation_scale(largest, edges.bits(group, bits), form)
        for group, largest in found.items()
    }


def ranges(
    statistics: Statistics, edges: Edges, bits: int, method: str = "mse", form: str = "ivit"
) -> dict[str, float]:
    """The largest value that every calibrated group represents.

    The 16-bit residual stream and the input always keep their whole range: clipping them
    ruins the model. `method` chooses the range of the `bits`-bit groups.
    """
    result = {}
    for group, histogram in statistics.histograms.items():
        largest = histogram.largest
        if edges.kinds[group] == "activation" and largest > 0:
            if method == "mse":
                largest = _least_square_range(histogram, edges.bits(group, bits), form)
            elif method == "percentile":
                largest = _percentile_range(histogram)
        result[group] = largest
    return result


def _centres(histogram: Histogram) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    assert histogram.counts is not None and histogram.exponent is not None
    width = 2.0**histogram.exponent / BINS
    centres = np.arange(BINS, dtype=np.float64) + 0.5
    return centres * width, histogram.counts.numpy().astype(np.float64)


def _least_square_range(histogram: Histogram, bits: int, form: str) -> float:
    """The range whose quantizer has the smallest mean squared error on the histogram."""
    values, counts = _centres(histogram)
    used = counts > 0
    values, counts = values[used], counts[used]
    ranges = histogram.largest * _CANDIDATES
    scale = round_up_to_bf16(ranges / steps(bits, form)).astype(np.float64)[:, None]
    codes = np.minimum(np.rint(values / scale), 2 ** (bits - 1) - 1)
    error = ((codes * scale - values) ** 2 * counts).sum(axis=1)
    return float(ranges[int(error.argmin())])


def _percentile_range(histogram: Histogram) -> float:
    values, counts = _centres(histogram)
    share = np.cumsum(counts) / counts.sum()
    index = int(np.searchsorted(share, PERCENTILE / 100.0))
    return float(min(values[min(index, BINS - 1)], histogram.largest))


def save_statistics(statistics: Statistics, path: Path) -> None:
    """Write statistics as safetensors, whole or not at all."""
    tensors = {
        f"{group}\0counts": histogram.counts
        for group, histogram in statistics.histograms.items()
        if histogram.counts is not None
    }
    table = {
        group: {"largest": histogram.largest, "exponent": histogram.exponent}
        for group, histogram in statistics.histograms.items()
    }
    header = {
        "format": FORMAT,
        "groups": table,
        "equalization": statistics.equalization,
        "provenance": statistics.provenance,
    }
    # One key: safetensors writes several in a random order, and equal statistics are equal bytes.
    write_atomically(path, save(tensors, metadata={_KEY: json.dumps(header, sort_keys=True)}))


def load_statistics(path: Path, graph: Graph) -> Statistics:
    """Read statistics saved for the same graph.

    Raises InputError if the file is no calibration of ours or belongs to another model.
    """
    edges = assign_edges(graph)
    wanted = {g: kind for g, kind in edges.kinds.items() if kind != "logits"}
    try:
        with safe_open(path, "pt") as file:
            header = json.loads((file.metadata() or {}).get(_KEY, "{}"))
            if not isinstance(header, dict) or header.get("format") != FORMAT:
                kind = header.get("format") if isinstance(header, dict) else header
                raise InputError(
                    f"calibration: expected a {FORMAT} file, found {kind!r:.80} in {path}; make "
                    "one with mnq-export --save-calib"
                )
            table = header["groups"]
            if set(table) != set(wanted):
                other = sorted(set(table) ^ set(wanted))
                raise InputError(
                    f"calibration: expected the {len(wanted)} tensors of this model, found "
                    f"another set in {path} (differs in {other[:3]}); calibrate again"
                )
            histograms = {}
            for group, kind in wanted.items():
                counted = kind == "activation"
                counts = file.get_tensor(f"{group}\0counts") if counted else None
                histograms[group] = _histogram(group, table[group], counts)
            provenance = header["provenance"]
            if not isinstance(provenance, dict):
                raise ValueError("a provenance that is no object")
            equalization = header["equalization"]
            if not isinstance(equalization, dict):
                raise ValueError("an equalization that is no object")
            equalize(graph, equalization)  # refuses what does not fit
            return Statistics(histograms, equalization, provenance)
    except _UNREADABLE as error:
        raise InputError(
            f"calibration: expected a readable {FORMAT} file, found {error} in {path}; "
            "calibrate again"
        ) from error


def _histogram(group: str, entry: dict[str, Any], counts: torch.Tensor | None) -> Histogram:
    """The histogram in a file's entry. Raises ValueError or TypeError if it cannot be one."""
    histogram = Histogram(keep_counts=False)
    histogram.largest = float(entry["largest"])
    good = 0.0 <= histogram.largest <= float(np.finfo(np.float32).max)
    if counts is not None:
        histogram.counts = counts
        histogram.exponent = int(entry["exponent"])
        good = (
            good
            and counts.shape == (BINS,)
            and counts.dtype == torch.int64
            and bool((counts >= 0).all())
            and bool((counts > 0).any())
            and histogram.exponent in _EXPONENTS
            and histogram.largest < 2.0**histogram.exponent
        )
    if not good:
        raise ValueError(f"impossible statistics of {group!r}")
    return histogram
