"""Workbench: one calibrated model and a sample of images, on which methods are measured.

What mnq-assign works with: every long measurement shows its progress, is saved after each
batch or site, and goes on where it stopped.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mnq.cli.common import Screen, counted
from mnq.models.images import ImageSet, batches
from mnq.ops.errors import InputError

if TYPE_CHECKING:
    import torch

    from mnq.models.zoo import LoadedModel
    from mnq.toolchain.calibrate import Statistics
    from mnq.toolchain.export import Settings
    from mnq.toolchain.graph import Graph
    from mnq.toolchain.measurements import Measurements, Search
    from mnq.toolchain.search import Bench
    from mnq.toolchain.variants import Methods, Variants

BATCH = 8
"""Images per batch: the unit of resuming, and what the memory depends on."""


@dataclass(frozen=True)
class Sample:
    """Pixels of the images that methods are measured on, uint8, in batches of BATCH."""

    batches: list[torch.Tensor]
    provenance: dict[str, Any]

    def __len__(self) -> int:
        return sum(map(len, self.batches))


def take_sample(
    screen: Screen, source: ImageSet, loaded: LoadedModel, count: int, seed: int
) -> Sample:
    """A random sample of at most `count` images; unusable ones are named in a warning."""
    import torch

    known, count = len(source.skipped), min(count, len(source))
    digest = hashlib.sha256()
    pixels = []
    with screen.progress("reading images", count) as advance:
        stream = batches(source, loaded.preprocess, BATCH, limit=count, seed=seed)
        for batch in counted(stream, advance, lambda b: len(b[0])):
            pixels.append(torch.from_numpy(batch[0]))
            digest.update(batch[0].tobytes())
    for name, reason in source.skipped[known:]:
        screen.warn(f"skipped image {name}: {reason}")
    found = {"source": source.source.name, "count": sum(map(len, pixels)), "seed": seed}
    return Sample(pixels, {**found, "digest": digest.hexdigest()})


def workbench(
    screen: Screen,
    loaded: LoadedModel,
    prepared: Graph,
    statistics: Statistics,
    settings: Settings,
    sample: Sample,
    path: Path | None,
) -> Workbench:
    """A workbench for the prepared graph, with the measurements at `path` if there are any.

    Raises InputError if those are of another model, calibration or sample.
    """
    from mnq.toolchain.equalize import equalize
    from mnq.toolchain.measurements import Measurements, load

    graph = equalize(prepared, statistics.equalization)
    subject = {
        "weights": loaded.weights_digest,
        "calibration": {**statistics.provenance, "digest": statistics.digest()},
        "settings": {"method": settings.method, "form": settings.form},
        "images": sample.provenance,
    }
    measurements = Measurements(loaded.name, subject, graph.sites())
    if path is not None and path.exists():
        kept = load(path)
        same = {"model": kept.model == measurements.model, "sites": kept.sites == graph.sites()}
        same |= {key: kept.subject.get(key) == value for key, value in subject.items()}
        other = [key for key, equal in same.items() if not equal]
        if other:
            raise InputError(
                f"measurements: expected those of this model, calibration and sample, found "
                f"others in {path} (different: {', '.join(other)}); name another file or remove it"
            )
        measurements = kept
    return Workbench(screen, loaded, graph, statistics, settings, sample, measurements, path)


@dataclass
class Workbench:
    """graph: equalized; path: where measurements are kept, None for nowhere."""

    screen: Screen
    loaded: LoadedModel
    graph: Graph
    statistics: Statistics
    settings: Settings
    sample: Sample
    measurements: Measurements
    path: Path | None
    _variants: dict[int, Variants] = field(default_factory=dict)
    _bench: Bench | None = None

    def variants(self, bits: int) -> Variants:
        """All methods at all sites at a bit-width; made once."""
        from mnq.toolchain.calibrate import scales
        from mnq.toolchain.edges import assign_edges
        from mnq.toolchain.export import quantize_sites
        from mnq.toolchain.variants import variants

        if bits not in self._variants:
            method, form = self.settings.method, self.settings.form
            found = scales(self.statistics, assign_edges(self.graph), bits, method, form)
            build = partial(quantize_sites, self.loaded, self.graph, found, settings=self.settings)
            made = variants(self.loaded.name, self.graph.sites(), bits, build)
            for site, reasons in made.unusable.items():
                for method, reason in reasons.items():
                    self.screen.warn(f"{site}, {bits} bits: {method} is unusable: {reason}")
            self._variants[bits] = made
        return self._variants[bits]

    def batches(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        """The sample as the program takes it, and normalized for the float graph."""
        import torch

        for pixels in self.sample.batches:
            yield pixels, torch.from_numpy(self.loaded.preprocess.normalize(pixels.numpy()))

    def save(self) -> None:
        """Keep what has been measured so far."""
        if self.path is not None:
            self.measurements.save(self.path)

    def isolated(self, bits: int, methods: tuple[str, ...]) -> None:
        """Measure every site alone, with each method."""
        from mnq.toolchain.sensitivity import isolated

        with self._progress(f"measuring sites, {bits} bits") as done:
            variants = self.variants(bits)
            isolated(self.measurements, self.graph, variants, methods, self.batches(), done)

    def joint(self, bits: int, maps: dict[str, Methods]) -> None:
        """Measure whole models: name of the run -> method of every site."""
        from mnq.toolchain.sensitivity import joint

        for name, methods in maps.items():
            self.measurements.forget(bits, name, methods)
        with self._progress(f"measuring models, {bits} bits") as done:
            joint(self.measurements, self.graph, self.variants(bits), maps, self.batches(), done)

    @contextmanager
    def _progress(self, text: str) -> Iterator[Callable[[int], None]]:
        """A progress bar over the sample; what is measured is saved as it advances."""
        with self.screen.progress(text, len(self.sample)) as advance:

            def done(count: int) -> None:
                self.save()
                advance(count)

            yield done

    def bench(self) -> Bench:
        """The sample with its float logits; made once."""
        from mnq.toolchain.search import Bench

        if self._bench is None:
            self._bench = Bench(self.graph, self.batches())
        return self._bench

    def search(
        self, bits: int, allowed: tuple[str, ...], sites: list[str], starts: dict[str, Methods]
    ) -> tuple[Search, Methods]:
        """A greedy search on the logits, continued if one of the same choices was begun."""
        from mnq.toolchain import search as searching

        variants, bench = self.variants(bits), self.bench()
        found = self.measurements.search(bits, allowed, sites)
        if found is None:
            self.screen.note("searching: measuring the maps to start from")
            found = searching.start(variants, bench, allowed, sites, starts)
            self.measurements.searches.append(found)
        kept = [*found.start_sites.items(), *((s, t.method) for s, t in found.sites.items())]
        for site, method in kept:
            if method not in variants.steps[site]:
                raise InputError(
                    f"measurements: expected usable methods in the search, found {method!r} at "
                    f"{site} of {self.path}; remove the file to search again"
                )
        with self.screen.progress(f"searching, {bits} bits", len(sites)) as advance:

            def done(site: str) -> None:
                self.save()
                advance(1)

            return found, searching.greedy(found, variants, bench, done)
