from collections.abc import Callable

import pytest
from report_samples import ALL, Sample, by_hand, sites

from mnq.toolchain.map import Map, uniform
from mnq.toolchain.report import compare

SITES = sites(2)


def test_maps_differ_where_their_choices_do() -> None:
    figures = {"lut": {"output": 1.0, "input": 2.0, "diff": -1.0}, "ivit": {"output": 3.0}}
    entry = {"method": "lut", "measured": {"figures": figures}}
    a, b = by_hand("m", gelu="lut"), by_hand("m", 6, gelu="lut")
    a.sites["blocks.0.mlp.act"] = {"method": "ivit"}
    b.sites["blocks.0.mlp.act"] = entry
    b.provenance["rule"] = "sqnr-drop"
    found = compare.maps(a, b, SITES)
    assert found["sites"] == {
        "blocks.0.mlp.act": {
            "kind": "gelu",
            "a": {"method": "ivit", "figures": {}},
            "b": {"method": "lut", "figures": figures["lut"]},
        }
    }
    assert found["bits"] == {
        "a": {"activations": 8, "weights": 8},
        "b": {"activations": 6, "weights": 6},
    }
    assert found["rule"] == {"a": None, "b": "sqnr-drop"}
    assert found["counts"]["gelu"] == {
        "ivit": {"a": 1, "b": 0},
        "ibert": {"a": 0, "b": 0},
        "lut": {"a": 1, "b": 2},
    }
    assert sum(v["a"] for kind in found["counts"].values() for v in kind.values()) == len(SITES)


def test_forms_of_attention_differ_at_softmax_sites_only() -> None:
    a = uniform("m", "ivit")
    b = uniform("m", "ivit", attention="normalized")
    found = compare.maps(a, b, SITES)["sites"]
    assert list(found) == ["blocks.0.attn.softmax", "blocks.1.attn.softmax"]
    assert found["blocks.0.attn.softmax"]["b"]["attention"] == "normalized"
    assert "figures" in found["blocks.0.attn.softmax"]["a"]


def test_equal_maps_do_not_differ() -> None:
    named = Map("m", sites={site: {"method": "ibert"} for site in SITES})
    assert compare.maps(named, uniform("m", "ibert"), SITES)["sites"] == {}


def test_means_are_over_sites_where_the_method_itself_ran() -> None:
    a = Sample(2).uniform(*ALL).measurements
    b = Sample(2, images=6, seed=1).uniform(*ALL).measurements
    b.subject = {**b.subject, "images": "others"}
    found = compare.measurements(a, b)
    means = {(m["run"], m["kind"]): m for m in found["mean_output_sqnr_db"]}
    assert ("fqvit", "gelu") not in means and ("lut", "layernorm") not in means
    for m, key in ((a, "a"), (b, "b")):
        run = m.run(8, "joint", "fqvit")
        assert run is not None
        values = [e.output.sqnr_db() for s, e in run.sites.items() if SITES[s] == "softmax"]
        assert means["fqvit", "softmax"][key] == pytest.approx(sum(values) / 2, abs=1e-12)
    entry = means["fqvit", "softmax"]
    assert entry["change"] == entry["b"] - entry["a"]
    assert entry["sites"] == 2
    assert found["images"] == {"a": 4, "b": 6}
    assert found["different_subject"] == ["images"]


def test_sites_that_changed_most_come_first() -> None:
    a, b = (Sample(3).uniform("ivit", "ibert").measurements for _ in range(2))
    for factor, site in ((1e-3, "blocks.1.norm1"), (1e2, "blocks.2.mlp.act")):
        noise = b.runs[1].sites[site].output.noise
        noise[:] = [value * factor for value in noise]
    changed = compare.measurements(a, b)["most_changed_output_sqnr_db"]
    assert len(changed) == compare.MOST_CHANGED
    assert [(c["run"], c["site"], round(c["change"], 6)) for c in changed[:3]] == [
        ("ibert", "blocks.1.norm1", 30.0),
        ("ibert", "blocks.2.mlp.act", -20.0),
        ("ivit", "blocks.0.norm1", 0.0),
    ]


def test_runs_of_one_side_are_named_and_chosen_maps_compared_as_such() -> None:
    a = Sample(2).uniform("ivit").uniform("lut", bits=6).chosen(uniform("deit_t", "ivit"))
    b = Sample(2, seed=1).uniform("ivit").uniform("ibert", measure="isolated")
    b.chosen(uniform("deit_t", "ibert"))
    found = compare.measurements(a.measurements, b.measurements)
    assert found["only_a"] == ["lut, 6 bits, joint"]
    assert found["only_b"] == ["ibert, 8 bits, isolated"]
    assert {m["run"] for m in found["mean_output_sqnr_db"]} == {"ivit", "chosen"}
    assert {c["run"] for c in found["most_changed_output_sqnr_db"]} == {"ivit"}
    assert [entry["run"] for entry in found["logit_sqnr_db"]] == ["ivit", "chosen"]


def test_other_sites_are_refused(refusal: Callable[..., str]) -> None:
    a, b = Sample(2).uniform("ivit").measurements, Sample(3).uniform("ivit").measurements
    assert "expected measurements of the same 9 sites" in refusal(compare.measurements, a, b)
