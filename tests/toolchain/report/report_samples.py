"""Measurements as of a vision transformer, made up from a seed; no model and no torch."""

import math
import random
from typing import Any

from mnq.ops.registry import METHODS, UNIFORM
from mnq.toolchain import assign
from mnq.toolchain.map import Map
from mnq.toolchain.measurements import (
    BINS,
    CHOSEN,
    Front,
    Histogram,
    Measurements,
    Point,
    Run,
    Search,
    SiteRun,
    Trial,
)
from mnq.toolchain.sqnr import Powers

ALL = ("ivit", "ibert", "fqvit", "lut")
# Output ASQNR of a first block's site in the paper's units, at 8 bits.
_LEVEL = {"softmax": 50.0, "gelu": 55.0, "layernorm": 80.0}
_BONUS = {"ivit": -4.0, "ibert": 0.0, "fqvit": -14.0, "lut": 6.0}
_LOGITS = {"ivit": 9.1, "ibert": 13.7, "fqvit": 7.3, "lut": 18.5, CHOSEN: 15.2}


def sites(depth: int) -> dict[str, str]:
    """The sites of a ViT with `depth` blocks, and their kinds."""
    table = {}
    for block in range(depth):
        table[f"blocks.{block}.norm1"] = "layernorm"
        table[f"blocks.{block}.attn.softmax"] = "softmax"
        table[f"blocks.{block}.norm2"] = "layernorm"
        table[f"blocks.{block}.mlp.act"] = "gelu"
    return {**table, "norm": "layernorm"}


def by_hand(model: str, bits: int = 8, **defaults: str) -> Map:
    """A map without figures and provenance: I-BERT but for these defaults."""
    return Map(model, bits, bits, {**UNIFORM["ibert"], **defaults}, {}, {})


class Sample:
    """Builds measurements; every call adds to them. All figures follow from the seed."""

    def __init__(self, depth: int = 2, model: str = "deit_t", images: int = 4, seed: int = 0):
        self.random = random.Random(seed)
        self.images = images
        self.measurements = Measurements(
            model,
            {"weights": "88ee863b" * 8, "images": {"source": "photos.zip", "seed": 0}},
            sites(depth),
        )
        for site, kind in self.measurements.sites.items():
            low = 0.0 if kind == "softmax" else -2.5
            counts = [int(2e5 * math.exp(-(((i - 20) / 9) ** 2))) for i in range(BINS)]
            self.measurements.histograms[site] = Histogram(low, 4.0, images, counts)

    def uniform(self, *names: str, bits: int = 8, measure: str = "joint") -> "Sample":
        """Runs of uniform maps; isolated ones lack the sites that a method has no operator for."""
        for name in names:
            methods = {s: UNIFORM[name][k] for s, k in self.measurements.sites.items()}
            if measure == "isolated":
                methods = {site: m for site, m in methods.items() if m == name}
            self.run(name, methods, bits, measure)
        return self

    def chosen(self, mapping: Map) -> "Sample":
        """The run of a map."""
        choices = mapping.resolve(self.measurements.sites)
        methods = {site: choice.method for site, choice in choices.items()}
        self.run(CHOSEN, methods, mapping.activation_bits, "joint")
        return self

    def run(self, name: str, methods: dict[str, str], bits: int, measure: str) -> Run:
        """A run with these methods; the deeper a site, the more noise if it is joint."""
        run = Run(bits, measure, name)
        for index, (site, method) in enumerate(methods.items()):
            kind = self.measurements.sites[site]
            depth = index / len(methods) if measure == "joint" else 0.0
            beta = _LEVEL[kind] * (1 - 0.6 * depth) + _BONUS[method] - 6.0 * (8 - bits)
            beta += self.random.uniform(-3, 3)
            gamma = beta + self.random.uniform(-3, 18) * (1 - depth)
            shift = self.random.randrange(4)
            counts = self.measurements.histograms[site].counts
            run.sites[site] = SiteRun(
                method, self.powers(gamma), self.powers(beta), counts[shift:] + counts[:shift]
            )
        if measure == "joint":
            run.logits = self.powers(2 * (_LOGITS[name] - 2.0 * (8 - bits)))
        self.measurements.runs.append(run)
        return run

    def powers(self, asqnr: float) -> Powers:
        """Powers of images whose ratios are about that of an ASQNR."""
        signal = [self.random.uniform(0.5, 2.0) for _ in range(self.images)]
        ratio = 10 ** (asqnr / 20)
        return Powers(signal, [s / ratio * self.random.uniform(0.8, 1.25) for s in signal])

    def search(self, *names: str, bits: int = 8) -> "Sample":
        """A finished greedy search."""
        best = 13.7
        table = self.measurements.sites
        start = {site: UNIFORM["ibert"][kind] for site, kind in table.items()}
        search = Search(bits, list(names), list(table), "ibert", best, start)
        for site, kind in self.measurements.sites.items():
            tried = {m: best + self.random.gauss(-0.3, 0.4) for m in METHODS[kind] if m in names}
            method = max(tried, key=lambda m: tried[m])
            search.sites[site] = Trial(method, tried)
            best = tried[method]
        self.measurements.searches.append(search)
        return self

    def front(self, mapping: Map, bits: int = 8) -> "Sample":
        """A front whose third point is the map."""
        choices = mapping.resolve(self.measurements.sites)
        chosen = {site: choice.method for site, choice in choices.items()}
        other = dict.fromkeys(chosen, "ivit")
        points = [
            Point(30.0 - 2.5 * i, 18.0 - 0.35 * i * i, chosen if i == 2 else other)
            for i in range(7)
        ]
        self.measurements.fronts.append(Front(bits, list(ALL), points))
        return self

    def mapping(
        self,
        rule: str = "sqnr-absdiff",
        methods: str = "all",
        measure: str = "joint",
        bits: int = 8,
    ) -> Map:
        """The map that a rule of the paper chooses, or for "logits" that of the first search."""
        measurements = self.measurements
        found = assign.figures(measurements, bits, measure, assign.METHOD_SETS[methods])
        search = measurements.searches[0] if rule == "logits" else None
        names = list(measurements.sites)
        if search:
            chosen = {site: trial.method for site, trial in search.sites.items()}
        else:
            chosen = assign.methods_by_rule(found, rule, names)
        provenance: dict[str, Any] = {
            "rule": rule,
            "measure": measure,
            "methods": methods,
            "sites": "all",
            "images": {"source": "photos.zip", "count": self.images, "seed": 0},
            "versions": {"mnq": "0.1.0"},
        }
        return assign.to_map(measurements, bits, chosen, found, provenance, names, search)
