import re

import matplotlib
import pytest

from mnq.toolchain.report.markup import Html
from mnq.toolchain.report.svg import drawing


def drawn(name: str = "a", label: str = "0.0001 <x> $y^$ \\z") -> Html:
    with drawing(2.0) as figure:
        figure.axes[0].plot([1, 2, 3], [0.001, 0.0015, 0.002], marker="o", label=label)
        figure.axes[0].bar([1], [0.001], hatch="//")
        figure.axes[0].set_title(label)
        figure.legend(figure.axes[0].lines, [label])
    return figure.html(name, "what it shows")


def test_text_stays_text_and_is_escaped() -> None:
    html = drawn()
    assert html.count("0.0001 &lt;x&gt; $y^$ \\z</text>") == 2


def test_digits_of_labels_are_kept() -> None:
    ticks = re.findall(r">(0\.00\d+)</text>", drawn())
    assert {"0.001", "0.002"} <= set(ticks)


def test_nothing_refers_to_the_outside_of_the_page() -> None:
    html = drawn()
    assert "http" not in html and "xlink" not in html
    assert not re.search("<(style|metadata|title|!|[?])", html)
    assert html.startswith('<svg viewBox="0 0 720 144"')
    assert 'role="img" aria-label="what it shows"' in html


def test_identifiers_are_used_and_carry_the_name_of_the_figure() -> None:
    html = drawn("fig")
    ids = re.findall(r' id="([^"]*)"', html)
    used = re.findall(r'href="#([^"]*)"|url\(#([^)]*)\)', html)
    assert ids and set(ids) == {one or other for one, other in used}
    assert all(name.startswith("fig-") for name in ids)
    assert not set(ids) & set(re.findall(r' id="([^"]*)"', drawn("other")))


def test_the_same_figure_is_the_same_text() -> None:
    assert drawn() == drawn()


@pytest.mark.filterwarnings("error")
def test_settings_of_matplotlib_are_put_back() -> None:
    before = dict(matplotlib.rcParams)
    drawn()
    assert dict(matplotlib.rcParams) == before
