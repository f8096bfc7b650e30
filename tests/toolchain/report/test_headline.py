import pytest
from report_html import fragment
from report_samples import ALL, Sample, by_hand

from mnq.toolchain.map import Map, uniform
from mnq.toolchain.measurements import CHOSEN
from mnq.toolchain.report.headline import headline, how_chosen, key_result, listed
from mnq.toolchain.report.view import View
from mnq.toolchain.sqnr import Powers


def with_logits(chosen: float | None, **uniforms: float) -> Sample:
    """Joint runs with these logit SQNRs in dB; the chosen map is I-ViT everywhere."""
    sample = Sample(1, "digits").uniform(*uniforms)
    if chosen is not None:
        sample.chosen(uniform("digits", "ivit"))
    for run in sample.measurements.runs:
        db = chosen if run.name == CHOSEN else uniforms[run.name]
        assert db is not None
        run.logits = Powers([1.0, 1.0], [10 ** (-db / 10)] * 2)
    return sample


@pytest.mark.parametrize(
    ("methods", "chosen", "sentence"),
    [
        (
            "all",
            12.34,
            "The logits of the chosen map keep an SQNR of 12.3 dB, 2.3 dB better than the best "
            "uniform map, I-BERT (10.0 dB).",
        ),
        (
            "all",
            9.0,
            "The logits of the chosen map keep an SQNR of 9.0 dB, 1.0 dB worse than the best "
            "uniform map, I-BERT (10.0 dB).",
        ),
        (
            "all",
            10.04,
            "The logits of the chosen map keep an SQNR of 10.0 dB, the same as the best uniform "
            "map, I-BERT (10.0 dB).",
        ),
        (
            "all",
            None,
            "Best for the logits among the uniform maps: I-BERT (10.0 dB). This map's effect on "
            "the logits was not measured.",
        ),
    ],
)
def test_key_result(methods: str, chosen: float | None, sentence: str) -> None:
    sample = with_logits(chosen, ivit=8.0, ibert=10.0, fqvit=-1.0)
    mapping = Map("digits", defaults=uniform("digits", "ivit").defaults)
    mapping.provenance["methods"] = methods
    assert key_result(View(sample.measurements, mapping)) == sentence.replace("'", "&#x27;")


def test_key_result_says_what_was_not_among_the_methods() -> None:
    sample = with_logits(12.0, ivit=8.0, lut=18.5)
    mapping = Map("digits", defaults=uniform("digits", "ivit").defaults)
    mapping.provenance["methods"] = "paper"
    assert key_result(View(sample.measurements, mapping)) == (
        "The logits of the chosen map keep an SQNR of 12.0 dB, 4.0 dB better than the best "
        "uniform map of the same methods, I-ViT (8.0 dB); LUT (18.5 dB) was not among the "
        "methods to choose from."
    )


def test_key_result_without_a_map_or_without_uniform_maps() -> None:
    sample = with_logits(None, ivit=8.0)
    text = key_result(View(sample.measurements))
    assert text == "Best for the logits among the uniform maps: I-ViT (8.0 dB)."
    alone = with_logits(7.0)
    text = key_result(View(alone.measurements, uniform("digits", "ivit")))
    assert text == "The logits of the chosen map keep an SQNR of 7.0 dB."
    isolated = Sample(1).uniform("ivit", measure="isolated")
    assert key_result(View(isolated.measurements)) == ""


def test_how_a_map_was_chosen() -> None:
    sample = Sample(2, images=4).uniform(*ALL).uniform(*ALL, measure="isolated")
    text = how_chosen(View(sample.measurements, sample.mapping("sqnr-drop", "paper", "isolated")))
    assert text == (
        "Every site got one of I-ViT, I-BERT or FQ-ViT. The rule <code>sqnr-drop</code> chose the "
        "smallest loss of SQNR, γ−β, measured with one site quantized at a time. The figures "
        "below are measured in whole quantized models (joint), at 8 bits, on 4 images."
    )
    search = sample.search(*ALL).mapping("logits")
    search.provenance.update(rule="cost", budget_ms=1.5)
    assert ", within 1.5 ms. The figures" in how_chosen(View(sample.measurements, search))
    text = how_chosen(View(sample.measurements, by_hand("deit_t")))
    assert text.startswith("The map does not say how it was chosen. The figures")
    assert how_chosen(View(sample.measurements)).startswith("Measurements without a map. ")


def test_bars_compare_all_models_best_first() -> None:
    sample = with_logits(12.0, ivit=8.0, ibert=16.0, fqvit=-1.0)
    view = View(sample.measurements, uniform("digits", "ivit"))
    table = fragment(headline(view)).one("table")
    rows = [[cell for cell in row if cell] for row in table.rows()]
    assert rows == [
        ["uniform I-BERT", "16.00", "2"],
        ["chosen map", "12.00", "2"],
        ["uniform I-ViT", "8.00", "2"],
        ["uniform FQ-ViT", "−1.00", "2"],
    ]
    widths = [bar.attributes["style"] for bar in table.all("span", class_="bar")]
    assert widths == ["width:100.0%", "width:75.0%", "width:50.0%", "width:0.0%"]


def test_one_model_alone_has_no_bars() -> None:
    view = View(with_logits(None, ivit=8.0).measurements)
    assert not fragment(headline(view)).all("table")


def test_tiles() -> None:
    sample = with_logits(12.0, ivit=8.0)
    view = View(sample.measurements, Map("digits", 8, 4, uniform("digits", "ivit").defaults))
    tiles = [tile.text for tile in fragment(headline(view)).all("li")]
    assert tiles == [
        "12.0 dB logit SQNR of the chosen map",
        "8 bits activations; weights 4 bits",
        "5 non-linear sites",
        "1 method in use",
    ]


def test_lists_of_names() -> None:
    assert listed(["a"]) == "a"
    assert listed(["a", "b"]) == "a or b"
    assert listed(["a", "b", "c"]) == "a, b or c"
