import io
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

sys.path.append(str(Path(__file__).parents[1] / "toolchain" / "report"))

from report_samples import ALL, Sample, by_hand

from mnq.cli.bars import SiteFigures, site_table
from mnq.toolchain.report.view import View


def printed(renderable: Any, width: int = 100, encoding: str = "utf-8") -> list[str]:
    """The lines that a terminal of that width shows."""
    file = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    Console(file=file, width=width).print(renderable)
    file.flush()
    return file.buffer.getvalue().decode(encoding).splitlines()  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("rule", "title"),
    [
        ("sqnr-absdiff", "|out-in|: less is better; * chosen"),
        ("sqnr-signed", "out-in: less is better; * chosen"),
        ("sqnr-drop", "in-out: less is better; * chosen"),
        ("sqnr-output", "out: more is better; * chosen"),
    ],
)
def test_a_row_has_the_figures_of_the_rule(rule: str, title: str) -> None:
    sample = Sample(2).uniform(*ALL)
    mapping = sample.mapping(rule)
    lines = printed(site_table(sample.measurements, mapping))
    assert lines[0].rstrip() == title
    change = {"sqnr-absdiff": abs, "sqnr-signed": float, "sqnr-drop": lambda diff: -diff}
    for line, (site, entry) in zip(lines[2:11], mapping.sites.items(), strict=True):
        figures = entry["measured"]["figures"]
        key = "output" if rule == "sqnr-output" else "diff"
        shown = {m: change.get(rule, float)(f[key]) for m, f in figures.items()}
        marked = [f"{v:.2f}{'*' * (m == entry['method'])}" for m, v in shown.items()]
        words = [word for word in line.split() if not set(word) & set("█▏▎▍▌▋▊▉")]
        assert words[1:] == [site, entry["method"], *marked]


def test_figures_on_the_logits() -> None:
    sample = Sample(2).uniform(*ALL).search(*ALL)
    lines = printed(site_table(sample.measurements, sample.mapping("logits")))
    assert lines[0].startswith("logit SQNR, dB: more is better")
    trial = sample.measurements.searches[0].sites["blocks.0.norm1"]
    assert f"{trial.sqnr_db['ivit']:.2f}" in lines[2]


def test_bars_reach_from_zero_to_the_largest() -> None:
    sample = Sample(1).uniform("ivit", "ibert")
    mapping = sample.mapping("sqnr-drop")
    for method, diff in (("ivit", -8.0), ("ibert", -2.0)):
        mapping.sites["blocks.0.mlp.act"]["measured"]["figures"][method]["diff"] = diff
    (line,) = [
        line for line in printed(site_table(sample.measurements, mapping)) if "mlp.act" in line
    ]
    bars = [len(word) for word in line.split() if set(word) <= set("█▌")]
    assert bars == [10, 3]  # 2.5 of 10: two blocks and a half


def test_a_narrow_terminal_gets_no_bars_and_all_figures() -> None:
    sample = Sample(2).uniform(*ALL)
    table = site_table(sample.measurements, sample.mapping())
    lines = printed(table, width=72)
    assert not any("█" in line for line in lines)
    assert all(len(line) <= 72 for line in lines)
    assert [line.count(".") for line in printed(table, width=200)] == [
        line.count(".") for line in lines
    ]


def test_ascii_where_the_terminal_is_no_unicode() -> None:
    sample = Sample(2).uniform(*ALL)
    measurements = sample.measurements
    for table in (measurements.sites, *(run.sites for run in measurements.runs)):
        entries = [("größe\x1b[2J" if s == "norm" else s, value) for s, value in table.items()]
        table.clear()  # type: ignore[attr-defined]
        table.update(entries)  # type: ignore[attr-defined]
    lines = printed(site_table(measurements, sample.mapping("sqnr-output")), encoding="ascii")
    assert any("##" in line for line in lines)
    assert any(r"gr??e\x1b[2J" in line for line in lines)
    assert "gr??e" in "".join(printed(SiteFigures(View(measurements)), encoding="ascii"))
    utf8 = "".join(printed(site_table(measurements, sample.mapping("sqnr-output"))))
    assert "größe" in utf8 and "\x1b" not in utf8


def test_unusable_methods_are_named() -> None:
    sample = Sample(1).uniform("ivit", "ibert")
    run = sample.measurements.runs[0]
    run.unusable["blocks.0.mlp.act"] = "too large"
    run.sites["blocks.0.mlp.act"].method = "ibert"
    lines = printed(site_table(sample.measurements, sample.mapping()))
    assert ["unusable" in line for line in lines[2:7]] == [False] * 3 + [True, False]


def test_counts_are_below() -> None:
    sample = Sample(2).uniform(*ALL)
    lines = printed(site_table(sample.measurements, by_hand("deit_t", gelu="lut")))
    assert [line.split() for line in lines[-4:]] == [
        ["sites", "ivit", "ibert", "fqvit", "lut"],
        ["Softmax", "0", "2", "0", "0"],
        ["GELU", "0", "0", "-", "2"],
        ["LayerNorm", "0", "5", "0", "-"],
    ]


def test_a_map_without_a_rule_shows_outputs() -> None:
    sample = Sample(2).uniform("ivit")
    lines = printed(site_table(sample.measurements, by_hand("deit_t")))
    assert lines[0].startswith("out: more is better")


def test_figures_without_a_map() -> None:
    sample = Sample(2).uniform(*ALL)
    lines = printed(SiteFigures(View(sample.measurements)))
    assert lines[0].rstrip() == "8 bits, joint, 4 images: output dB, and diff"
    run = sample.measurements.run(8, "joint", "lut")
    assert run is not None
    entry = run.sites["blocks.0.mlp.act"]
    words = [f"{entry.output.sqnr_db():.2f}", f"{entry.output.asqnr() - entry.input.asqnr():.2f}"]
    assert lines[5].split()[-2:] == words
    assert len(lines[5].split()) == 2 + 2 * 3  # FQ-ViT has no GELU
