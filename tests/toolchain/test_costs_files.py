"""Files of operator costs: a round trip, and every way one can be wrong."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from toolchain_harness import Quantized

from mnq.toolchain import cost
from mnq.toolchain.cost import FORMAT, Costs, load
from mnq.toolchain.variants import Variants

Refusal = Callable[..., str]


@pytest.fixture(scope="module")
def variants(quantized: Quantized) -> Variants:
    return quantized.variants(8)


@pytest.fixture(scope="module")
def content(variants: Variants) -> dict[str, Any]:
    """What a good file holds."""
    sites = {s: {m: 0.125 + len(m) for m in steps} for s, steps in variants.steps.items()}
    machine = {"processor": "Acme 9000", "onnxruntime": "1.31.1"}
    return {
        "format": FORMAT,
        "model": "tiny",
        "bits": 8,
        "threads": 3,
        "machine": machine,
        "sites": sites,
    }


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "costs.json"
    path.write_text(text, encoding="utf-8")
    return path


def test_round_trip_keeps_everything(
    content: dict[str, Any], variants: Variants, tmp_path: Path
) -> None:
    expected = Costs(**{key: value for key, value in content.items() if key != "format"})
    path = tmp_path / "costs.json"
    expected.save(path)
    assert load(path, variants, "tiny") == expected
    assert json.loads(path.read_text()) == content
    assert list(tmp_path.iterdir()) == [path]


OTHERS: dict[str, dict[str, Any]] = {
    "of another model": {"model": "other"},
    "of another width": {"bits": 4},
    "without a site": {"sites": {"norm": {"ivit": 1.0, "ibert": 1.0, "fqvit": 1.0}}},
}


@pytest.mark.parametrize("name", OTHERS)
def test_costs_of_something_else_are_refused(
    name: str, content: dict[str, Any], variants: Variants, tmp_path: Path, refusal: Refusal
) -> None:
    path = written(tmp_path, json.dumps({**content, **OTHERS[name]}))
    text = refusal(load, path, variants, "tiny")
    assert "expected those of tiny at 8 bits" in text and str(path) in text
    assert "another --costs file" in text


@pytest.mark.parametrize("change", ["more", "less"])
def test_costs_of_other_methods_are_refused(
    change: str, content: dict[str, Any], variants: Variants, tmp_path: Path, refusal: Refusal
) -> None:
    """As where a method has become usable since, or has been renamed."""
    other = json.loads(json.dumps(content))
    if change == "more":
        other["sites"]["norm"]["exact"] = 1.0
    else:
        del other["sites"]["norm"]["ivit"]
    path = written(tmp_path, json.dumps(other))
    assert "all usable methods at all sites" in refusal(load, path, variants, "tiny")


BROKEN: dict[str, dict[str, Any]] = {
    "other format": {"format": "mnq-costs/9"},
    "another field": {"more": 1},
    "no time at all": {"sites": {"norm": {}}},
    "no sites": {"sites": {}},
    "a time of 0": {"sites": {"norm": {"ivit": 0}}},
    "a negative time": {"sites": {"norm": {"ivit": -1.0}}},
    "a time that is a text": {"sites": {"norm": {"ivit": "1"}}},
    "a time without end": {"sites": {"norm": {"ivit": 1e10}}},
    "9 bits": {"bits": 9},
    "negative threads": {"threads": -1},
    "machine is a text": {"machine": "Acme 9000"},
}
TEXTS = {
    "empty": "",
    "no JSON": "{'format': 1}",
    "a list": "[]",
    "null": "null",
    "deep lists": "[" * 200_000,
    "deep objects": '{"a":' * 200_000,
    "deep and whole": "[" * 900 + "]" * 900,
}


@pytest.mark.parametrize("name", BROKEN)
def test_impossible_content_is_refused(
    name: str, content: dict[str, Any], variants: Variants, tmp_path: Path, refusal: Refusal
) -> None:
    path = written(tmp_path, json.dumps({**content, **BROKEN[name]}))
    text = refusal(load, path, variants, "tiny")
    assert FORMAT in text and str(path) in text and "remove it to measure again" in text


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e999", "9" * 400, "9" * 5000])
def test_time_that_is_no_number_is_refused(
    number: str, content: dict[str, Any], variants: Variants, tmp_path: Path, refusal: Refusal
) -> None:
    text = json.dumps(content).replace("4.125", number, 1)
    assert text.count(number) == 1
    assert str(tmp_path) in refusal(load, written(tmp_path, text), variants, "tiny")


@pytest.mark.parametrize("name", TEXTS)
def test_file_that_holds_no_costs_is_refused(
    name: str, variants: Variants, tmp_path: Path, refusal: Refusal
) -> None:
    text = refusal(load, written(tmp_path, TEXTS[name]), variants, "tiny")
    assert str(tmp_path) in text and len(text) < 700


def test_file_that_cannot_be_read_is_refused(
    variants: Variants, tmp_path: Path, refusal: Refusal
) -> None:
    assert "none.json" in refusal(load, tmp_path / "none.json", variants, "tiny")
    assert str(tmp_path) in refusal(load, tmp_path, variants, "tiny")
    latin = tmp_path / "latin.json"
    latin.write_bytes(b'{"model": "\xe9"}')
    assert "latin.json" in refusal(load, latin, variants, "tiny")


def test_huge_file_is_not_read(
    content: dict[str, Any],
    variants: Variants,
    tmp_path: Path,
    refusal: Refusal,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    path = written(tmp_path, json.dumps(content))
    monkeypatch.setattr(cost, "MAX_BYTES", path.stat().st_size)
    load(path, variants, "tiny")
    monkeypatch.setattr(cost, "MAX_BYTES", path.stat().st_size - 1)
    assert FORMAT in refusal(load, path, variants, "tiny")
