"""The training curve: an SVG document with a line for every run."""

from __future__ import annotations

from typing import Any
from xml.etree import ElementTree

import pytest

from mnq.toolchain.report.svg import MUTED
from mnq.toolchain.report.training import training_curve

COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00")
SVG = "{http://www.w3.org/2000/svg}"


def history(*top1: float | None) -> list[dict[str, Any]]:
    return [
        {"epoch": epoch, "top1": value, "agreement": value and value / 2}
        for epoch, value in enumerate(top1)
    ]


def elements(svg: str, tag: str) -> list[ElementTree.Element]:
    return list(ElementTree.fromstring(svg).iter(SVG + tag))


def texts(svg: str) -> list[str]:
    return ["".join(one.itertext()) for one in elements(svg, "text")]


def points(svg: str, colour: str) -> list[int]:
    """How many points each solid line of a colour has; one that is in the legend has two."""
    return [
        path.attrib["d"].count("L") + 1
        for path in elements(svg, "path")
        if f"stroke: {colour}" in path.attrib.get("style", "")
        and "L" in path.attrib["d"]
        and "fill: none" in path.attrib["style"]
    ]


def dashes(svg: str) -> int:
    """Lines of the reference, that of the legend included."""
    styles = [path.attrib.get("style", "") for path in elements(svg, "path")]
    return sum("stroke-dasharray" in style and f"stroke: {MUTED}" in style for style in styles)


def test_every_run_has_a_line_with_all_its_epochs_and_its_name() -> None:
    runs = {"4 bits": history(1, 60, 70, 72), "6 bits": history(50, 71, 73)}
    svg = training_curve(runs, None)
    assert ElementTree.fromstring(svg).tag == SVG + "svg"
    assert {"4 bits", "6 bits", "top-1, %", "epoch (0: before training)"} <= set(texts(svg))
    assert sorted(points(svg, COLOURS[0]))[-1] == 4
    assert sorted(points(svg, COLOURS[1]))[-1] == 3
    assert not points(svg, COLOURS[2])
    assert not dashes(svg) and "float model" not in texts(svg)


def test_the_float_model_is_a_dashed_line() -> None:
    svg = training_curve({"run": history(1, 60)}, 72.5)
    assert dashes(svg) == 2 and "float model" in texts(svg)


def test_the_agreement_can_be_drawn_in_its_place() -> None:
    runs = {"run": history(10, 60)}
    svg = training_curve(runs, None, "agreement")
    assert "agreement with float, %" in texts(svg) and "top-1, %" not in texts(svg)
    assert svg != training_curve(runs, None)
    assert "30" in texts(svg) and "60" not in texts(svg)


def test_more_runs_than_colours_are_drawn() -> None:
    names = [f"run {number}" for number in range(8)]
    svg = training_curve({name: history(1, 2, number) for number, name in enumerate(names)}, 5)
    assert set(names) <= set(texts(svg))
    assert len(points(svg, COLOURS[0])) == 2 * len(points(svg, COLOURS[5]))


def test_names_are_text_and_not_markup() -> None:
    name = "<a href='x'>&amp; $x^2$"
    assert name in texts(training_curve({name: history(1, 2)}, None))


@pytest.mark.parametrize("values", [(50.0,), (None, None), (0.0, 0.0), ()])
def test_a_run_that_has_only_begun_is_drawn(values: tuple[float | None, ...]) -> None:
    assert "run" in texts(training_curve({"run": history(*values)}, None))


@pytest.mark.filterwarnings("error")
def test_the_same_runs_are_the_same_bytes() -> None:
    runs = {"a": history(1, 60, 70), "b": history(2, 61, 71)}
    assert training_curve(runs, 72.0) == training_curve(runs, 72.0)
    assert training_curve(runs, 72.0) != training_curve(runs, 72.5)
