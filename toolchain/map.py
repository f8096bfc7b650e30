"""map.json: which method each non-linear site uses, and how wide codes are."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

from mnq.ops.errors import InputError
from mnq.ops.registry import METHODS, UNIFORM
from mnq.toolchain.widths import Widths

FORMAT = "mnq-map/1"
MAX_BYTES = 8 << 20
DEFAULT_ATTENTION = "deferred"


@dataclass(frozen=True)
class Choice:
    """What one site uses; `attention` is the form, for softmax sites only."""

    method: str
    attention: str


@dataclass(frozen=True)
class Map:
    """A validated map. `sites` holds the entries as they were written."""

    model: str
    activation_bits: int = 8
    weight_bits: int = 8
    defaults: dict[str, str] = field(default_factory=dict)
    sites: dict[str, dict[str, Any]] = field(default_factory=dict)
    provenance: dict[str, Any] = field(default_factory=dict)

    def widths(self) -> Widths:
        """The bits of every quantizer."""
        return Widths(self.activation_bits, self.weight_bits)

    def resolve(self, sites: dict[str, str]) -> dict[str, Choice]:
        """The choice for every site of a model (site -> kind).

        Raises InputError for a site that the model does not have, for one without a method, and
        for a method that the site's kind does not have.
        """
        unknown = [name for name in self.sites if name not in sites]
        if unknown:
            near = get_close_matches(unknown[0], sites, n=3) or list(sites)[:3]
            raise InputError(
                f"map: expected sites of {self.model}, found {unknown[0]!r} "
                f"({len(unknown)} unknown in all); near it are {', '.join(near)}; "
                "mnq-export --dry-run lists the sites"
            )
        for kind in METHODS:
            if kind in self.defaults:
                _check_method(kind, self.defaults[kind], "defaults")
        form = self.defaults.get("attention", DEFAULT_ATTENTION)
        choices: dict[str, Choice] = {}
        missing = []
        for site, kind in sites.items():
            entry = self.sites.get(site, {})
            if "attention" in entry and kind != "softmax":
                raise InputError(
                    f"map: expected the key 'attention' at softmax sites only, found it at {site}; "
                    "leave it out there"
                )
            method = entry.get("method", self.defaults.get(kind))
            if method is None:
                missing.append(site)
                continue
            _check_method(kind, method, site)
            choices[site] = Choice(method, entry.get("attention", form))
        if missing:
            raise InputError(
                f"map: expected a method for every site of {self.model}, found none for "
                f"{missing[0]!r} ({len(missing)} missing in all); name each in sites, or give "
                f"defaults a {sites[missing[0]]} method"
            )
        return choices

    def to_json(self) -> dict[str, Any]:
        """The map as a JSON object."""
        return {
            "format": FORMAT,
            "model": self.model,
            "bits": {"activations": self.activation_bits, "weights": self.weight_bits},
            "defaults": self.defaults,
            "sites": self.sites,
            "provenance": self.provenance,
        }


def _check_method(kind: str, method: str, place: str) -> None:
    if method not in METHODS[kind]:
        raise InputError(
            f"map: expected a {kind} method at {place} ({', '.join(METHODS[kind])}), "
            f"found {method!r}; choose one of these"
        )


def check_bits(bits: int) -> int:
    """`bits` if it is a supported code width. Raises InputError otherwise."""
    if not 2 <= bits <= 8:
        raise InputError(f"bits: expected 2 to 8, found {bits}; choose one of these")
    return bits


def uniform(model: str, method: str, bits: int = 8, attention: str = "deferred") -> Map:
    """The map with one method everywhere (its stand-in where it has no operator of a kind)."""
    if method not in UNIFORM:
        raise InputError(
            f"map: expected uniform:{'|'.join(UNIFORM)}, found uniform:{method}; choose one"
        )
    check_bits(bits)
    return Map(model, bits, bits, {**UNIFORM[method], "attention": attention})


def read(path: Path, model: str) -> Map:
    """Load and check a map.json for `model`.

    Raises InputError for an unreadable file, a schema violation (named with its place), or a
    map of another model.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise InputError(
                f"map: expected at most {MAX_BYTES} bytes, found more in {path}; is it a map?"
            )
        data = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=_no_duplicates)
    except (OSError, RecursionError, ValueError) as error:  # JSON and UTF-8 faults too
        reason = getattr(error, "strerror", None) or getattr(error, "msg", None) or error
        raise InputError(
            f"map: expected a JSON file, found: {reason}, in {path}; correct it, or give "
            f"uniform:{'|'.join(UNIFORM)}"
        ) from error
    return from_json(data, model, str(path))


def from_json(data: Any, model: str, source: str) -> Map:
    """The map in a decoded JSON value; `source` names it in errors."""
    schema = json.loads(files("mnq.toolchain").joinpath("map.schema.json").read_text())
    errors = sorted(Draft202012Validator(schema).iter_errors(data), key=lambda e: list(e.path))
    if errors:
        place = "/".join(str(part) for part in errors[0].absolute_path) or "top level"
        message = errors[0].message if len(errors[0].message) < 300 else errors[0].validator
        raise InputError(
            f"map: expected {FORMAT}, found a fault at {place} of {source}: {message}; "
            "docs/map.md has the format"
        )
    if data["model"] != model:
        raise InputError(
            f"map: expected a map of {model}, found one of {data['model']} in {source}; "
            "make one for this model or pass its --model"
        )
    bits = data.get("bits", {})
    return Map(
        data["model"],
        int(bits.get("activations", 8)),  # 8.0 is an integer in JSON schema
        int(bits.get("weights", 8)),
        data.get("defaults", {}),
        data.get("sites", {}),
        data.get("provenance", {}),
    )


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result: dict[str, Any] = {}
    for key, value in pairs:
        if key in result:
            raise InputError(f"map: expected each key once, found {key!r} twice; remove one")
        result[key] = value
    return result
