"""Measurements: what was measured at every site; the file that rules, plots and resuming read."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

from mnq.ops.errors import InputError
from mnq.ops.files import write_atomically
from mnq.ops.registry import METHODS
from mnq.toolchain.sqnr import Powers

FORMAT = "mnq-measurements/1"
MAX_BYTES = 256 << 20
BINS = 64
CHOSEN = "chosen"
"""Name of the run of a model with the chosen map; the other runs are named after a method."""


@dataclass
class SiteRun:
    """One site in one run.

    method: what ran there; not the run's where the run's method has none for that kind.
    input: what the operator reads, against the float model's. output: what it writes before
    its requantization. histogram: of the output, in the bins of the site's float histogram.
    """

    method: str
    input: Powers = field(default_factory=Powers)
    output: Powers = field(default_factory=Powers)
    histogram: list[int] = field(default_factory=lambda: [0] * BINS)


@dataclass
class Run:
    """All sites measured with one method, or with a chosen map, at one bit-width.

    measure: "joint" (one quantized model) or "isolated" (one site quantized at a time).
    logits: of the joint model against the float model. unusable: by site, why the run's method
    cannot be used there.
    """

    bits: int
    measure: str
    name: str
    sites: dict[str, SiteRun] = field(default_factory=dict)
    logits: Powers = field(default_factory=Powers)
    unusable: dict[str, str] = field(default_factory=dict)

    @property
    def images(self) -> int:
        """How many images were measured so far."""
        return max((len(s.output.signal) for s in self.sites.values()), default=0)


@dataclass
class Histogram:
    """Of a site's float output: counts in BINS equal bins of [low, high], outliers at the ends."""

    low: float
    high: float
    images: int
    counts: list[int]


@dataclass
class Trial:
    """One site of a search: logit SQNR in dB by method tried, and the method kept."""

    method: str
    sqnr_db: dict[str, float]


@dataclass
class Search:
    """A greedy search on the logits (search.py), in the order of execution.

    start: name of the map it started from; start_db: that map's logit SQNR in dB;
    start_sites: its methods. chosen_for: the sites to choose for; sites: those done so far.
    """

    bits: int
    methods: list[str]
    chosen_for: list[str]
    start: str
    start_db: float
    start_sites: dict[str, str]
    sites: dict[str, Trial] = field(default_factory=dict)


@dataclass
class Point:
    """A measured map: its latency, its logit SQNR in dB, and the method of every site."""

    milliseconds: float
    sqnr_db: float
    sites: dict[str, str]


@dataclass
class Front:
    """Maps from the best to the cheapest (cost.py), none of them worse than another in both."""

    bits: int
    methods: list[str]
    points: list[Point]


@dataclass
class Measurements:
    """Everything measured on one model with one calibration and one choice of images.

    subject: what must be the same for a run to be continued or used: digests of weights and
        images, calibration and quantizer settings.
    sites: kind of every site, in execution order.
    """

    model: str
    subject: dict[str, Any]
    sites: dict[str, str]
    histograms: dict[str, Histogram] = field(default_factory=dict)
    runs: list[Run] = field(default_factory=list)
    searches: list[Search] = field(default_factory=list)
    fronts: list[Front] = field(default_factory=list)

    def run(self, bits: int, measure: str, name: str) -> Run | None:
        """The run of that name, or None."""
        key = (bits, measure, name)
        return next((r for r in self.runs if (r.bits, r.measure, r.name) == key), None)

    def forget(self, bits: int, name: str, methods: dict[str, str]) -> None:
        """Drop the joint run of that name if it was measured with other methods."""
        run = self.run(bits, "joint", name)
        if run is not None and {s: entry.method for s, entry in run.sites.items()} != methods:
            self.runs.remove(run)

    def search(self, bits: int, methods: Sequence[str], sites: Sequence[str]) -> Search | None:
        """The search among these methods for these sites, or None."""
        key = (bits, list(methods), list(sites))
        return next((s for s in self.searches if (s.bits, s.methods, s.chosen_for) == key), None)

    def widths(self) -> list[int]:
        """The bit-widths that were measured, in the order of the runs."""
        return list(dict.fromkeys(run.bits for run in self.runs))

    def save(self, path: Path) -> None:
        """Write the file, whole or not at all."""
        text = json.dumps({"format": FORMAT, **asdict(self)}, separators=(",", ":"))
        write_atomically(path, text.encode())


def load(path: Path) -> Measurements:
    """Read a measurements file. Raises InputError if it is none, or has impossible figures."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise InputError(
                f"measurements: expected at most {MAX_BYTES} bytes, found more in {path}; is it "
                "a file of mnq-assign?"
            )
        data = json.loads(
            path.read_text(encoding="utf-8"),
            parse_constant=no_constant,
            parse_float=_finite,
            parse_int=_finite,
        )
    except (OSError, RecursionError, ValueError) as error:
        reason = getattr(error, "strerror", None) or getattr(error, "msg", None) or error
        raise InputError(
            f"measurements: expected a JSON file, found: {reason}, in {path}; measure again "
            "with mnq-assign --measurements"
        ) from error
    return from_json(data, str(path))


def from_json(data: Any, source: str) -> Measurements:
    """The measurements in a decoded JSON value; `source` names it in errors."""
    schema = json.loads(files("mnq.toolchain").joinpath("measurements.schema.json").read_text())
    errors = sorted(Draft202012Validator(schema).iter_errors(data), key=lambda e: list(e.path))
    if errors:
        place = "/".join(str(part) for part in errors[0].absolute_path) or "top level"
        message = errors[0].message if len(errors[0].message) < 300 else errors[0].validator
        raise _fault(source, place, message)
    sites = data["sites"]
    check = _Checker(sites, source)
    return Measurements(
        data["model"],
        data["subject"],
        sites,
        {s: Histogram(**check.histogram(s, h)) for s, h in data["histograms"].items()},
        [check.run(run) for run in data["runs"]],
        [check.search(search) for search in data["searches"]],
        [check.front(front) for front in data["fronts"]],
    )


def no_constant(name: str) -> float:
    """For json.loads: refuses NaN and Infinity."""
    raise ValueError(f"{name}, which is no number")


def _finite(text: str) -> int | float:
    """A number of the file; one that no float64 holds is refused."""
    value = float(text)
    if math.isinf(value):
        raise ValueError("a number beyond all that were measured")
    return value if {*text} & set(".eE") else int(text)


def _fault(source: str, place: str, message: object) -> InputError:
    return InputError(
        f"measurements: expected {FORMAT}, found a fault at {place} of {source}: "
        f"{str(message)[:300]}; "
        "measure again with mnq-assign --measurements"
    )


@dataclass
class _Checker:
    """Checks what the schema leaves open: numbers in lists, and that sites and methods exist."""

    sites: dict[str, str]
    source: str

    def named(
        self, place: str, table: dict[str, Any], make: Callable[[Any], Any]
    ) -> dict[str, Any]:
        for site in table:
            if site not in self.sites:
                raise _fault(self.source, place, f"unknown site {site!r}")
        return {site: make(entry) for site, entry in table.items()}

    def histogram(self, site: str, entry: dict[str, Any]) -> dict[str, Any]:
        self.named("histograms", {site: entry}, dict)
        self._numbers(entry["counts"], f"histograms/{site}")
        if not entry["low"] < entry["high"]:
            raise _fault(self.source, f"histograms/{site}", "expected low < high")
        return entry

    def run(self, entry: dict[str, Any]) -> Run:
        place = f"run {entry['name']!r}"
        self.named(place, entry["unusable"], str)
        sites = self.named(place, entry["sites"], lambda site: self._site(site, place))
        self._known(place, {site: found.method for site, found in sites.items()})
        logits = self._powers(entry["logits"], place)
        images = {len(found.output.signal) for found in sites.values()}
        if entry["measure"] == "joint":
            images.add(len(logits.signal))
        if len(images) > 1:
            raise _fault(self.source, place, "sites or logits of different numbers of images")
        return Run(**{**entry, "sites": sites, "logits": logits})

    def search(self, entry: dict[str, Any]) -> Search:
        trials = self.named("searches", entry["sites"], lambda trial: Trial(**trial))
        self._complete("searches", entry["start_sites"])
        for site, trial in trials.items():
            self._known("searches", {site: trial.method})
            if trial.method not in trial.sqnr_db:
                raise _fault(self.source, "searches", f"no figure of the method kept at {site}")
        return Search(**{**entry, "sites": trials})

    def front(self, entry: dict[str, Any]) -> Front:
        for point in entry["points"]:
            self._complete("fronts", point["sites"])
        return Front(**{**entry, "points": [Point(**point) for point in entry["points"]]})

    def _complete(self, place: str, methods: dict[str, str]) -> None:
        """The methods of a map: one for every site."""
        self.named(place, methods, str)
        missing = [site for site in self.sites if site not in methods]
        if missing:
            raise _fault(self.source, place, f"no method at {missing[0]}")
        self._known(place, methods)

    def _known(self, place: str, methods: dict[str, str]) -> None:
        for site, method in methods.items():
            if method not in METHODS[self.sites[site]]:
                raise _fault(self.source, place, f"unknown method {method!r} at {site}")

    def _site(self, entry: dict[str, Any], place: str) -> SiteRun:
        self._numbers(entry["histogram"], place)
        read, written = (self._powers(entry[key], place) for key in ("input", "output"))
        if len(read.signal) != len(written.signal):
            raise _fault(self.source, place, "input and output of different numbers of images")
        return SiteRun(entry["method"], read, written, entry["histogram"])

    def _powers(self, entry: dict[str, Any], place: str) -> Powers:
        for key in ("signal", "noise"):
            self._numbers(entry[key], place)
        if len(entry["signal"]) != len(entry["noise"]):
            raise _fault(self.source, place, "more signals than noises, or fewer")
        return Powers(**entry)

    def _numbers(self, values: list[Any], place: str) -> None:
        for value in values:
            if type(value) not in (int, float) or not (0 <= value < math.inf):
                raise _fault(self.source, place, f"expected numbers of 0 or more, found {value!r}")
