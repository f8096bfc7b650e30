from report_html import Page, fragment
from report_samples import ALL, Sample

from mnq.toolchain.map import Map, uniform
from mnq.toolchain.report.markup import join
from mnq.toolchain.report.sections import sections
from mnq.toolchain.report.view import View


def section(sample: Sample, anchor: str, mapping: Map | None = None) -> Page:
    """The content of a section."""
    view = View(sample.measurements, mapping)
    (content,) = [parts for name, _, parts in sections(view) if name == anchor]
    return fragment(join(*content))


def test_counts_are_honest_about_the_paper() -> None:
    text = section(Sample(12).uniform("ivit"), "counts", uniform("deit_t", "ivit")).text
    assert "publishes neither its images and seeds nor the sign of its rule" in text
    assert "out of its count" not in text
    digits = section(Sample(2, "digits").uniform("ivit"), "counts", uniform("digits", "ivit"))
    assert "paper" not in digits.text


def test_counts_say_what_the_paper_leaves_out() -> None:
    sample = Sample(12, "swin_t").uniform("ivit")
    sample.measurements.sites |= {f"layers.{i}.norm": "layernorm" for i in range(4)}
    text = section(sample, "counts", uniform("swin_t", "ivit")).text
    assert "The paper leaves 4 of the LayerNorms out of its count." in text


def test_figures_that_chose_the_map_are_folded_behind_the_joint_ones() -> None:
    sample = Sample(2).uniform(*ALL).uniform(*ALL, measure="isolated")
    page = section(sample, "sensitivity", sample.mapping("sqnr-drop", measure="isolated"))
    assert len(page.all("svg")) == 6
    assert len(page.one("details").all("svg")) == 3
    assert "2 sites, isolated, 8 bits, 4 images." in page.one("details").text
    joint = section(sample, "sensitivity", sample.mapping("sqnr-drop", measure="joint"))
    assert not joint.all("details")


def test_gaps_are_explained_where_there_are_some() -> None:
    sample = Sample(2).uniform("ivit", "ibert")
    sample.measurements.runs[0].unusable["blocks.1.mlp.act"] = "too large"
    captions = [caption.text for caption in section(sample, "sensitivity").all("figcaption")]
    assert ["A gap" in caption for caption in captions] == [False, True, False]


def test_widths_need_two_of_them() -> None:
    assert not section(Sample(2).uniform("ivit"), "widths").parts[-1].parts  # type: ignore[union-attr]
    page = section(Sample(2).uniform("ivit").uniform("lut", bits=6), "widths")
    assert not page.all("table")  # no method at both


def test_searches_and_fronts_are_those_of_the_maps_methods() -> None:
    sample = Sample(2).uniform(*ALL).search(*ALL).search(*ALL[:3]).search(*ALL, bits=6)
    assert len(section(sample, "search").all("svg")) == 2
    mapping = sample.mapping("sqnr-drop", "paper")
    text = section(sample, "search", mapping).one("figcaption").text
    assert text.startswith("From the map ibert, one site after the other tries I-ViT, I-BERT or FQ")
    assert "9 of 9 sites, 8 bits" in text
    sample.front(mapping)
    assert len(section(sample, "front", mapping).all("svg")) == 1
    assert not section(Sample(2).uniform("ivit"), "front").all("svg")
