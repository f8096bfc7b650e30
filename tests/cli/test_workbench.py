"""Workbench: every long measurement is kept as it advances, and nothing is measured twice."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from mnq.cli.workbench import Workbench
from mnq.models.zoo import LoadedModel
from mnq.ops import registry
from mnq.ops.errors import InputError
from mnq.toolchain import map as maps
from mnq.toolchain.calibrate import Statistics, scales
from mnq.toolchain.edges import assign_edges
from mnq.toolchain.equalize import equalize
from mnq.toolchain.export import Settings, graph_of, quantize
from mnq.toolchain.measurements import CHOSEN
from mnq.toolchain.measurements import load as load_measurements

Make = Callable[..., Workbench]


@pytest.mark.parametrize("settings", [Settings(), Settings("minmax", "paper")])
def test_programs_are_those_that_an_export_would_build(
    make_bench: Make, loaded: LoadedModel, statistics: Statistics, settings: Settings
) -> None:
    bench = make_bench(settings=settings)
    graph = equalize(graph_of(loaded), statistics.equalization)
    found = scales(statistics, assign_edges(graph), 6, settings.method, settings.form)
    expected = quantize(loaded, graph, found, maps.uniform("digits", "ibert", 6), settings)
    variants = bench.variants(6)
    assert bench.variants(6) is variants
    program = variants.program(variants.uniform("ibert"))
    (pixels, _), *_ = bench.batches()
    tensors = program.run(pixels)
    for name, value in expected.run(pixels).items():
        assert torch.equal(value, tensors[name]), name


def test_unusable_methods_are_warned_about_once(
    make_bench: Make, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def constants(*_: object) -> Any:
        raise InputError("Lut: expected more, found less; choose another")

    lut = replace(registry.GELU["lut"], constants=constants)
    monkeypatch.setitem(registry.GELU, "lut", lut)
    bench = make_bench()
    for _ in range(2):
        bench.variants(8)
    warned = capsys.readouterr().err.splitlines()
    assert warned == [
        f"warning: blocks.{i}.mlp.act, 8 bits: lut is unusable: "
        "Lut: expected more, found less; choose another"
        for i in range(4)
    ]
    bench.variants(7)
    assert all(", 7 bits: lut is unusable" in s for s in capsys.readouterr().err.splitlines())


def test_every_batch_and_every_site_is_kept_at_once(
    make_bench: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "m.json"
    bench = make_bench(path)
    seen: list[tuple[int, int]] = []

    def save() -> None:
        Workbench.save(bench)
        kept = load_measurements(path)
        seen.append(
            (sum(run.images for run in kept.runs), sum(len(s.sites) for s in kept.searches))
        )

    monkeypatch.setattr(bench, "save", save)
    bench.isolated(8, ("ivit", "ibert"))
    assert seen == [(16, 0), (20, 0)]
    seen.clear()
    variants = bench.variants(8)
    sites = ["blocks.0.mlp.act", "norm"]
    bench.search(8, ("ivit", "lut"), sites, {"ivit": variants.uniform("ivit")})
    assert seen == [(20, 1), (20, 2)]


def test_nothing_is_kept_without_a_path(make_bench: Make, tmp_path: Path) -> None:
    bench = make_bench()
    bench.isolated(8, ("ivit",))
    bench.save()
    assert not list(tmp_path.iterdir())


def test_a_map_of_the_same_name_with_other_methods_is_measured_anew(make_bench: Make) -> None:
    bench = make_bench()
    ivit, lut = (bench.variants(8).uniform(name) for name in ("ivit", "lut"))
    bench.joint(8, {CHOSEN: ivit})
    bench.joint(8, {CHOSEN: lut})
    (run,) = bench.measurements.runs
    assert {site: entry.method for site, entry in run.sites.items()} == lut
    assert run.images == len(bench.sample) == len(run.logits.signal)
    before = run.logits.signal
    bench.joint(8, {CHOSEN: lut})
    assert bench.measurements.runs == [run] and run.logits.signal == before


def test_a_search_is_continued_and_not_begun_again(make_bench: Make) -> None:
    bench = make_bench()
    starts = {"ivit": bench.variants(8).uniform("ivit")}
    sites = ["blocks.0.mlp.act", "norm"]
    found, methods = bench.search(8, ("ivit", "lut"), sites, starts)
    again, same = bench.search(8, ("ivit", "lut"), sites, starts)
    assert again is found and same == methods
    assert bench.measurements.searches == [found]
    bench.search(8, ("ivit",), sites, starts)
    assert len(bench.measurements.searches) == 2
    assert bench.bench() is bench.bench()


def test_a_search_with_an_unusable_method_is_refused(
    make_bench: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As only a file that somebody has edited can hold."""
    bench = make_bench()
    allowed, sites = ("ivit", "ibert"), ["norm"]
    starts = {"ibert": bench.variants(8).uniform("ibert")}
    found, _ = bench.search(8, allowed, sites, starts)
    monkeypatch.delitem(bench.variants(8).steps["norm"], found.sites["norm"].method)
    with pytest.raises(InputError, match=r"usable methods in the search, found .* at norm of"):
        bench.search(8, allowed, sites, starts)
