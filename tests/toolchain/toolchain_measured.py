"""Measurements made by hand: figures that somebody wants to see a rule or a reader decide on."""

from __future__ import annotations

from mnq.toolchain.measurements import (
    BINS,
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

SITES = {"norm1": "layernorm", "attn.softmax": "softmax", "mlp.act": "gelu"}
START = {"norm1": "ivit", "attn.softmax": "ibert", "mlp.act": "ivit"}

Wanted = dict[str, dict[str, tuple[float, float]]]
"""By site and method: the ASQNR of output and input (beta, gamma)."""


def powers(asqnr: float) -> Powers:
    """Those of one image whose ASQNR is this."""
    return Powers([10.0 ** (asqnr / 20.0)], [1.0])


def measured(
    wanted: Wanted, sites: dict[str, str] = SITES, bits: int = 8, measure: str = "joint"
) -> Measurements:
    """Measurements of one image whose figures are the `wanted` ones, with a run per method."""
    found = Measurements("tiny", {"weights": "w"}, sites)
    for name in dict.fromkeys(m for figures in wanted.values() for m in figures):
        run = Run(bits, measure, name, logits=powers(10.0))
        for site, figures in wanted.items():
            if name in figures:
                beta, gamma = figures[name]
                run.sites[site] = SiteRun(name, powers(gamma), powers(beta))
        found.runs.append(run)
    return found


def complete() -> Measurements:
    """Two images, and something in every field."""
    found = Measurements("tiny", {"weights": "w", "images": {"seed": 7, "count": 2}}, dict(SITES))
    for index, site in enumerate(SITES):
        counts = [(5 * i + index) % 17 for i in range(BINS)]
        found.histograms[site] = Histogram(-1.5 - index, 1 / 3, 2, counts)
    for bits, measure, name in (
        (8, "joint", "ivit"),
        (8, "isolated", "ibert"),
        (4, "joint", "lut"),
    ):
        run = Run(bits, measure, name, unusable={"mlp.act": "out of range; choose another"})
        for site in SITES:
            read, written = Powers([0.1, 2.0], [1e-3, 0.0]), Powers([0.0, 1 / 3], [0.25, 1e-12])
            run.sites[site] = SiteRun("ivit", read, written, [3] * BINS)
        if measure == "joint":
            run.logits = Powers([4.0, 0.1], [0.3, 7e-300])
        found.runs.append(run)
    trial = Trial("lut", {"ivit": -3.25, "lut": 1 / 7})
    search = Search(8, ["ivit", "lut"], ["attn.softmax"], "ivit", -4.5, START)
    search.sites["attn.softmax"] = trial
    found.searches.append(search)
    found.fronts.append(Front(8, ["ivit", "lut"], [Point(0.125, 1 / 7, START)]))
    return found
