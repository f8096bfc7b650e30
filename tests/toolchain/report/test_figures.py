"""What the figures draw: marks are counted by the colour of their method."""

import math
import re
from collections import Counter
from typing import Any

import pytest
from matplotlib.axes import Axes
from report_html import fragment
from report_samples import ALL, Sample, by_hand

from mnq.toolchain.map import Map
from mnq.toolchain.measurements import Search, Trial
from mnq.toolchain.report import curves, depth, sensitivity, widths
from mnq.toolchain.report.style import LOOKS, SELECTED, positions
from mnq.toolchain.report.view import View

Lines = list[tuple[Any, ...]]


@pytest.fixture
def lines(monkeypatch: pytest.MonkeyPatch) -> Lines:
    """Every line that is plotted: arguments, then colour or None."""
    found: Lines = []
    plot = Axes.plot

    def spy(self: Axes, *values: Any, **options: Any) -> Any:
        found.append((*values, options.get("color")))
        return plot(self, *values, **options)

    monkeypatch.setattr(Axes, "plot", spy)
    return found


def texts(svg: str) -> list[str]:
    return re.findall(r">([^<>]+)</text>", svg)


def test_figure_1_draws_output_and_diff_of_every_method(
    sample: Sample, mapping: Map, lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    bars: list[tuple[float, float, str]] = []
    bar = Axes.bar

    def spy(self: Axes, x: float, height: float, width: float, **options: Any) -> Any:
        bars.append((round(x), height, options["color"]))
        return bar(self, x, height, width, **options)

    monkeypatch.setattr(Axes, "bar", spy)
    view = View(sample.measurements, mapping)
    svg = sensitivity.figure(view, "gelu")
    sites = view.of_kind("gelu")
    for method in ("ivit", "ibert", "lut"):
        run = sample.measurements.run(8, "joint", method)
        assert run is not None
        colour = LOOKS[method].colour
        entries = [run.sites[site.name] for site in sites]
        outputs = [entry.output.asqnr() for entry in entries]
        assert [values for values, c in lines_of(lines, 1) if c == colour] == [outputs]
        diffs = [b - e.input.asqnr() for b, e in zip(outputs, entries, strict=True)]
        assert [height for _, height, c in bars if c == colour] == diffs
        chosen = [i for i, s in enumerate(sites) if mapping.sites[s.name]["method"] == method]
        assert [x for x, height, c in bars if c == "none" and height in diffs] == chosen
    assert LOOKS["fqvit"].colour not in svg
    assert "FQ-ViT" not in texts(svg)
    assert {"I-ViT", "I-BERT", "LUT", "chosen", "48", "b11"} <= set(texts(svg))


def lines_of(lines: Lines, arguments: int) -> list[tuple[Any, Any]]:
    """Values and colour of lines that were plotted with that many arguments."""
    return [(line[-2], line[-1]) for line in lines if len(line) == arguments + 1]


def test_figure_1_has_a_gap_where_a_method_is_unusable(lines: Lines) -> None:
    sample = Sample(3).uniform("ivit", "ibert")
    sample.measurements.runs[0].sites["blocks.1.mlp.act"].method = "ibert"
    sensitivity.figure(View(sample.measurements), "gelu")
    (values,) = [v for v, c in lines_of(lines, 1) if c == LOOKS["ivit"].colour]
    assert [math.isnan(value) for value in values] == [False, True, False]


def test_figure_3_draws_uniform_maps_and_the_chosen_one(
    sample: Sample, mapping: Map, lines: Lines
) -> None:
    view = View(sample.measurements, mapping)
    svg = depth.figure(view)
    drawn = Counter(c for _, c in lines_of(lines, 2))
    assert drawn == {**{LOOKS[m].colour: 3 for m in ("ivit", "ibert")}, SELECTED: 3} | {
        LOOKS[m].colour: 2 for m in ("fqvit", "lut")
    }
    assert view.chosen is not None
    softmax = view.of_kind("softmax")
    values = [view.chosen.sites[site.name].output.sqnr_db() for site in softmax]
    places = [2 + 4 * block for block in range(12)]
    assert (places, values, SELECTED) in lines
    run = sample.measurements.run(8, "joint", "fqvit")
    assert run is not None
    values = [run.sites[site.name].output.sqnr_db() for site in softmax]
    assert (places, values, LOOKS["fqvit"].colour) in lines
    assert "chosen map" in texts(svg)
    assert "chosen map" not in texts(depth.figure(View(Sample(2).uniform("ivit").measurements)))


def test_widths_draw_means(sample: Sample, lines: Lines) -> None:
    view = View(sample.measurements)
    widths.figure(view)
    means = [view.mean_db("fqvit", "softmax", bits) for bits in (6, 8)]
    assert ([6, 8], means, LOOKS["fqvit"].colour) in lines
    assert sum(colour == LOOKS["fqvit"].colour for *_, colour in lines) == 2  # no GELU


def test_widths_compare_methods_that_were_measured_at_all() -> None:
    sample = Sample(2, "digits").uniform(*ALL).uniform("ivit", "ibert", bits=6)
    view = View(sample.measurements, sample.mapping("sqnr-output"))
    assert widths.comparable(view) == ["ivit", "ibert"]
    rows = fragment(widths.choices_table(view)).rows()
    choices = {bits: view.best("sqnr-output", bits, ["ivit", "ibert"]) for bits in (8, 6)}
    for row, (bits, chosen) in zip(rows, choices.items(), strict=True):
        counts = view.counts(chosen)
        shown = [str(counts[kind][m]) for kind in counts for m in ("ivit", "ibert")]
        same = sum(chosen[site] == choices[8][site] for site in chosen)
        assert row == [f"{bits} bits", *shown, f"{100 * same / 9:.0f} %"]


def test_a_rule_on_the_logits_is_replaced_across_widths(sample: Sample, mapping: Map) -> None:
    assert widths.rule_across(View(sample.measurements, mapping)) == "sqnr-output"
    by_rule = sample.mapping("sqnr-signed")
    assert widths.rule_across(View(sample.measurements, by_rule)) == "sqnr-signed"


def test_search_draws_what_was_kept_after_each_site(lines: Lines) -> None:
    sample = Sample(1).uniform("ivit")
    names = list(sample.measurements.sites)[:2]
    search = Search(8, ["ivit", "ibert"], names, "ibert", 10.0, {})
    search.sites[names[1]] = Trial("ivit", {"ivit": 13.0, "ibert": 12.0})
    search.sites[names[0]] = Trial("ibert", {"ivit": -50.0, "ibert": 12.0})
    svg = curves.search_figure(View(sample.measurements), search, "x")
    assert lines[0][:2] == ((0, 1, 2), (10.0, 12.0, 13.0))
    tried = {line[-1]: line[:2] for line in lines[1:]}
    assert tried[LOOKS["ivit"].colour] == ((1, 2), (7.0, 13.0))  # much worse: at the edge
    assert tried[LOOKS["ibert"].colour] == ((1, 2), (12.0, 12.0))
    assert "LUT tried" not in texts(svg)


def test_front_marks_the_point_of_the_map(sample: Sample, mapping: Map, lines: Lines) -> None:
    (front,) = sample.measurements.fronts
    svg = curves.front_figure(View(sample.measurements, mapping), front, "x")
    point = front.points[2]
    times = sorted(p.milliseconds for p in front.points)
    assert lines[0][0] == times
    assert lines[1] == (point.milliseconds, point.sqnr_db, SELECTED)
    assert "chosen map" in texts(svg)
    assert "chosen map" not in texts(
        curves.front_figure(View(sample.measurements, by_hand("deit_t")), front, "x")
    )


def test_labels_of_many_sites_are_thinned_out(sample: Sample) -> None:
    sites = View(sample.measurements).of_kind("layernorm")
    assert positions(sites)[1][:3] == ["1\nb0", "3\nb0", "5\nb1"]
    assert positions(sites)[1][-1] == "49\n–"
    indices, labels = positions(sites, most=10)
    assert indices == list(range(0, 25, 3))
    assert len(labels) == 9
