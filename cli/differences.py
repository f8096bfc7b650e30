"""What mnq-report diff prints, from what toolchain/report/compare.py finds."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from rich.table import Table
from rich.text import Text

Part = Table | str


def map_tables(found: dict[str, Any]) -> list[Part]:
    """A line on both maps, their counts, and a row for every site that differs."""
    lines = [
        f"{name}: {found['bits'][name]['activations']} bits, weights "
        f"{found['bits'][name]['weights']} bits, rule {found['rule'][name] or 'not stated'}"
        for name in ("a", "b")
    ]
    counts = [
        [kind, method, str(both["a"]), str(both["b"])]
        for kind, methods in found["counts"].items()
        for method, both in methods.items()
        if both["a"] or both["b"]
    ]
    parts: list[Part] = [*lines, "", _table(["kind", "method", "a", "b"], counts, {0, 1}), ""]
    if not found["sites"]:
        return [*parts, "The same method at every site."]
    keys = [key for key in _FIGURES if _anywhere(found["sites"], key)]
    heads = ["site"]
    for name in ("a", "b"):
        heads += [name, *(_FIGURES[key] for key in keys)]
    rows = [
        [site, *_choice(entry["a"], keys), *_choice(entry["b"], keys)]
        for site, entry in found["sites"].items()
    ]
    texts = {0, 1, len(keys) + 2}
    title = "1 site differs:" if len(rows) == 1 else f"{len(rows)} sites differ:"
    return [*parts, title, _table(heads, rows, texts)]


_FIGURES = {"diff": "diff", "output_sqnr_db": "out dB", "logit_sqnr_db": "logits dB"}


def _anywhere(sites: dict[str, Any], key: str) -> bool:
    return any(key in entry[name]["figures"] for entry in sites.values() for name in ("a", "b"))


def measurement_tables(found: dict[str, Any]) -> list[Part]:
    """What they have in common, mean output SQNR, logits, and the sites that changed most."""
    parts: list[Part] = [f"images: {found['images']['a']} and {found['images']['b']}"]
    if found["different_subject"]:
        parts.append(f"measured on different {', '.join(found['different_subject'])}")
    for name in ("a", "b"):
        if found[f"only_{name}"]:
            parts.append(f"only in {name}: {'; '.join(found[f'only_{name}'])}")
    for title, key, last in (
        ("Mean output SQNR in dB", "mean_output_sqnr_db", "kind"),
        ("Logit SQNR in dB", "logit_sqnr_db", None),
        ("Sites that changed most, output SQNR in dB", "most_changed_output_sqnr_db", "site"),
    ):
        if not found[key]:
            continue
        keys = ["bits", "measure", "run", *([last] if last else [])]
        rows = [
            [
                *(str(row[k]) for k in keys),
                *(_number(row[k]) for k in ("a", "b")),
                f"{row['change']:+.2f}",
            ]
            for row in found[key]
        ]
        parts += ["", title, _table([*keys, "a", "b", "change"], rows, set(range(len(keys))))]
    if not found["mean_output_sqnr_db"]:
        parts.append("Nothing that both measured.")
    return parts


def _choice(entry: dict[str, Any], keys: list[str]) -> list[str]:
    """Cells for one map's choice at a site."""
    normalized = entry.get("attention") == "normalized"
    method = f"{entry['method']} normalized" if normalized else entry["method"]
    return [method, *(_number(entry["figures"].get(key)) for key in keys)]


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]], texts: set[int]) -> Table:
    """A table whose columns are numbers, but for those with an index in `texts`."""
    table = Table(box=None, pad_edge=False)
    for index, head in enumerate(heads):
        table.add_column(head, justify="left" if index in texts else "right", no_wrap=True)
    for row in rows:
        table.add_row(*(Text(cell) for cell in row))
    return table
