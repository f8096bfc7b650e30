"""map.json: what is valid, what is said about what is not, and which entry wins."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mnq.ops.registry import METHODS, UNIFORM
from mnq.toolchain import map as maps
from mnq.toolchain.graph import Graph
from mnq.toolchain.map import FORMAT, Choice, Map

Refusal = Callable[..., str]

SITES = {
    "blocks.0.norm1": "layernorm",
    "blocks.0.attn.softmax": "softmax",
    "blocks.0.mlp.act": "gelu",
    "blocks.1.attn.softmax": "softmax",
}
VALID: dict[str, Any] = {
    "format": FORMAT,
    "model": "tiny",
    "bits": {"activations": 6, "weights": 4},
    "defaults": {
        "softmax": "ivit",
        "gelu": "lut",
        "layernorm": "fqvit",
        "attention": "normalized",
    },
    "sites": {
        "blocks.0.attn.softmax": {"method": "lut", "attention": "deferred", "measured": {"x": 1}},
        "blocks.0.mlp.act": {"method": "ibert"},
    },
    "provenance": {"rule": "by hand"},
}


def changed(**parts: Any) -> dict[str, Any]:
    return {**VALID, **parts}


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "map.json"
    path.write_text(text, encoding="utf-8")
    return path


def test_valid_file_is_read(tmp_path: Path) -> None:
    found = maps.read(written(tmp_path, json.dumps(VALID)), "tiny")
    assert found == Map("tiny", 6, 4, VALID["defaults"], VALID["sites"], VALID["provenance"])


def test_round_trip_keeps_everything() -> None:
    found = maps.from_json(VALID, "tiny", "here")
    assert found.to_json() == VALID
    assert maps.from_json(found.to_json(), "tiny", "here") == found


def test_smallest_map_has_8_bits_and_deferred_attention() -> None:
    found = maps.from_json({"format": FORMAT, "model": "tiny"}, "tiny", "here")
    assert (found.activation_bits, found.weight_bits) == (8, 8)
    choices = Map("tiny", defaults=UNIFORM["ibert"]).resolve(SITES)
    assert choices["blocks.0.attn.softmax"] == Choice("ibert", "deferred")
    assert {choice.method for choice in choices.values()} == {"ibert"}


def test_a_site_without_a_method_is_refused(refusal: Refusal) -> None:
    without = {kind: method for kind, method in VALID["defaults"].items() if kind != "softmax"}
    given = Map("tiny", defaults={**without, "layernorm": "ivit"}, sites=VALID["sites"])
    text = refusal(given.resolve, SITES)
    assert "none for 'blocks.1.attn.softmax' (1 missing in all)" in text
    assert "softmax" in text.split(";")[1]
    assert "(4 missing in all)" in refusal(Map("tiny").resolve, SITES)


def test_integral_floats_are_integers() -> None:
    """JSON schema takes 8.0 for an integer; the same map gives the same model."""
    found = maps.from_json(changed(bits={"activations": 8.0, "weights": 8.0}), "tiny", "here")
    assert type(found.activation_bits) is int and type(found.weight_bits) is int


def test_sites_win_over_defaults_and_defaults_over_the_rest() -> None:
    choices = maps.from_json(VALID, "tiny", "here").resolve(SITES)
    assert list(choices) == list(SITES)
    assert choices["blocks.0.attn.softmax"] == Choice("lut", "deferred")  # both of the site
    assert choices["blocks.1.attn.softmax"] == Choice("ivit", "normalized")  # of the defaults
    assert choices["blocks.0.mlp.act"].method == "ibert"  # of the site
    assert choices["blocks.0.norm1"].method == "fqvit"  # of the defaults


@pytest.mark.parametrize("method", UNIFORM)
def test_uniform_map_uses_the_stand_in_where_a_method_has_no_operator(method: str) -> None:
    found = maps.uniform("tiny", method, 6, "normalized")
    assert (found.activation_bits, found.weight_bits) == (6, 6)
    choices = found.resolve(SITES)
    for site, kind in SITES.items():
        own = method in METHODS[kind]
        stand_in = {"gelu": "ivit", "layernorm": "ibert"}.get(kind, "")
        assert choices[site] == Choice(method if own else stand_in, "normalized")


def test_uniform_map_is_a_valid_map(graph: Graph) -> None:
    for method in UNIFORM:
        found = maps.uniform("tiny", method, 4)
        assert maps.from_json(found.to_json(), "tiny", "here") == found
        assert set(found.resolve(graph.sites())) == set(graph.sites())


@pytest.mark.parametrize("bits", [1, 9, 0, -8])
def test_uniform_map_of_unsupported_bits_is_refused(bits: int, refusal: Refusal) -> None:
    assert str(bits) in refusal(maps.uniform, "tiny", "lut", bits)


def test_uniform_map_of_an_unknown_method_is_refused(refusal: Refusal) -> None:
    text = refusal(maps.uniform, "tiny", "ibet")
    assert "uniform:ibet" in text and all(method in text for method in UNIFORM)


FAULTS: list[tuple[str, Any]] = [
    ("top level", []),
    ("top level", 7),
    ("top level", None),
    ("top level", {"model": "tiny"}),
    ("top level", changed(more=1)),
    ("format", changed(format="mnq-map/2")),
    ("model", changed(model="")),
    ("model", changed(model=["tiny"])),
    ("bits", changed(bits=8)),
    ("bits", changed(bits={"activation": 8})),
    ("bits/activations", changed(bits={"activations": 9})),
    ("bits/activations", changed(bits={"activations": 1})),
    ("bits/weights", changed(bits={"weights": 7.5})),
    ("bits/weights", changed(bits={"weights": True})),
    ("bits/weights", changed(bits={"weights": float("nan")})),
    ("bits/weights", changed(bits={"weights": 10**30})),
    ("defaults", changed(defaults={"relu": "lut"})),
    ("defaults/gelu", changed(defaults={"gelu": 3})),
    ("defaults/attention", changed(defaults={"attention": "late"})),
    ("sites", changed(sites=[])),
    ("sites/a", changed(sites={"a": "lut"})),
    ("sites/a", changed(sites={"a": {}})),
    ("sites/a", changed(sites={"a": {"method": "lut", "bits": 8}})),
    ("sites/a/method", changed(sites={"a": {"method": "x" * 100_000}})),
    ("sites/a/attention", changed(sites={"a": {"method": "lut", "attention": ""}})),
    ("sites", changed(sites={f"s{i}": {"method": "lut"} for i in range(10_001)})),
    ("provenance", changed(provenance="me")),
]


@pytest.mark.parametrize(("place", "data"), FAULTS)
def test_schema_violation_is_named_with_its_place(place: str, data: Any, refusal: Refusal) -> None:
    text = refusal(maps.from_json, data, "tiny", "x.json")
    assert f"at {place} of x.json" in text
    assert len(text) < 600


def test_map_of_another_model_is_refused(refusal: Refusal) -> None:
    text = refusal(maps.from_json, VALID, "other", "x.json")
    assert "other" in text and "tiny" in text


@pytest.mark.parametrize(
    ("site", "near"),
    [("blocks.0.attn.softmx", "blocks.0.attn.softmax"), ("mlp.act", "blocks.0.mlp.act")],
)
def test_unknown_site_is_refused_with_near_names(site: str, near: str, refusal: Refusal) -> None:
    found = maps.from_json(changed(sites={site: {"method": "lut"}}), "tiny", "here")
    text = refusal(found.resolve, SITES)
    assert repr(site) in text and near in text


@pytest.mark.parametrize(
    ("parts", "place", "kind"),
    [
        ({"sites": {"blocks.0.mlp.act": {"method": "fqvit"}}}, "blocks.0.mlp.act", "gelu"),
        ({"sites": {"blocks.0.norm1": {"method": "lut"}}}, "blocks.0.norm1", "layernorm"),
        ({"sites": {"blocks.0.norm1": {"method": "ibet"}}}, "blocks.0.norm1", "layernorm"),
        ({"defaults": {"gelu": "fqvit"}, "sites": {}}, "defaults", "gelu"),
        ({"defaults": {"softmax": "exact"}, "sites": {}}, "defaults", "softmax"),
    ],
)
def test_method_that_the_kind_does_not_have_is_refused(
    parts: dict[str, Any], place: str, kind: str, refusal: Refusal
) -> None:
    text = refusal(maps.from_json(changed(**parts), "tiny", "here").resolve, SITES)
    assert place in text and all(method in text for method in METHODS[kind])


def test_attention_form_belongs_to_softmax_sites(refusal: Refusal) -> None:
    site = {"blocks.0.mlp.act": {"method": "lut", "attention": "deferred"}}
    text = refusal(maps.from_json(changed(sites=site), "tiny", "here").resolve, SITES)
    assert "blocks.0.mlp.act" in text and "attention" in text


TEXTS = {
    "empty": "",
    "no JSON": "{'format': 1}",
    "cut": json.dumps(VALID)[:-5],
    "twice the same key": '{"format": "mnq-map/1", "model": "tiny", "model": "tiny"}',
    "twice the same site": '{"sites": {"a": {"method": "lut"}, "a": {"method": "lut"}}}',
    "deep lists": "[" * 200_000,
    "deep objects": '{"a":' * 200_000,
    "5000 digits": '{"bits": {"weights": ' + "9" * 5000 + "}}",
}


@pytest.mark.parametrize("name", TEXTS)
def test_file_that_is_no_map_is_refused(name: str, tmp_path: Path, refusal: Refusal) -> None:
    text = refusal(maps.read, written(tmp_path, TEXTS[name]), "tiny")
    assert text.startswith("map: ") and len(text) < 600


@pytest.mark.parametrize("depth", [200, 900])
@pytest.mark.parametrize("key", ["format", "model", "provenance", "sites"])
def test_nested_values_are_refused_or_kept(
    key: str, depth: int, tmp_path: Path, refusal: Refusal
) -> None:
    nested = "[" * depth + "]" * depth
    rest = {k: v for k, v in VALID.items() if k != key}
    text = json.dumps(rest)[:-1] + f', "{key}": {nested}}}'
    assert len(refusal(maps.read, written(tmp_path, text), "tiny")) < 600


def test_file_that_cannot_be_read_is_refused(tmp_path: Path, refusal: Refusal) -> None:
    assert "none.json" in refusal(maps.read, tmp_path / "none.json", "tiny")
    assert str(tmp_path) in refusal(maps.read, tmp_path, "tiny")
    latin = tmp_path / "latin.json"
    latin.write_bytes(b'{"model": "\xe9"}')
    assert "latin.json" in refusal(maps.read, latin, "tiny")


def test_huge_file_is_refused_before_it_is_read(
    tmp_path: Path, refusal: Refusal, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "huge.json"
    with path.open("wb") as file:
        file.truncate(maps.MAX_BYTES + 1)
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: pytest.fail("it was read"))
    assert "huge.json" in refusal(maps.read, path, "tiny")
