"""Sensitivity, continued: after an interruption, with more runs, the same figures once each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import toolchain_models as models
import torch
from toolchain_harness import METHODS, Quantized, batches

from mnq.toolchain import sensitivity
from mnq.toolchain.assign import figures
from mnq.toolchain.measurements import Measurements, load
from mnq.toolchain.probe import Probe
from mnq.toolchain.sensitivity import MEASURES

BATCHES = batches(models.pixels(7, seed=22), 2)  # of 2, 2, 2 and 1 images
Text = Callable[[Measurements], str]


@pytest.fixture
def text(tmp_path: Path) -> Text:
    """A function that gives a file's text."""

    def saved(found: Measurements) -> str:
        found.save(tmp_path / "m.json")
        return (tmp_path / "m.json").read_text()

    return saved


@pytest.fixture(scope="module")
def whole(quantized: Quantized) -> Callable[[str], Measurements]:
    """A function that measures all in one go; once for each measure. Do not change the result."""
    return cache(lambda how: quantized.measure(how, BATCHES))


@pytest.mark.parametrize("how", MEASURES)
@pytest.mark.parametrize("half", [1, 2, 3])
def test_going_on_from_a_file_gives_the_file_of_one_go(
    quantized: Quantized,
    whole: Callable[[str], Measurements],
    text: Text,
    tmp_path: Path,
    how: str,
    half: int,
) -> None:
    text(quantized.measure(how, BATCHES[:half]))
    kept = load(tmp_path / "m.json")
    assert {run.images for run in kept.runs} == {2 * half}
    assert text(quantized.measure(how, BATCHES, found=kept)) == text(whole(how))


class Stopped(Exception):
    """What an interruption is, here."""


@pytest.mark.parametrize("how", MEASURES)
@pytest.mark.parametrize("writes", [0, 5, 60, 100])
def test_what_was_saved_before_an_interruption_is_gone_on_from(
    quantized: Quantized,
    whole: Callable[[str], Measurements],
    text: Text,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    how: str,
    writes: int,
) -> None:
    """In the middle of a batch; 36 or 29 sites are measured in each."""
    found = Measurements("tiny", {"weights": "w"}, quantized.graph.sites())
    text(found)
    calls = []
    real = Probe.write

    def write(self: Probe, codes: torch.Tensor) -> torch.Tensor:
        calls.append(codes)
        if len(calls) > writes:
            raise Stopped
        return real(self, codes)

    with monkeypatch.context() as patch:
        patch.setattr(Probe, "write", write)
        with pytest.raises(Stopped):
            quantized.measure(how, BATCHES, found=found, done=lambda count: text(found) and None)
    kept = load(tmp_path / "m.json")
    batch = writes // (36 if how == "joint" else 29)
    assert {run.images for run in kept.runs} == ({2 * batch} if batch else set())
    assert text(quantized.measure(how, BATCHES, found=kept)) == text(whole(how))


@pytest.mark.parametrize("how", MEASURES)
def test_a_run_added_later_is_the_same_and_counts_no_image_twice(
    quantized: Quantized, whole: Callable[[str], Measurements], text: Text, how: str
) -> None:
    found = quantized.measure(how, BATCHES, METHODS[:1])
    quantized.measure(how, BATCHES[:2], METHODS[1:3], found)
    quantized.measure(how, BATCHES, METHODS, found)
    assert text(found) == text(whole(how))


def test_one_measure_leaves_the_other_and_the_histograms_alone(
    quantized: Quantized, whole: Callable[[str], Measurements]
) -> None:
    found = quantized.measure("joint", BATCHES)
    quantized.measure("isolated", BATCHES, found=found)
    assert found.runs == whole("joint").runs + whole("isolated").runs
    assert found.histograms == whole("joint").histograms


@pytest.mark.parametrize("how", MEASURES)
def test_nothing_is_computed_for_what_is_known(
    quantized: Quantized,
    whole: Callable[[str], Measurements],
    text: Text,
    monkeypatch: pytest.MonkeyPatch,
    how: str,
) -> None:
    monkeypatch.setattr(sensitivity, "observe_sites", lambda *_: pytest.fail("it ran again"))
    before = text(whole(how))
    advanced: list[int] = []
    quantized.measure(how, BATCHES, found=whole(how), done=advanced.append)
    assert advanced == [2, 2, 2, 1]
    assert text(whole(how)) == before


@pytest.mark.parametrize("how", MEASURES)
def test_progress_is_told_once_a_batch_is_in_the_figures(quantized: Quantized, how: str) -> None:
    found = Measurements("tiny", {"weights": "w"}, quantized.graph.sites())
    seen: list[tuple[int, set[int]]] = []
    quantized.measure(
        *(how, BATCHES[:3], METHODS[:2], found),
        lambda count: seen.append((count, {run.images for run in found.runs})),
    )
    assert seen == [(2, {2}), (2, {4}), (2, {6})]


def test_stand_ins_are_measured_and_give_no_figures(
    quantized: Quantized, whole: Callable[[str], Measurements]
) -> None:
    """FQ-ViT has no GELU: a whole model needs one, a comparison of methods does not."""
    found = whole("joint")
    run = found.run(8, "joint", "fqvit")
    assert run is not None
    assert run.sites["blocks.0.mlp.act"].method == "ivit"
    assert run.sites["blocks.0.norm1"].method == "fqvit"
    table = figures(found, 8, "joint", METHODS)
    assert list(table["blocks.0.mlp.act"]) == ["ivit", "ibert", "lut"]
    assert list(table["blocks.0.norm1"]) == ["ivit", "ibert", "fqvit"]
    assert "blocks.0.mlp.act" not in whole("isolated").run(8, "isolated", "fqvit").sites


@pytest.mark.parametrize("how", MEASURES)
def test_runs_say_where_their_method_is_unusable(quantized: Quantized, how: str) -> None:
    """A whole model has another method there; alone, the site is left out."""
    made = quantized.variants(8)
    site = "blocks.1.mlp.act"
    steps = {s: dict(found) for s, found in made.steps.items()}
    del steps[site]["ibert"]
    unusable = {**made.unusable, site: {"ibert": "too fine"}}
    without = replace(made, steps=steps, unusable=unusable)
    found = Measurements("tiny", {}, made.sites)
    if how == "joint":
        programs = {name: without.uniform(name) for name in METHODS}
        sensitivity.joint(found, quantized.graph, without, programs, BATCHES[:1])
    else:
        sensitivity.isolated(found, quantized.graph, without, METHODS, BATCHES[:1])
    for run in found.runs:
        assert run.unusable == ({site: "too fine"} if run.name == "ibert" else {})
    entry = found.runs[1].sites.get(site)
    assert (entry is None) if how == "isolated" else (entry is not None and entry.method == "ivit")
    assert list(figures(found, 8, how, METHODS)[site]) == ["ivit", "lut"]
