"""HTML that cannot be forged: every text is escaped unless it is `Html` already."""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Sequence

from mnq.ops.errors import one_line

_VOID = {"br", "meta", "wbr"}


class Html(str):
    """Text that is HTML."""

    __slots__ = ()


def text(value: object) -> Html:
    """Any value as one line of escaped text."""
    return value if isinstance(value, Html) else Html(html.escape(one_line(value)))


def join(*parts: object) -> Html:
    """Texts and HTML one after the other; texts keep their blanks, and are escaped."""
    return Html("".join(p if isinstance(p, Html) else html.escape(_clean(str(p))) for p in parts))


def element(name: str, /, *parts: object, **attributes: object) -> Html:
    """An element; `class_` is the attribute class, and one of None or False is left out."""
    opening = name + "".join(
        f' {key.rstrip("_").replace("_", "-")}="{"" if value is True else _quoted(value)}"'
        for key, value in attributes.items()
        if value is not None and value is not False
    )
    if name in _VOID:
        return Html(f"<{opening}>")
    return Html(f"<{opening}>{join(*parts)}</{name}>")


def lines(parts: Iterable[Html]) -> Html:
    """HTML with a newline after each part."""
    return Html("".join(f"{part}\n" for part in parts))


def number(value: float | None, digits: int = 1) -> str:
    """A number for people; an en dash for one that was not measured."""
    if value is None or not math.isfinite(value):
        return "\N{EN DASH}"
    shown = f"{round(value, digits) + 0.0:.{digits}f}"  # no minus zero
    return shown.replace("-", "\N{MINUS SIGN}")


def table(
    heads: Sequence[object],
    rows: Iterable[Sequence[object]],
    class_: str,
    above: Html | None = None,
) -> Html:
    """A table in a box of its own that scrolls; the first cell of a row is its head.

    heads: texts or whole th elements, or none; `above` is a row over them.
    """
    cells = [h if _is_cell(h) else element("th", h, scope="col") for h in heads]
    head = element("thead", above or Html(""), element("tr", *cells)) if heads else Html("")
    body = element(
        "tbody",
        *(
            element(
                "tr",
                element("th", first, scope="row"),
                *(c if _is_cell(c) else element("td", c) for c in rest),
            )
            for first, *rest in rows
        ),
    )
    return element(
        "div", element("table", head, body, class_=class_), class_="scroll", tabindex="0"
    )


def _is_cell(part: object) -> bool:
    return isinstance(part, Html) and part.startswith(("<td", "<th"))


def _clean(value: str) -> str:
    """Without characters that HTML forbids or that turn its direction; line breaks stay."""
    return "".join(
        c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in value
    )


def _quoted(value: object) -> str:
    return html.escape(_clean(str(value)))
