from report_html import fragment
from report_samples import Sample

from mnq.toolchain.report.reading import definitions, source
from mnq.toolchain.report.view import View


def test_terms_and_ambiguities_are_explained() -> None:
    text = fragment(definitions()).text
    for words in ("20 log₁₀( 1/N", "twice the usual dB", "122", "135", "sqnr-absdiff"):
        assert words in text


def test_source_shows_what_the_files_say() -> None:
    sample = Sample(2).uniform("ivit")
    measurements, mapping = fragment(source(View(sample.measurements, sample.mapping()))).all(
        "table"
    )
    assert measurements.rows() == [
        ["model", "deit_t"],
        ["weights", "88ee863b" * 8],
        ["images.source", "photos.zip"],
        ["images.seed", "0"],
    ]
    assert ["versions.mnq", "0.1.0"] in mapping.rows()
    assert len(fragment(source(View(sample.measurements))).all("table")) == 1
