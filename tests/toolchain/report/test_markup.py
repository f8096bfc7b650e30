import pytest

from mnq.toolchain.report.markup import Html, element, join, number, table, text


def test_text_is_escaped_and_html_is_not() -> None:
    inner = element("b", '<i> & "x"')
    assert inner == "<b>&lt;i&gt; &amp; &quot;x&quot;</b>"
    assert element("p", inner, " <") == f"<p>{inner} &lt;</p>"
    assert text("a\n<b>") == "a &lt;b&gt;"
    assert text(inner) is inner


def test_joined_parts_are_html() -> None:
    joined = join("<", Html("<br>"))
    assert isinstance(joined, Html)
    assert joined == "&lt;<br>"


def test_attributes_are_escaped_and_may_be_left_out() -> None:
    opening = element("td", class_='"><x', aria_label="a", title=None, open_=False)
    assert opening == '<td class="&quot;&gt;&lt;x" aria-label="a"></td>'
    assert element("details", open_=True) == '<details open=""></details>'
    assert element("br") == "<br>"


def test_characters_that_html_forbids_are_replaced() -> None:
    assert element("p", "a\x00\x1b\ud800\u202eb\n") == "<p>a\ufffd\ufffd\ufffd\ufffdb\n</p>"


@pytest.mark.parametrize(
    ("value", "digits", "shown"),
    [
        (1.25, 1, "1.2"),
        (-3.14159, 2, "−3.14"),
        (-0.04, 1, "0.0"),
        (None, 1, "–"),
        (float("nan"), 1, "–"),
        (100, 0, "100"),
    ],
)
def test_numbers_for_people(value: float | None, digits: int, shown: str) -> None:
    assert number(value, digits) == shown


def test_a_table_escapes_cells_and_keeps_elements() -> None:
    html = table(["a", "<"], [["x", element("td", "y", class_="c")], ["<", 2]], "t")
    assert '<th scope="col">&lt;</th>' in html
    assert '<tr><th scope="row">x</th><td class="c">y</td></tr>' in html
    assert '<tr><th scope="row">&lt;</th><td>2</td></tr>' in html
    assert "thead" not in table([], [["x", 1]], "t")
