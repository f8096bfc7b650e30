"""Sensitivity: SQNR of what every site reads and writes, for every method (paper section 3.2).

Both ways stream over the images, and a batch is the unit of resuming:

- joint, the paper's: one fully quantized model per method; a site's input carries the noise of
  everything before it.
- isolated: one site is quantized at a time, in the float model; its input carries its own
  rounding only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch

from mnq.toolchain.evaluate import evaluate
from mnq.toolchain.graph import Graph, Node
from mnq.toolchain.measurements import BINS, Histogram, Measurements, Run, SiteRun
from mnq.toolchain.probe import Probe
from mnq.toolchain.variants import Methods, Variants

MEASURES = ("joint", "isolated")

Batches = Iterable[tuple[torch.Tensor, torch.Tensor]]
"""The same images twice: as the program takes them, and normalized for the float graph."""


@dataclass(frozen=True)
class FloatSites:
    """A batch in the float model: what each site reads and writes, and the logits."""

    read: dict[str, torch.Tensor]
    written: dict[str, torch.Tensor]
    logits: torch.Tensor


def observe_sites(graph: Graph, images: torch.Tensor) -> FloatSites:
    """Run the float graph on normalized images (B, C, H, W) and keep the sites' tensors."""
    readers: dict[str, list[Node]] = {}
    writers: dict[str, Node] = {}
    for node in graph:
        if node.site:
            readers.setdefault(
                node.scores if node.op == "attention" else node.inputs[0], []
            ).append(node)
            writers[node.name] = node
    read: dict[str, torch.Tensor] = {}
    written: dict[str, torch.Tensor] = {}

    def observe(name: str, value: torch.Tensor) -> None:
        if name not in readers and name not in writers:
            return
        if len(value) != len(images):  # of windows: those of an image together
            value = value.reshape(len(images), -1, *value.shape[2:])
        for node in readers.get(name, ()):
            read[node.site] = value
            if node.op == "attention":
                written[node.site] = value.softmax(-1)
        if name in writers and writers[name].op != "attention":
            written[writers[name].site] = value

    with torch.no_grad():
        logits = evaluate(graph, images, observe)
    return FloatSites(read, written, logits)


def joint(
    measurements: Measurements,
    graph: Graph,
    variants: Variants,
    programs: dict[str, Methods],
    batches: Batches,
    done: Callable[[int], None] = lambda count: None,
) -> None:
    """Measure whole quantized models: run name -> method of every site.

    The runs of `measurements` grow image by image; a run passes over the batches that it has
    already. `done` is called with the size of each batch when it is measured.
    """
    runs = {name: _run(measurements, variants, "joint", name) for name in programs}
    for name, run in runs.items():
        run.sites = run.sites or {site: SiteRun(m) for site, m in programs[name].items()}
    built = {name: variants.program(methods) for name, methods in programs.items()}
    for pixels, floats, growing in _growing(measurements, graph, runs, batches, done):
        for name in growing:
            values = built[name].start(pixels)
            for step, inputs, _ in built[name].walk(values, len(pixels)):
                if step.site:
                    entry = runs[name].sites[step.site]
                    probe = variants.probe(step.site, entry.method)
                    _measure(measurements, step.site, entry, floats, probe, probe.read(inputs))
            logits = values[built[name].output].double() * built[name].output_scale
            runs[name].logits.update(floats.logits, logits)


def isolated(
    measurements: Measurements,
    graph: Graph,
    variants: Variants,
    names: Iterable[str],
    batches: Batches,
    done: Callable[[int], None] = lambda count: None,
) -> None:
    """Measure every site alone, with the methods in `names`; otherwise as `joint`."""
    runs = {name: _run(measurements, variants, "isolated", name) for name in names}
    for name, run in runs.items():
        usable = [site for site, steps in variants.steps.items() if name in steps]
        run.sites = run.sites or {site: SiteRun(name) for site in usable}
    for _, floats, growing in _growing(measurements, graph, runs, batches, done):
        for name in growing:
            for site, entry in runs[name].sites.items():
                probe = variants.probe(site, name)
                codes = probe.quantize(floats.read[site])
                _measure(measurements, site, entry, floats, probe, codes)


def _run(measurements: Measurements, variants: Variants, measure: str, name: str) -> Run:
    run = measurements.run(variants.bits, measure, name)
    if run is None:
        unusable = {site: why[name] for site, why in variants.unusable.items() if name in why}
        run = Run(variants.bits, measure, name, unusable=unusable)
        measurements.runs.append(run)
    return run


def _growing(
    measurements: Measurements,
    graph: Graph,
    runs: dict[str, Run],
    batches: Batches,
    done: Callable[[int], None],
) -> Iterator[tuple[torch.Tensor, FloatSites, list[str]]]:
    """Each batch that a run still lacks: pixels, float values, and the names of such runs."""
    passed = 0
    for pixels, normalized in batches:
        passed += len(pixels)
        growing = [name for name, run in runs.items() if run.images < passed]
        if growing:
            floats = observe_sites(graph, normalized)
            for site, value in floats.written.items():
                _count_floats(measurements, site, value, passed)
            yield pixels, floats, growing
        done(len(pixels))


def _count_floats(measurements: Measurements, site: str, value: torch.Tensor, passed: int) -> None:
    """Histogram of a float output; the first batch settles its range."""
    known = measurements.histograms.get(site)
    if known is None:
        low, high = float(value.min()), float(value.max())
        known = Histogram(low, high if high > low else low + 1.0, 0, [0] * BINS)
        measurements.histograms[site] = known
    if known.images < passed:  # no run has seen this batch before
        known.images = passed
        _add(known.counts, value, known)


def _measure(
    measurements: Measurements,
    site: str,
    entry: SiteRun,
    floats: FloatSites,
    probe: Probe,
    codes: torch.Tensor,
) -> None:
    written = probe.write(codes)
    entry.input.update(floats.read[site], probe.value(codes))
    entry.output.update(floats.written[site], written)
    _add(entry.histogram, written, measurements.histograms[site])


def _add(counts: list[int], value: torch.Tensor, bins: Histogram) -> None:
    clipped = value.double().clamp(bins.low, bins.high)
    for index, count in enumerate(torch.histc(clipped, BINS, bins.low, bins.high).tolist()):
        counts[index] += int(count)
