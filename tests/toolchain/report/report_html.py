"""Reads a report back: strict about nesting, with the texts of tables and sections."""

from dataclasses import dataclass, field
from html.parser import HTMLParser

VOID = {"br", "meta", "wbr"}
Attributes = dict[str, str | None]


@dataclass
class Element:
    """An element and what is in it."""

    name: str
    attributes: Attributes
    parts: "list[Element | str]" = field(default_factory=list)

    @property
    def text(self) -> str:
        """All text inside, blanks as one."""
        joined = "".join(
            p
            if isinstance(p, str)
            else " "
            if p.name == "br"
            else f"{p.text} "
            if p.name in ("div", "tr", "td", "th", "li", "p")
            else p.text
            for p in self.parts
        )
        return " ".join(joined.split())

    def all(self, name: str = "", **wanted: str) -> "list[Element]":
        """The elements inside of that name and with these attributes (class_: one of them)."""
        found = []
        for part in self.parts:
            if isinstance(part, Element):
                if part._is(name, wanted):
                    found.append(part)
                found += part.all(name, **wanted)
        return found

    def one(self, name: str = "", **wanted: str) -> "Element":
        """The only such element."""
        (found,) = self.all(name, **wanted)
        return found

    def _is(self, name: str, wanted: dict[str, str]) -> bool:
        for key, value in wanted.items():
            have = self.attributes.get(key.rstrip("_")) or ""
            if value not in (have.split() if key == "class_" else [have]):
                return False
        return name in ("", self.name)

    def rows(self) -> list[list[str]]:
        """Texts of the cells of a table's body."""
        body = self.one("tbody")
        return [[c.text for c in row.parts if isinstance(c, Element)] for row in body.all("tr")]


class Page(Element):
    """A document; a closing tag that does not fit fails."""

    def section(self, anchor: str) -> Element:
        """The section with that identifier."""
        return self.one("section", id=anchor)

    @property
    def anchors(self) -> list[str]:
        """Identifiers of the sections."""
        return [str(section.attributes["id"]) for section in self.all("section")]


class _Reader(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.page = Page("", {})
        self.stack: list[Element] = [self.page]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len(dict(attrs)) == len(attrs), f"an attribute twice in {tag}"
        element = Element(tag, dict(attrs))
        self.stack[-1].parts.append(element)
        if tag not in VOID:
            self.stack.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.stack[-1].parts.append(Element(tag, dict(attrs)))  # XML, inside <svg>
        assert any(element.name == "svg" for element in self.stack), tag

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop().name == tag

    def handle_data(self, data: str) -> None:
        self.stack[-1].parts.append(data)


def parse(html: str) -> Page:
    """The page, if it is well-formed."""
    assert html.startswith("<!DOCTYPE html>\n<html ")
    reader = _Reader()
    reader.feed(html)
    reader.close()
    assert reader.stack == [reader.page], "an element is not closed"
    return reader.page


def fragment(html: str) -> Page:
    """A part of a page as a page."""
    return parse(f"<!DOCTYPE html>\n<html lang=en>{html}</html>")
