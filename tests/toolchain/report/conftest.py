"""Made-up measurements and their page, made once; see `report_samples.py`."""

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))  # importlib mode puts no folder on the path

from report_html import Page, parse
from report_samples import ALL, Sample

from mnq.toolchain.map import Map
from mnq.toolchain.report.page import render


@pytest.fixture(scope="session")
def sample() -> Sample:
    """A DeiT-T with everything that a report can show; do not change it."""
    made = Sample(12).uniform(*ALL).uniform(*ALL, bits=6).uniform(*ALL, measure="isolated")
    made.search(*ALL)
    mapping = made.mapping("logits")
    return made.chosen(mapping).front(mapping)


@pytest.fixture(scope="session")
def mapping(sample: Sample) -> Map:
    """The map that `sample` was searched for."""
    return sample.mapping("logits")


@pytest.fixture(scope="session")
def html(sample: Sample, mapping: Map) -> str:
    """The report of both."""
    return render(sample.measurements, mapping)


@pytest.fixture(scope="session")
def page(html: str) -> Page:
    """The same, parsed."""
    return parse(html)
