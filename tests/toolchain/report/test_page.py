import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from report_html import Page, parse
from report_samples import ALL, Sample, by_hand

from mnq.ops.errors import InputError
from mnq.toolchain.map import Map, uniform
from mnq.toolchain.measurements import Measurements
from mnq.toolchain.report.page import render

HOSTILE = (
    "<script>alert(1)</script> \"'><img src=x onerror=alert(2)> $x^ \\frac \x00\x1b[2J\u202e &amp;"
)


def small() -> Sample:
    return Sample(2, "digits")


def bare() -> tuple[Measurements, Map | None]:
    return small().uniform("ivit").measurements, None


def without_histograms() -> tuple[Measurements, Map | None]:
    sample = small().uniform(*ALL)
    sample.measurements.histograms.clear()
    return sample.measurements, sample.mapping()


def isolated() -> tuple[Measurements, Map | None]:
    sample = small().uniform(*ALL, measure="isolated")
    return sample.measurements, sample.mapping(measure="isolated")


def isolated_and_chosen() -> tuple[Measurements, Map | None]:
    sample = small().uniform("ivit", "ibert", measure="isolated")
    mapping = sample.mapping("sqnr-drop", measure="isolated")
    return sample.chosen(mapping).measurements, mapping


def made_by_hand() -> tuple[Measurements, Map | None]:
    mapping = by_hand("digits", gelu="lut")
    mapping.provenance["made"] = [1, 2]
    return small().uniform("ivit", "ibert").measurements, mapping


def several_widths() -> tuple[Measurements, Map | None]:
    sample = small().uniform(*ALL).uniform("ivit", bits=6).uniform(*ALL, bits=4)
    return sample.measurements, sample.mapping("sqnr-drop", "paper", bits=4)


def chosen_alone() -> tuple[Measurements, Map | None]:
    mapping = uniform("digits", "lut")
    return small().chosen(mapping).measurements, mapping


def begun_search() -> tuple[Measurements, Map | None]:
    sample = small().uniform(*ALL).search(*ALL)
    search = sample.measurements.searches[0]
    search.start = "sqnr-output"
    search.sites = dict([*search.sites.items()][:1])
    return sample.measurements, None


def large() -> tuple[Measurements, Map | None]:
    sample = Sample(50, images=1).uniform(*ALL)
    return sample.measurements, sample.mapping()


CASES = [
    *(bare, without_histograms, isolated, isolated_and_chosen, made_by_hand, several_widths),
    *(chosen_alone, begun_search, large),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
@pytest.mark.filterwarnings("error")
def test_page_is_well_formed_whatever_was_measured(
    case: Callable[[], tuple[Measurements, Map | None]],
) -> None:
    page = parse(render(*case()))
    check_links(page)
    assert {"sites", "reading", "source"} <= set(page.anchors)
    assert ("sensitivity" in page.anchors) == (case is not chosen_alone)


def check_links(page: Page) -> None:
    """Identifiers are there once, and links lead to them and nowhere else."""
    ids = [str(e.attributes["id"]) for e in page.all() if "id" in e.attributes]
    assert len(ids) == len(set(ids))
    links = [str(e.attributes["href"]) for e in page.all() if "href" in e.attributes]
    values = [str(value) for e in page.all() for value in e.attributes.values()]
    links += [f"#{name}" for value in values for name in re.findall(r"url\(#([^)]*)\)", value)]
    assert links
    assert {link.removeprefix("#") for link in links} <= set(ids)
    assert all(link.startswith("#") for link in links)


def test_page_loads_and_runs_nothing(html: str, page: Page) -> None:
    check_links(page)
    names = {element.name for element in page.all()}
    assert not names & {"script", "link", "img", "image", "iframe", "object", "embed", "base"}
    attributes = {key for element in page.all() for key in element.attributes}
    assert not attributes & {"src", "srcset", "xlink:href", "action"}
    assert not [key for key in attributes if key.startswith("on")]
    assert not re.search(r"https?:|//[a-z]|@import|@font-face|url\((?!#)", html)


def test_page_has_all_sections_where_everything_was_measured(page: Page) -> None:
    wanted = "counts sensitivity depth histograms widths search front sites reading source"
    assert page.anchors == wanted.split()


def test_sections_without_figures_are_left_out() -> None:
    page = parse(render(*bare()))
    assert page.anchors == ["sensitivity", "depth", "histograms", "sites", "reading", "source"]
    assert "depth" not in parse(render(*isolated())).anchors


def test_page_of_49_sites_is_small(html: str, page: Page) -> None:
    assert len(page.section("sites").one("table").rows()) == 49
    assert len(html.encode()) < 2_000_000


def test_the_same_input_gives_the_same_bytes(html: str) -> None:
    here = str(Path(__file__).parent)
    code = f"""
import sys; sys.path.append({here!r})
from report_samples import ALL, Sample
from mnq.toolchain.report.page import render
made = Sample(12).uniform(*ALL).uniform(*ALL, bits=6).uniform(*ALL, measure="isolated")
made.search(*ALL)
mapping = made.mapping("logits")
sys.stdout.buffer.write(render(made.chosen(mapping).front(mapping).measurements, mapping).encode())
"""
    for seed in ("1", "2"):
        env = {**os.environ, "PYTHONHASHSEED": seed, "TZ": f"UTC+{seed}"}
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=env)
        assert done.returncode == 0, done.stderr
        assert done.stdout.decode() == html


def test_strings_of_the_files_stay_text() -> None:
    sample = small().uniform(*ALL).search(*ALL)
    measurements, name = sample.measurements, f"blocks.0.{HOSTILE}"
    for table in (
        measurements.sites,
        measurements.histograms,
        *(run.sites for run in measurements.runs),
        measurements.searches[0].sites,
    ):
        entries = [(name if s == "blocks.0.norm1" else s, v) for s, v in table.items()]
        table.clear()  # type: ignore[attr-defined]
        table.update(entries)  # type: ignore[attr-defined]
    measurements.model = HOSTILE
    measurements.subject = {HOSTILE: {HOSTILE: HOSTILE}}
    measurements.searches[0].start = HOSTILE
    measurements.runs[1].unusable[name] = HOSTILE
    mapping = sample.mapping("logits")
    mapping.provenance[HOSTILE] = HOSTILE
    measured = mapping.sites[name]["measured"]
    measured["reason"] = measured["unusable"]["lut"] = HOSTILE + "\ud800"
    html = render(measurements, mapping)
    page = parse(html)
    html.encode()
    assert not page.all("script") and not page.all("img")
    assert not re.search(r"[\x00-\x09\x0b-\x1f\u202e]", html)
    for section in ("search", "histograms", "sites", "source"):
        assert "<script>alert(1)</script>" in page.section(section).text
    assert "<script>alert(1)</script>" in page.one("h1").text
    assert page.one("title").text.startswith("<script>")


def test_hand_written_rule_and_budget_stay_text() -> None:
    sample = small().uniform("ivit")
    for provenance in ({"rule": HOSTILE}, {"rule": "cost", "budget_ms": HOSTILE}):
        mapping = by_hand("digits")
        mapping.provenance.update(provenance)
        html = render(sample.measurements, mapping)
        assert "<script>alert(1)</script>" in parse(html).one("header").text


def test_refusals_say_what_to_do(refusal: Callable[..., str]) -> None:
    sample = small().uniform("ivit", bits=6)
    text = refusal(render, sample.measurements, uniform("digits", "ivit", 8))
    assert "expected measurements at the map's 8 bits, found 6; run mnq-assign --bits 8" in text
    text = refusal(render, sample.measurements, Map("digits", 6, sites={"x": {"method": "lut"}}))
    assert "expected sites of digits, found 'x'" in text
    text = refusal(render, small().measurements, None)
    assert "found no run with images; run mnq-assign" in text
    sample.measurements.runs[0].name = "new\nmethod"
    text = refusal(render, sample.measurements, None)
    assert "expected the methods ivit, ibert, fqvit, lut, found 'new method'" in text


def test_an_empty_run_counts_as_not_measured() -> None:
    sample = small().uniform("ivit", "ibert")
    for entry in sample.measurements.runs[1].sites.values():
        for powers in (entry.input, entry.output):
            powers.signal.clear()
            powers.noise.clear()
    page = parse(render(sample.measurements, None))
    assert "I-BERT" not in page.section("sensitivity").text
    with pytest.raises(InputError):
        render(Measurements("digits", {}, {"a": "gelu"}, runs=sample.measurements.runs[1:]), None)
