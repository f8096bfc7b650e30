"""What differs between two maps, or between two measurements, of the same model."""

from __future__ import annotations

from typing import Any

from mnq.ops.errors import InputError, one_line
from mnq.toolchain.assign import figures
from mnq.toolchain.map import Choice, Map
from mnq.toolchain.measurements import CHOSEN, Measurements, Run
from mnq.toolchain.report.rules import measured_figures
from mnq.toolchain.report.view import ORDER, counts

MOST_CHANGED = 10


def maps(a: Map, b: Map, sites: dict[str, str]) -> dict[str, Any]:
    """Bits, rules and counts of two maps, and the sites at which they differ.

    sites: kind of every site of the model. Raises InputError for a map that does not fit them.
    """
    choices = [mapping.resolve(sites) for mapping in (a, b)]
    different = {
        site: {
            "kind": kind,
            "a": _choice(a, site, kind, choices[0][site]),
            "b": _choice(b, site, kind, choices[1][site]),
        }
        for site, kind in sites.items()
        if _said(kind, choices[0][site]) != _said(kind, choices[1][site])
    }
    tables = [counts(sites, {s: c.method for s, c in found.items()}) for found in choices]
    return {
        "format": "mnq-map/1",
        "model": a.model,
        "bits": {name: _bits(mapping) for name, mapping in (("a", a), ("b", b))},
        "rule": {"a": a.provenance.get("rule"), "b": b.provenance.get("rule")},
        "counts": {
            kind: {m: {"a": tables[0][kind][m], "b": tables[1][kind][m]} for m in methods}
            for kind, methods in tables[0].items()
        },
        "sites": different,
    }


def measurements(a: Measurements, b: Measurements) -> dict[str, Any]:
    """Mean output SQNR per kind and method, logits, and the sites that changed most.

    Only what both measured is compared. Raises InputError if they are of other sites.
    """
    if a.sites != b.sites:
        raise InputError(
            f"report: expected measurements of the same {len(a.sites)} sites, found others in the "
            "second file; measure both with one version of mnq"
        )
    subjects = {**a.subject, **b.subject}
    found = [{_key(r): r for r in m.runs if r.images} for m in (a, b)]
    means: list[dict[str, Any]] = []
    logits: list[dict[str, Any]] = []
    changes: list[dict[str, Any]] = []
    for key in (key for key in found[0] if key in found[1]):
        one, other = found[0][key], found[1][key]
        run = {"bits": key[0], "measure": key[1], "run": key[2]}
        if one.logits.signal and other.logits.signal:
            logits.append({**run, **_pair(one.logits.sqnr_db(), other.logits.sqnr_db())})
        before, after = _outputs(a, one), _outputs(b, other)
        both = [site for site in before if site in after]
        for kind in dict.fromkeys(a.sites[site] for site in both):
            names = [site for site in both if a.sites[site] == kind]
            values = [sum(table[s] for s in names) / len(names) for table in (before, after)]
            means.append({**run, "kind": kind, "sites": len(names), **_pair(*values)})
        if key[2] != CHOSEN:
            changes += [{**run, "site": s, **_pair(before[s], after[s])} for s in both]
    changes.sort(key=lambda change: -abs(change["change"]))
    return {
        "format": "mnq-measurements/1",
        "model": a.model,
        "images": {"a": _images(a), "b": _images(b)},
        "different_subject": [k for k in subjects if a.subject.get(k) != b.subject.get(k)],
        "only_a": [_text(key) for key in found[0] if key not in found[1]],
        "only_b": [_text(key) for key in found[1] if key not in found[0]],
        "logit_sqnr_db": logits,
        "mean_output_sqnr_db": means,
        "most_changed_output_sqnr_db": changes[:MOST_CHANGED],
    }


def _said(kind: str, choice: Choice) -> tuple[str, ...]:
    """What a choice says at a kind of site; elsewhere the form of attention says nothing."""
    return (choice.method, choice.attention) if kind == "softmax" else (choice.method,)


def _choice(mapping: Map, site: str, kind: str, choice: Choice) -> dict[str, Any]:
    measured = mapping.sites.get(site, {}).get("measured")
    known = measured_figures(measured if isinstance(measured, dict) else {})
    attention = {"attention": choice.attention} if kind == "softmax" else {}
    return {"method": choice.method, **attention, "figures": known.get(choice.method, {})}


def _bits(mapping: Map) -> dict[str, int]:
    return {"activations": mapping.activation_bits, "weights": mapping.weight_bits}


def _key(run: Run) -> tuple[int, str, str]:
    return run.bits, run.measure, run.name


def _text(key: tuple[int, str, str]) -> str:
    return one_line(f"{key[2]}, {key[0]} bits, {key[1]}")


def _images(measurements: Measurements) -> int:
    return max((run.images for run in measurements.runs), default=0)


def _outputs(measurements: Measurements, run: Run) -> dict[str, float]:
    """Output SQNR in dB by site: of a method where it ran itself, of a chosen map everywhere."""
    if run.name == CHOSEN:
        return {site: entry.output.sqnr_db() for site, entry in run.sites.items()}
    table = figures(measurements, run.bits, run.measure, ORDER)
    return {s: f[run.name]["output_sqnr_db"] for s, f in table.items() if run.name in f}


def _pair(a: float, b: float) -> dict[str, float]:
    return {"a": a, "b": b, "change": b - a}
