"""What a report shows: one bit-width of the measurements, the map, and figures site by site."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mnq.ops.errors import InputError, one_line
from mnq.ops.registry import METHODS
from mnq.toolchain.assign import METHOD_SETS, Figures, choose, figures
from mnq.toolchain.map import Map
from mnq.toolchain.measurements import CHOSEN, Measurements, Run, SiteRun
from mnq.toolchain.report.rules import RULES, Rule, measured_figures
from mnq.toolchain.report.sites import Site
from mnq.toolchain.sensitivity import MEASURES

ORDER = METHOD_SETS["all"]
"""Every method, in the order that breaks ties."""


class View:
    """The measurements at one bit-width, and what was chosen.

    bits, measure: of the runs that are shown. If they are not given: the map's width, and joint
    runs where there are any of a method. sites: all, in execution order. choices: site ->
    method, of the map, or without one of the run of a chosen map; empty if there is neither.
    chosen: the joint run of these choices, if any. rule: what chose, None if the map does not
    say.
    """

    def __init__(
        self,
        measurements: Measurements,
        mapping: Map | None = None,
        *,
        bits: int | None = None,
        measure: str | None = None,
    ) -> None:
        runs = [run for run in measurements.runs if run.images]
        _check(runs, measurements)
        self.measurements = measurements
        self.mapping = mapping
        self.bits = bits or _bits(runs, mapping)
        self.measure = measure or ("joint" if self.measured("joint") else "isolated")
        self.sites = [
            Site(index, name, kind)
            for index, (name, kind) in enumerate(measurements.sites.items(), 1)
        ]
        self._figures: dict[tuple[int, str], dict[str, dict[str, Figures]]] = {}
        chosen = measurements.run(self.bits, "joint", CHOSEN)
        chosen = chosen if chosen and chosen.images else None
        if mapping is not None:
            resolved = mapping.resolve(measurements.sites)
            self.choices = {site: choice.method for site, choice in resolved.items()}
        else:
            self.choices = methods_of(chosen) if chosen else {}
        self.chosen = chosen if chosen and methods_of(chosen) == self.choices else None
        self.provenance: dict[str, Any] = mapping.provenance if mapping else {}
        self.rule: Rule | None = RULES.get(str(self.provenance.get("rule")))

    @property
    def kinds(self) -> list[str]:
        """Kinds of sites that the model has, in the registry's order."""
        return [kind for kind in METHODS if kind in self.measurements.sites.values()]

    def measured(self, measure: str) -> bool:
        """Whether a method was measured that way, "joint" or "isolated", at the shown width."""
        runs = [self.measurements.run(self.bits, measure, method) for method in ORDER]
        return any(run is not None and run.images for run in runs)

    @property
    def widths(self) -> list[int]:
        """Bit-widths with runs of methods of the shown measure, the widest first."""
        widths = sorted(self.measurements.widths(), reverse=True)
        return [bits for bits in widths if any(self.run(method, bits) for method in ORDER)]

    @property
    def images(self) -> int:
        """Images behind the figures: of the method's run that has seen the fewest."""
        return min((run.images for method in ORDER if (run := self.run(method))), default=0)

    def of_kind(self, kind: str) -> list[Site]:
        """The sites of a kind."""
        return [site for site in self.sites if site.kind == kind]

    def run(self, name: str, bits: int | None = None) -> Run | None:
        """A run with images, of the shown measure, at the shown width or at `bits`."""
        run = self.measurements.run(bits or self.bits, self.measure, name)
        return run if run and run.images else None

    def candidates(self, kind: str) -> list[str]:
        """Methods with figures at sites of the kind, in the registry's order."""
        names = [site.name for site in self.of_kind(kind)]
        return [m for m in ORDER if any(self.figures(m, name) for name in names)]

    def models(self) -> dict[str, Run]:
        """Runs of whole models with logits: of every method, and of the choices as CHOSEN."""
        runs = {m: self.measurements.run(self.bits, "joint", m) for m in ORDER}
        return {
            name: run
            for name, run in {**runs, CHOSEN: self.chosen}.items()
            if run is not None and run.logits.signal
        }

    @property
    def methods(self) -> list[str]:
        """Methods with figures or a reason to have none, in the registry's order."""
        names = [site.name for site in self.sites]
        return [
            method
            for method in ORDER
            if any(self.stated(method, name) or method in self.unusable(name) for name in names)
        ]

    def allowed(self) -> tuple[str, ...]:
        """Methods that the rule chose from: the map's set of them, or all that were measured."""
        stated = METHOD_SETS.get(str(self.provenance.get("methods")), ORDER)
        return tuple(m for m in stated if self.run(m))

    def entry(self, method: str, site: str) -> SiteRun | None:
        """What was measured of a method at a site; another method's stand-in is none."""
        run = self.run(method)
        entry = run.sites.get(site) if run else None
        return entry if entry and entry.method == method else None

    def figures(self, method: str, site: str, bits: int | None = None) -> Figures:
        """Figures of a method at a site, computed from its run; empty if there are none."""
        return self.figures_at(bits or self.bits)[site].get(method, {})

    def figures_at(self, bits: int, measure: str | None = None) -> dict[str, dict[str, Figures]]:
        """The same for all sites and methods of a bit-width, also of another measure."""
        key = (bits, measure or self.measure)
        if key not in self._figures:
            self._figures[key] = figures(self.measurements, *key, ORDER)
        return self._figures[key]

    @property
    def basis(self) -> str:
        """The measure that the map was chosen by, or the shown one if that was not measured."""
        stated = self.provenance.get("measure")
        return str(stated) if stated in MEASURES and self.measured(stated) else self.measure

    def stated(self, method: str, site: str) -> Figures:
        """Figures as the map states them, or computed in its measure where it states none."""
        computed = self.figures_at(self.bits, self.basis)[site].get(method, {})
        return self.stated_by_map(site).get(method) or computed

    def stated_by_map(self, site: str) -> dict[str, Figures]:
        """Figures that the map gives for its choice at a site, by method."""
        return measured_figures(self._measured(site))

    def reason(self, site: str) -> str | None:
        """The sentence that the map gives for its choice at a site."""
        reason = self._measured(site).get("reason")
        return one_line(reason) if isinstance(reason, str) else None

    def unusable(self, site: str) -> dict[str, str]:
        """By method, why it cannot be used at a site: of the runs and of the map."""
        runs = {method: run for method in ORDER if (run := self.run(method))}
        found = {method: run.unusable[site] for method, run in runs.items() if site in run.unusable}
        stated = self._measured(site).get("unusable")
        if isinstance(stated, dict):
            found |= {method: str(why) for method, why in stated.items() if method in ORDER}
        return {method: one_line(why) for method, why in found.items()}

    def counts(self, choices: dict[str, str] | None = None) -> dict[str, dict[str, int]]:
        """Per kind and method: how many sites use it, in the map or in `choices`."""
        return counts(self.measurements.sites, self.choices if choices is None else choices)

    def best(self, rule: str, bits: int, allowed: Sequence[str]) -> dict[str, str]:
        """What a rule of the paper chooses of `allowed` at every site that has their figures."""
        found = {
            site: {method: f for method, f in entries.items() if method in allowed}
            for site, entries in self.figures_at(bits).items()
        }
        return {site: choose(entries, rule) for site, entries in found.items() if entries}

    def mean_db(self, method: str, kind: str, bits: int) -> float | None:
        """Mean over the sites of a kind of the output SQNR, in usual dB."""
        found = [self.figures(method, site.name, bits) for site in self.of_kind(kind)]
        values = [entry["output_sqnr_db"] for entry in found if entry]
        return sum(values) / len(values) if values else None

    def _measured(self, site: str) -> dict[str, Any]:
        entry = self.mapping.sites.get(site, {}) if self.mapping else {}
        measured = entry.get("measured")
        return measured if isinstance(measured, dict) else {}


def counts(sites: dict[str, str], choices: dict[str, str]) -> dict[str, dict[str, int]]:
    """Per kind and method: how many sites use it. A method that a kind lacks is left out."""
    table = {kind: dict.fromkeys(methods, 0) for kind, methods in METHODS.items()}
    for site, method in choices.items():
        kind = table[sites[site]]
        kind[method] = kind.get(method, 0) + 1
    return table


def methods_of(run: Run) -> dict[str, str]:
    """The method that ran at every site of a run."""
    return {site: entry.method for site, entry in run.sites.items()}


def _check(runs: list[Run], measurements: Measurements) -> None:
    """Raise InputError unless there are runs, and all methods are known to this version."""
    if not runs:
        raise InputError(
            "report: expected measurements, found no run with images; run mnq-assign to its end"
        )
    names = {run.name for run in runs} - {CHOSEN}
    names |= {entry.method for run in runs for entry in run.sites.values()}
    for search in measurements.searches:
        names |= {*search.methods}
        names |= {method for trial in search.sites.values() for method in trial.sqnr_db}
    for front in measurements.fronts:
        names |= {*front.methods}
    if unknown := sorted(names - set(ORDER)):
        raise InputError(
            f"report: expected the methods {', '.join(ORDER)}, found {one_line(unknown[0])!r}; "
            "use the version of mnq that measured it"
        )


def _bits(runs: list[Run], mapping: Map | None) -> int:
    """The width to show: the map's; without one the chosen run's, or the first of joint runs."""
    widths = dict.fromkeys(run.bits for run in runs)
    if mapping is not None:
        if mapping.activation_bits not in widths:
            raise InputError(
                f"report: expected measurements at the map's {mapping.activation_bits} bits, found "
                f"{', '.join(map(str, widths))}; run mnq-assign --bits {mapping.activation_bits}"
            )
        return mapping.activation_bits
    for wanted in (lambda run: run.name == CHOSEN, lambda run: run.measure == "joint"):
        for run in runs:
            if wanted(run):
                return run.bits
    return runs[0].bits
