import re
from itertools import pairwise

from report_html import Page, fragment
from report_samples import ALL, Sample

from mnq.toolchain.report.histograms import BIN, HEIGHT, LEFT, TOP, of_kind
from mnq.toolchain.report.view import View


def read(sample: Sample, kind: str) -> Page:
    return fragment(of_kind(View(sample.measurements, sample.mapping()), kind))


def heights(path: str) -> list[int]:
    """Tops of the bins in a path, above the base line."""
    start, *tops, end = re.findall(r"[MV](?:\d+ )?(\d+)", path)
    assert start == end == str(TOP + HEIGHT)
    assert path.startswith(f"M{LEFT} ") and path.count(f"h{BIN}") == len(tops)
    return [TOP + HEIGHT - int(top) for top in tops]


def test_a_fold_out_per_site_with_a_panel_per_method() -> None:
    page = read(Sample(3).uniform(*ALL), "gelu")
    outer, *sites = page.all("details")
    assert outer.all("summary")[0].text == "GELU: 3 sites"
    assert sites[0].one("summary").text.startswith("4.gelu blocks.0.mlp.act chosen: ")
    names = [[b.text for b in site.all("b", class_="name")] for site in sites]
    assert names == [["I-ViT", "I-BERT", "LUT"]] * 3  # not FQ-ViT's stand-in
    assert len(page.all("figure", class_="chosen")) == 3


def test_paths_are_the_logarithms_of_the_counts() -> None:
    sample = Sample(1).uniform("ivit")
    run, known = sample.measurements.runs[0], sample.measurements.histograms
    entry = run.sites["blocks.0.mlp.act"]
    entry.histogram = [0, 1, 10, 100, 1000, 10000] + [0] * 58
    known["blocks.0.mlp.act"].counts = [0] * 63 + [10000]
    page = read(sample, "gelu")
    line = heights(str(page.one("path", class_="line").attributes["d"]))
    assert line[0] == 0 and line[6:] == [0] * 58
    assert line[5] == HEIGHT
    steps = [high - low for low, high in pairwise(line[1:6])]
    assert max(steps) - min(steps) <= 1  # the same for each decade
    assert line[1] > 0
    floats = heights(str(page.one("path", class_="float").attributes["d"]).removesuffix("z"))
    assert floats == [0] * 63 + [HEIGHT]
    ticks = [t.text for t in page.one("svg").all("text")]
    assert ticks == ["10⁰", "10²", "10⁴", "−2.5", "output value", "4"]


def test_a_bound_that_is_nothing_beside_the_range_is_zero() -> None:
    sample = Sample(1).uniform("ivit")
    sample.measurements.histograms["blocks.0.mlp.act"].low = 1e-30
    assert "1e" not in read(sample, "gelu").text


def test_figures_stand_above_the_panel() -> None:
    sample = Sample(1).uniform("ivit")
    entry = sample.measurements.runs[0].sites["blocks.0.mlp.act"]
    shown = f"{entry.output.asqnr() - entry.input.asqnr():.1f}".replace("-", "−")
    assert f"diff {shown}, output {entry.output.sqnr_db():.1f} dB" in read(sample, "gelu").text


def test_the_site_where_methods_differ_most_is_open() -> None:
    sample = Sample(3).uniform("ivit", "lut")
    noise = sample.measurements.runs[1].sites["blocks.1.attn.softmax"].output.noise
    noise[:] = [value * 1e-9 for value in noise]
    opened = [d for d in read(sample, "softmax").all("details") if "open" in d.attributes]
    assert len(opened) == 2
    assert opened[1].one("div", class_="panels").attributes["id"] == "histogram-6"
    assert not [d for d in read(sample, "gelu").all("details") if "open" in d.attributes]


def test_nothing_without_histograms() -> None:
    sample = Sample(1).uniform("ivit")
    sample.measurements.histograms.clear()
    assert of_kind(View(sample.measurements), "gelu") == ""
