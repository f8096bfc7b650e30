"""mnq-assign on the bundled digits: the map it writes, what it says, what it keeps."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import pytest
from cli_runs import Digits, mnq, payload
from jsonschema import Draft202012Validator

from mnq.cli import assign as command
from mnq.ops import registry
from mnq.ops.errors import InputError
from mnq.ops.registry import METHODS
from mnq.toolchain import assign as assigning
from mnq.toolchain import map as maps
from mnq.toolchain.measurements import CHOSEN, load

IMAGES = ("--images", 8, "--sample", 10)
SITES = 17  # four blocks of four, and the last norm


@pytest.fixture(scope="module")
def base(digits: Digits) -> tuple[object, ...]:
    return ("assign", "--model", "digits", "--calib", digits.train, *IMAGES)


@pytest.fixture(scope="module")
def assigned(
    base: tuple[object, ...], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., tuple[Path, dict[str, Any]]]:
    """A function that runs the command with these options, once each: its folder and payload."""

    @cache
    def run(*options: object) -> tuple[Path, dict[str, Any]]:
        folder = tmp_path_factory.mktemp("assigned")
        paths = ("--output", folder / "map.json", "--measurements", folder / "m.json")
        return folder, payload(mnq(*base, *options, *paths, "--json"))

    return run


def read(folder: Path) -> maps.Map:
    """The map in a folder, checked as a file and as a map of the digits model."""
    schema = json.loads(files("mnq.toolchain").joinpath("map.schema.json").read_text())
    Draft202012Validator(schema).validate(json.loads((folder / "map.json").read_text()))
    return maps.read(folder / "map.json", "digits")


def methods(mapping: maps.Map) -> dict[str, str]:
    return {site: str(entry["method"]) for site, entry in mapping.sites.items()}


Assigned = Callable[..., tuple[Path, dict[str, Any]]]


def test_result_says_what_was_chosen_by_what(assigned: Assigned) -> None:
    folder, found = assigned()
    mapping = read(folder)
    assert sorted(path.name for path in folder.iterdir()) == ["m.json", "map.json"]
    assert found["output"] == str(folder / "map.json") and found["report"] is None
    assert (found["model"], found["bits"], found["rule"]) == ("digits", 8, "sqnr-drop")
    assert found["skipped_images"] == 0
    assert found["images"]["source"] == "train"
    assert (found["images"]["count"], found["images"]["seed"]) == (10, 0)
    counted: dict[str, dict[str, int]] = {}
    kept = load(folder / "m.json")
    for site, method in methods(mapping).items():
        kind = counted.setdefault(kept.sites[site], {})
        kind[method] = kind.get(method, 0) + 1
    assert found["counts"] == counted
    assert sum(n for kind in counted.values() for n in kind.values()) == SITES
    chosen = kept.run(8, "joint", CHOSEN)
    assert chosen is not None and chosen.images == 10
    assert {site: entry.method for site, entry in chosen.sites.items()} == methods(mapping)
    assert found["logit_sqnr_db"] == {CHOSEN: chosen.logits.sqnr_db()}
    assert chosen.logits.sqnr_db() > 35  # measured 40


def test_map_holds_figures_reasons_and_where_it_comes_from(assigned: Assigned) -> None:
    folder, found = assigned()
    mapping = read(folder)
    provenance = mapping.provenance
    asked = {"rule": "sqnr-drop", "measure": "isolated", "methods": "all", "sites": "all"}
    assert {key: provenance[key] for key in asked} == asked
    assert provenance["images"] == found["images"]
    assert (provenance["calibration"]["source"], provenance["calibration"]["images"]) == (
        "train",
        8,
    )
    assert set(provenance["versions"]) == {"mnq", "torch", "timm"}
    kinds = load(folder / "m.json").sites
    assert list(mapping.sites) == list(kinds)
    for site, entry in mapping.sites.items():
        measured = entry["measured"]
        assert measured["rule"] == "sqnr-drop" and measured["reason"].endswith(".")
        assert list(measured["figures"]) == list(METHODS[kinds[site]])
        diff = {method: f["diff"] for method, f in measured["figures"].items()}
        assert diff[entry["method"]] == max(diff.values())


def test_export_takes_the_map(assigned: Assigned) -> None:
    folder, _ = assigned()
    path = folder / "map.json"
    resolved = payload(mnq("export", "--model", "digits", "--assign", path, "--dry-run"))
    assert {site: entry["method"] for site, entry in resolved["sites"].items()} == methods(
        read(folder)
    )


def test_people_get_a_table_one_line_and_the_next_step(
    assigned: Assigned, base: tuple[object, ...], tmp_path: Path
) -> None:
    """And the map is the same, whether measurements are kept or not."""
    output = tmp_path / "map.json"
    result = mnq(*base, "--output", output)
    assert result.exit_code == 0, result.output
    *table, line = result.stdout.splitlines()
    assert all(any(site in row for row in table) for site in read(tmp_path).sites)
    assert line.startswith(f"{output}: 17 sites at 8 bits by sqnr-drop, logit SQNR ")
    assert line.endswith(" dB on 10 images")
    assert f"next: mnq-export --model digits --assign {output} --calib " in result.stderr
    assert output.read_bytes() == (assigned()[0] / "map.json").read_bytes()
    quiet = mnq(*base, "--output", output, "--quiet")
    assert quiet.stdout == result.stdout and quiet.stderr == ""


@pytest.mark.parametrize("rule", assigning.RULES)
def test_every_rule_chooses_by_its_definition(assigned: Assigned, rule: str) -> None:
    """In a whole model per method, where they differ."""
    folder, found = assigned("--rule", rule, "--measure", "joint", "--methods", "paper")
    mapping = read(folder)
    smallest: dict[str, Callable[[dict[str, float]], float]] = {
        "sqnr-absdiff": lambda f: abs(f["output"] - f["input"]),
        "sqnr-signed": lambda f: f["output"] - f["input"],
        "sqnr-drop": lambda f: f["input"] - f["output"],
        "sqnr-output": lambda f: -f["output"],
    }
    for entry in mapping.sites.values():
        figures = entry["measured"]["figures"]
        assert "lut" not in figures
        value = {method: smallest[rule](f) for method, f in figures.items()}
        assert value[entry["method"]] <= min(value.values()) + 0.002  # rounded to 0.001
    assert mapping.provenance["measure"] == "joint"
    assert set(found["logit_sqnr_db"]) == {"ivit", "ibert", "fqvit", CHOSEN}


def test_rules_of_the_command_are_those_of_the_toolchain() -> None:
    assert set(command.RULES) == set(assigning.RULES)


def test_logits_beat_every_uniform_map_and_every_rule(assigned: Assigned) -> None:
    by_rule = assigned("--measure", "joint")[1]["logit_sqnr_db"]
    folder, found = assigned("--objective", "logits", "--measure", "joint")
    mapping = read(folder)
    assert found["rule"] == mapping.provenance["rule"] == "logits"
    assert mapping.provenance["start"] in (*registry.UNIFORM, "isolated, sqnr-output")
    best = found["logit_sqnr_db"][CHOSEN]
    assert all(
        best > value - 1e-6 for value in (*found["logit_sqnr_db"].values(), *by_rule.values())
    )
    for entry in mapping.sites.values():
        tried = {m: f["logit_sqnr_db"] for m, f in entry["measured"]["figures"].items()}
        assert tried[entry["method"]] == max(tried.values())


def test_report_explains_the_map_and_compares_whole_models(
    base: tuple[object, ...], tmp_path: Path
) -> None:
    pytest.importorskip("matplotlib")
    report, kept = tmp_path / "report.html", tmp_path / "m.json"
    places = ("--output", tmp_path / "map.json", "--measurements", kept, "--report", report)
    found = payload(mnq(*base, *places, "--json"))
    assert found["report"] == str(report)
    text = report.read_text()
    assert text.rstrip().endswith("</html>")
    assert all(site in text for site in read(tmp_path).sites)
    whole = {run.name for run in load(kept).runs if run.measure == "joint"}
    assert whole == set(found["logit_sqnr_db"]) == {*registry.UNIFORM, CHOSEN}


def test_further_widths_are_measured_and_the_map_has_the_asked_one(assigned: Assigned) -> None:
    folder, _ = assigned("--bits", 6, "--sweep-bits", "8, 6,4")
    kept = load(folder / "m.json")
    assert kept.widths() == [6, 8, 4]
    runs = [(run.bits, run.name) for run in kept.runs if run.measure == "isolated"]
    assert runs == [(bits, name) for bits in (6, 8, 4) for name in registry.UNIFORM]
    mapping = read(folder)
    assert (mapping.activation_bits, mapping.weight_bits) == (6, 6)


def test_another_seed_draws_other_images(assigned: Assigned) -> None:
    first, other = (assigned(*options)[1]["images"] for options in ((), ("--seed", 1)))
    assert first["digest"] != other["digest"] and other["seed"] == 1


def test_method_that_is_unusable_is_warned_about_and_never_chosen(
    base: tuple[object, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = registry.GELU["lut"]
    first: list[object] = []

    def constants(*arguments: Any) -> Any:
        first[:] = first or arguments
        if list(arguments) == first:
            raise InputError("Lut: expected another scale, found this; choose another")
        return real.constants(*arguments)

    monkeypatch.setitem(registry.GELU, "lut", replace(real, constants=constants))
    result = mnq(*base, "--output", tmp_path / "map.json", "--quiet")
    assert result.exit_code == 0
    reason = "Lut: expected another scale, found this; choose another"
    site = "blocks.0.mlp.act"
    assert result.stderr == f"warning: {site}, 8 bits: lut is unusable: {reason}\n"
    mapping = read(tmp_path)
    assert methods(mapping)[site] == "ibert"
    assert mapping.sites[site]["measured"]["unusable"] == {"lut": reason}
    assert list(mapping.sites[site]["measured"]["figures"]) == ["ivit", "ibert"]
    assert methods(mapping)["blocks.1.mlp.act"] == "lut"


def test_a_corrupt_image_is_named_skipped_and_counted(digits: Digits, tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    for number, path in enumerate(sorted(digits.train.glob("3/*.png"))[:12]):
        data = path.read_bytes()
        (folder / f"{number:02}.png").write_bytes(data[:50] if number == 5 else data)
    words = ("assign", "--model", "digits", "--calib", folder, "--output", tmp_path / "map.json")
    result = mnq(*words, "--json")
    found = payload(result)
    assert (found["skipped_images"], found["images"]["count"]) == (1, 11)
    assert len(result.stderr.splitlines()) == 1
    assert result.stderr.startswith("warning: skipped image 05.png: ")
