"""Variants: every usable method at every site of one calibrated model, as steps to swap."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from mnq.ops.errors import InputError
from mnq.ops.registry import METHODS, UNIFORM
from mnq.toolchain.build import UnusableMethod
from mnq.toolchain.map import Choice, Map
from mnq.toolchain.probe import Probe
from mnq.toolchain.program import Program, Step

PAPER_METHODS = ("ivit", "ibert", "fqvit")
"""The published methods, the paper's candidates; `lut` is ours."""

FORM = "deferred"
"""Of attention, everywhere: the default, and the better one at 8 bits (spec 4.7)."""

Methods = dict[str, str]
"""The method of every site."""


@dataclass(frozen=True)
class Variants:
    """One model at one bit-width: the sites, their candidates, and programs of any mix.

    sites: kind by site, in execution order.
    steps: by site and method, the step that runs it; unusable: by site and method, the reason.
    Only the steps of the sites differ between programs: calibration knows no methods.
    """

    bits: int
    sites: dict[str, str]
    steps: dict[str, dict[str, Step]]
    unusable: dict[str, dict[str, str]]
    base: Program

    def candidates(self, site: str, allowed: tuple[str, ...]) -> list[str]:
        """Usable methods of a site among `allowed`, in the order that breaks ties."""
        found = [m for m in METHODS[self.sites[site]] if m in self.steps[site] and m in allowed]
        if not found:
            raise _none_usable(site, self.unusable[site])
        return found

    def uniform(self, name: str) -> Methods:
        """`name` at every site; its stand-in, or the first usable one, where it cannot be."""
        methods = {}
        for site, kind in self.sites.items():
            wanted = UNIFORM[name][kind]
            usable = self.candidates(site, tuple(METHODS[kind]))
            methods[site] = wanted if wanted in usable else usable[0]
        return methods

    def program(self, methods: Methods) -> Program:
        """The program of a mix."""
        steps = [
            self.steps[step.site][methods[step.site]] if step.site else step
            for step in self.base.steps
        ]
        return replace(self.base, steps=steps)

    def probe(self, site: str, method: str) -> Probe:
        """A probe of a site's step."""
        return Probe(self.steps[site][method], self.sites[site], Choice(method, FORM))


def variants(
    model: str,
    sites: dict[str, str],
    bits: int,
    build: Callable[[Map], Program],
) -> Variants:
    """All methods of the registry at all sites. `build` makes the program of a map of `model`, with
    a step for every site.

    A method whose operator refuses a site (scales out of its range) is noted as unusable there.
    Raises InputError if a site has no other.
    """
    steps: dict[str, dict[str, Step]] = {site: {} for site in sites}
    unusable: dict[str, dict[str, str]] = {site: {} for site in sites}
    base: Program | None = None
    for methods in UNIFORM.values():
        chosen = {site: methods[kind] for site, kind in sites.items()}
        program = None
        while program is None:
            entries = {site: {"method": method} for site, method in chosen.items()}
            mapping = Map(model, bits, bits, {"attention": FORM}, entries)
            try:
                program = build(mapping)
            except UnusableMethod as error:
                unusable[error.site][chosen[error.site]] = str(error)
                rest = [m for m in METHODS[sites[error.site]] if m not in unusable[error.site]]
                if not rest:
                    raise _none_usable(error.site, unusable[error.site]) from error
                chosen[error.site] = rest[0]
        for step in program.steps:
            if step.site:
                steps[step.site].setdefault(chosen[step.site], step)
        base = base or program
    assert base is not None
    return Variants(bits, sites, steps, unusable, base)


def _none_usable(site: str, unusable: dict[str, str]) -> InputError:
    reasons = "; ".join(f"{method}: {why}" for method, why in unusable.items())
    return InputError(
        f"assign: expected a usable method at site {site}, found none ({reasons}); check the "
        "weights and the calibration"
    )
