"""The report: one HTML file that needs nothing else, no network and no script."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files

from mnq.toolchain.map import Map
from mnq.toolchain.measurements import Measurements
from mnq.toolchain.report.headline import headline
from mnq.toolchain.report.markup import Html, element, lines
from mnq.toolchain.report.sections import sections
from mnq.toolchain.report.style import LOOKS
from mnq.toolchain.report.view import View

_INTRODUCTION = (
    "A vision transformer computes softmax, GELU and LayerNorm in every block. An integer-only "
    "model replaces each of them by an approximation, and several are known. This page shows how "
    "much of the signal each of them keeps, at every such site of the model, and which one a site "
    "got."
)


def render(measurements: Measurements, mapping: Map | None) -> str:
    """The report of a model's measurements and of the map that was chosen, as an HTML file.

    The same input gives the same text. Raises InputError if the map is of another model or of a
    bit-width that was not measured, or if there is nothing to show.
    """
    view = View(measurements, mapping)
    title = f"{measurements.model}: integer methods by site"
    return document(title, _INTRODUCTION, headline(view), sections(view))


def document(
    title: str,
    introduction: str,
    top: Html,
    sections: Sequence[tuple[str, str, Sequence[Html]]],
) -> str:
    """An HTML file: a header with what is at the `top`, and the sections that are not empty.

    sections: anchor, name and content of each.
    """
    parts = [section for section in sections if section[2]]
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("title", title),
        element("style", Html(_css())),
    )
    body = element(
        "body",
        element("header", element("h1", title), element("p", introduction), top),
        element("nav", *(element("a", name, href=f"#{anchor}") for anchor, name, _ in parts)),
        element(
            "main",
            lines(
                element("section", element("h2", name), lines(content), id=anchor)
                for anchor, name, content in parts
            ),
        ),
    )
    return f"<!DOCTYPE html>\n{element('html', head, body, lang='en')}\n"


def _css() -> str:
    colours = "".join(f".m-{name}{{--method:{look.colour}}}" for name, look in LOOKS.items())
    sheet = files("mnq.toolchain.report").joinpath("page.css").read_text(encoding="utf-8")
    return f"{sheet}{colours}\n"
