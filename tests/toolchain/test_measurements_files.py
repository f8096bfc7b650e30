"""Files of measurements: every way one can be wrong is one line that says so."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from toolchain_measured import complete

from mnq.toolchain import measurements as measuring
from mnq.toolchain.measurements import FORMAT, from_json, load

Refusal = Callable[..., str]
Place = tuple[str | int, ...]

COPY = "what norm1 has"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The text of a file with something in every field."""
    path = tmp_path_factory.mktemp("measurements") / "m.json"
    complete().save(path)
    return path.read_text()


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "m.json"
    path.write_text(text, encoding="utf-8")
    return path


def changed(saved: str, place: Place, value: Any) -> dict[str, Any]:
    """The file's content with another value at one place; None removes it."""
    content: dict[str, Any] = json.loads(saved)
    *above, last = place
    inner: Any = content
    for key in above:
        inner = inner[key]
    if value is None:
        del inner[last]
    else:
        inner[last] = inner["norm1"] if value == COPY else value
    return content


RUN, SITE = ("runs", 0), ("runs", 0, "sites", "norm1")
TRIAL = ("searches", 0, "sites", "attn.softmax")
FAULTS: dict[str, tuple[Place, Any]] = {
    "other format": (("format",), "mnq-measurements/9"),
    "no format": (("format",), None),
    "another field": (("more",), 1),
    "no model": (("model",), ""),
    "subject is a list": (("subject",), []),
    "no sites": (("sites",), {}),
    "unknown kind": (("sites", "norm1"), "relu"),
    "no runs": (("runs",), None),
    "run of 9 bits": ((*RUN, "bits"), 9),
    "run of true bits": ((*RUN, "bits"), True),
    "run of an unknown measure": ((*RUN, "measure"), "alone"),
    "run without a name": ((*RUN, "name"), ""),
    "run of an unknown site": ((*RUN, "sites", "norm9"), COPY),
    "run of an unknown method": ((*SITE, "method"), "exact"),
    "run of a method of another kind": ((*RUN, "sites", "norm1", "method"), "lut"),
    "reason at an unknown site": ((*RUN, "unusable", "norm9"), "why"),
    "reason that is no text": ((*RUN, "unusable", "norm1"), 1),
    "negative noise": ((*SITE, "output", "noise", 0), -1e-9),
    "negative signal": ((*RUN, "logits", "signal", 0), -1),
    "noise that is a text": ((*SITE, "input", "noise", 0), "1"),
    "noise that is a truth value": ((*SITE, "input", "noise", 0), True),
    "noise that is a list": ((*SITE, "input", "noise", 0), [1.0]),
    "more signals than noises": ((*SITE, "input", "signal"), [1.0, 2.0, 3.0]),
    "input of fewer images": ((*SITE, "input"), {"signal": [1.0], "noise": [1.0]}),
    "logits of fewer images": ((*RUN, "logits"), {"signal": [1.0], "noise": [1.0]}),
    "another histogram of an unknown site": (("histograms", "norm9"), COPY),
    "63 bins": (("histograms", "norm1", "counts"), [1] * 63),
    "65 bins": ((*SITE, "histogram"), [1] * 65),
    "negative count": (("histograms", "norm1", "counts", 3), -1),
    "count that is a text": ((*SITE, "histogram", 63), "1"),
    "histogram of no range": (("histograms", "norm1", "low"), 1 / 3),
    "histogram upside down": (("histograms", "norm1", "low"), 3.0),
    "half an image": (("histograms", "norm1", "images"), 1.5),
    "search of an unknown site": (("searches", 0, "sites", "norm9"), {"method": "x"}),
    "search that keeps an unknown method": ((*TRIAL, "method"), "exact"),
    "search without a figure of what it keeps": ((*TRIAL, "sqnr_db", "lut"), None),
    "search that starts nowhere": (("searches", 0, "start_sites"), {}),
    "search that starts without a site": (("searches", 0, "start_sites", "norm1"), None),
    "search that starts with an unknown method": (("searches", 0, "start_sites", "norm1"), "lut"),
    "search with a text for a figure": (("searches", 0, "start_db"), "12"),
    "point of no latency": (("fronts", 0, "points", 0, "milliseconds"), 0),
    "point without a site": (("fronts", 0, "points", 0, "sites", "norm1"), None),
    "point with an unknown method": (("fronts", 0, "points", 0, "sites", "norm1"), "exact"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_impossible_content_is_refused(
    name: str, saved: str, tmp_path: Path, refusal: Refusal
) -> None:
    place, value = FAULTS[name]
    path = written(tmp_path, json.dumps(changed(saved, place, value)))
    text = refusal(load, path)
    assert FORMAT in text and str(path) in text and "measure again" in text
    assert len(text) < 700


def test_a_site_with_other_images_than_the_rest_is_refused(saved: str, refusal: Refusal) -> None:
    one = {"signal": [1.0], "noise": [1.0]}
    content = changed(saved, (*SITE, "input"), one)
    content["runs"][0]["sites"]["norm1"]["output"] = one
    assert "different numbers of images" in refusal(from_json, content, "m.json")


def test_the_place_of_a_fault_is_named(saved: str, refusal: Refusal) -> None:
    content = changed(saved, ("runs", 2, "sites", "mlp.act", "method"), 7)
    assert "at runs/2/sites/mlp.act/method of m.json" in refusal(from_json, content, "m.json")
    content = changed(saved, ("runs", 2, "sites", "mlp.act", "input", "noise", 1), -2.5)
    assert "at run 'lut' of m.json: expected numbers of 0 or more, found -2.5" in refusal(
        from_json, content, "m.json"
    )


def test_original_is_not_refused(saved: str) -> None:
    """The refusals above are due to the changes."""
    assert from_json(json.loads(saved), "m.json") == complete()


NUMBERS = ["NaN", "Infinity", "-Infinity", "1e999", "-1e999", "9" * 400, "9" * 5000]


@pytest.mark.parametrize("number", NUMBERS, ids=lambda text: text[:9])
@pytest.mark.parametrize("key", ["low", "start_db", "milliseconds", "signal"])
def test_number_that_is_none_is_refused(
    key: str, number: str, saved: str, tmp_path: Path, refusal: Refusal
) -> None:
    begin = saved.index(f'"{key}":') + len(key) + 3
    begin += saved[begin] == "["
    end = min(saved.index(mark, begin) for mark in ",]}" if mark in saved[begin:])
    text = refusal(load, written(tmp_path, saved[:begin] + number + saved[end:]))
    assert text.startswith("measurements: expected") and len(text) < 700


TEXTS = {
    "empty": "",
    "no JSON": "{'format': 1}",
    "a number": "7",
    "a list": "[]",
    "deep lists": "[" * 200_000,
    "deep objects": '{"a":' * 200_000,
}


@pytest.mark.parametrize("name", TEXTS)
def test_file_that_holds_no_measurements_is_refused(
    name: str, tmp_path: Path, refusal: Refusal
) -> None:
    path = written(tmp_path, TEXTS[name])
    text = refusal(load, path)
    assert str(path) in text and len(text) < 700


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.999])
def test_truncated_file_is_refused(
    share: float, saved: str, tmp_path: Path, refusal: Refusal
) -> None:
    assert "JSON" in refusal(load, written(tmp_path, saved[: int(len(saved) * share)]))


@pytest.mark.parametrize("depth", [200, 900])
@pytest.mark.parametrize("place", [("model",), ("sites", "norm1"), (*SITE, "input", "noise", 0)])
def test_nested_values_are_refused(
    place: Place, depth: int, saved: str, tmp_path: Path, refusal: Refusal
) -> None:
    nested: Any = 1
    for _ in range(depth):
        nested = [nested]
    text = json.dumps(changed(saved, place, "here")).replace('"here"', json.dumps(nested))
    assert len(refusal(load, written(tmp_path, text))) < 700


def test_file_that_cannot_be_read_is_refused(tmp_path: Path, refusal: Refusal) -> None:
    assert "none.json" in refusal(load, tmp_path / "none.json")
    assert str(tmp_path) in refusal(load, tmp_path)
    latin = tmp_path / "latin.json"
    latin.write_bytes(b'{"model": "\xe9"}')
    assert "latin.json" in refusal(load, latin)


def test_huge_file_is_refused_before_it_is_read(
    saved: str, tmp_path: Path, refusal: Refusal, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path, saved)
    monkeypatch.setattr(measuring, "MAX_BYTES", len(saved))
    load(path)
    monkeypatch.setattr(measuring, "MAX_BYTES", len(saved) - 1)
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: pytest.fail("it was read"))
    assert f"at most {len(saved) - 1} bytes" in refusal(load, path)
