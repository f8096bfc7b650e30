import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from cli_runs import mnq, payload, start

sys.path.append(str(Path(__file__).parents[1] / "toolchain" / "report"))

from report_html import parse
from report_samples import ALL, Sample, by_hand

from mnq.cli.common import map_text
from mnq.toolchain.map import Map, uniform

GELU = "blocks.0.mlp.act"


@pytest.fixture(scope="session")
def sample() -> Sample:
    """The digits model, made up: joint and isolated, a chosen map, another width."""
    made = Sample(4, "digits").uniform(*ALL).uniform("ivit", bits=6)
    return made.chosen(made.mapping())


@pytest.fixture
def measured(sample: Sample, tmp_path: Path) -> Path:
    path = tmp_path / "digits.json"
    sample.measurements.save(path)
    return path


@pytest.fixture
def chosen(sample: Sample, tmp_path: Path) -> Path:
    return written(sample.mapping(), tmp_path / "map.json")


def written(mapping: Map, path: Path) -> Path:
    path.write_text(map_text(mapping.to_json()))
    return path


def refused(*words: object) -> str:
    """The error of a command that must refuse: one helpful line and status 2."""
    result = mnq("report", *words, "--quiet")
    assert result.exit_code == 2, result.output
    assert result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"mnq-report {words[0]}: error: ")
    assert "; " in line
    return line


def test_html_writes_one_page(measured: Path, chosen: Path, tmp_path: Path) -> None:
    output = tmp_path / "report.html"
    result = mnq("report", "html", measured, "--assign", chosen, "--output", output, "--quiet")
    assert result.exit_code == 0, result.output
    page = parse(output.read_text())
    assert page.one("h1").text.startswith("digits")
    assert "chosen map" in page.text
    assert result.output.startswith(f"{output}: digits, 17 sites, ")
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "digits.json",
        "map.json",
        "report.html",
    ]


def test_html_needs_no_map_and_prints_json(measured: Path, tmp_path: Path) -> None:
    output = tmp_path / "report.html"
    found = payload(mnq("report", "html", measured, "--output", output, "--json"))
    assert found == {
        "output": str(output),
        "bytes": output.stat().st_size,
        "model": "digits",
        "sites": 17,
    }


def test_html_refuses_before_it_writes(measured: Path, chosen: Path, tmp_path: Path) -> None:
    output = tmp_path / "report.html"
    output.write_text("old")
    for words, message in (
        ((tmp_path / "no.json",), "measurements: expected a JSON file, found: No such file"),
        ((chosen,), "measurements: expected mnq-measurements/1"),
        ((measured, "--assign", measured), "map: expected mnq-map/1"),
        ((measured, "--assign", tmp_path / "no.json"), "map: expected a JSON file"),
    ):
        assert message in refused("html", *words, "--output", output)
    other = written(uniform("deit_t", "ivit"), tmp_path / "other.json")
    line = refused("html", measured, "--assign", other, "--output", output)
    assert "expected a map of digits, found one of deit_t" in line
    wide = written(uniform("digits", "ivit", 4), tmp_path / "wide.json")
    line = refused("html", measured, "--assign", wide, "--output", output)
    assert "expected measurements at the map's 4 bits, found 8, 6" in line
    assert output.read_text() == "old"


def test_html_does_not_overwrite_what_it_reads(measured: Path, chosen: Path) -> None:
    before = measured.read_bytes(), chosen.read_bytes()
    for output in (measured, chosen):
        line = refused("html", measured, "--assign", chosen, "--output", output)
        assert "found" in line and "given twice" in line
    assert (measured.read_bytes(), chosen.read_bytes()) == before


def test_html_refuses_a_place_that_cannot_be_written(measured: Path, tmp_path: Path) -> None:
    line = refused("html", tmp_path / "no.json", "--output", tmp_path / "no" / "report.html")
    assert "output: expected an existing folder" in line
    assert "Missing option '--output'" in refused("html", measured)


def test_show_prints_the_choices(measured: Path, chosen: Path, sample: Sample) -> None:
    result = mnq("report", "show", measured, "--assign", chosen)
    assert result.exit_code == 0, result.output
    lines = result.stdout.splitlines()
    assert lines[0].startswith("|out-in|: less is better; * chosen")
    assert lines[5].split()[:3] == ["4", GELU, sample.mapping().sites[GELU]["method"]]
    runs = [run for run in sample.measurements.runs if (run.bits, run.measure) == (8, "joint")]
    runs.sort(key=lambda run: -run.logits.sqnr_db())
    shown = ", ".join(f"{run.name} {run.logits.sqnr_db():.2f}" for run in runs)
    assert lines[-1] == f"logit SQNR in dB, 8 bits: {shown}"


def test_show_prints_json(measured: Path, chosen: Path, sample: Sample) -> None:
    found = payload(mnq("report", "show", measured, "--assign", chosen, "--json"))
    entry = sample.mapping().sites[GELU]
    assert found["sites"][GELU] == {
        "position": 4,
        "kind": "gelu",
        "method": entry["method"],
        "figures": entry["measured"]["figures"],
        "unusable": {},
        "reason": entry["measured"]["reason"],
    }
    assert (found["bits"], found["measure"], found["rule"]) == (8, "joint", "sqnr-absdiff")
    assert {k: sum(v.values()) for k, v in found["counts"].items()} == {
        "softmax": 4,
        "gelu": 4,
        "layernorm": 9,
    }
    assert set(found["logit_sqnr_db"]) == {*ALL, "chosen"}


def test_show_without_a_map_prints_every_width(measured: Path) -> None:
    lines = mnq("report", "show", measured).stdout.splitlines()
    titles = [line.rstrip() for line in lines if "images:" in line]
    assert titles == [
        "8 bits, joint, 4 images: output dB, and diff",
        "6 bits, joint, 4 images: output dB, and diff",
    ]
    found = payload(mnq("report", "show", measured, "--json"))
    assert [view["bits"] for view in found["widths"]] == [8, 6]


def test_diff_of_maps(tmp_path: Path) -> None:
    figures = {"output": 10.0, "input": 12.5, "diff": -2.5, "output_sqnr_db": 5.0}
    entry = {"method": "lut", "measured": {"figures": {"lut": figures}}}
    other = by_hand("digits", 6, gelu="ivit")
    other.sites[GELU] = entry
    a = written(by_hand("digits", gelu="ivit"), tmp_path / "a.json")
    b = written(other, tmp_path / "b.json")
    result = mnq("report", "diff", a, b)
    assert result.exit_code == 0, result.output
    lines = [" ".join(line.split()) for line in result.stdout.splitlines()]
    assert lines[:2] == [
        "a: 8 bits, weights 8 bits, rule not stated",
        "b: 6 bits, weights 6 bits, rule not stated",
    ]
    assert "gelu ivit 4 3" in lines and "gelu lut 0 1" in lines
    assert lines[-3:] == [
        "1 site differs:",
        "site a diff out dB b diff out dB",
        f"{GELU} ivit - - lut -2.50 5.00",
    ]
    found = payload(mnq("report", "diff", a, b, "--json"))
    assert list(found["sites"]) == [GELU]
    same = mnq("report", "diff", a, a)
    assert same.exit_code == 0
    assert same.stdout.endswith("The same method at every site.\n")


def test_diff_of_measurements(measured: Path, tmp_path: Path) -> None:
    other = Sample(4, "digits", images=5, seed=1).uniform("ivit", "lut").measurements
    other.subject["weights"] = "0" * 64
    other.save(tmp_path / "other.json")
    result = mnq("report", "diff", measured, tmp_path / "other.json")
    assert result.exit_code == 0, result.output
    lines = [" ".join(line.split()) for line in result.stdout.splitlines()]
    assert lines[:2] == ["images: 4 and 5", "measured on different weights"]
    assert lines[2].startswith("only in a: ibert, 8 bits, joint; fqvit")
    found = payload(mnq("report", "diff", measured, tmp_path / "other.json", "--json"))
    for entry in found["mean_output_sqnr_db"]:
        row = f"8 joint {entry['run']} {entry['kind']} {entry['a']:.2f} {entry['b']:.2f}"
        assert f"{row} {entry['change']:+.2f}" in lines
    assert len(found["mean_output_sqnr_db"]) == 5


def test_diff_of_measurements_with_nothing_in_common(tmp_path: Path) -> None:
    for name, bits in (("a", 8), ("b", 6)):
        Sample(1, "digits").uniform("ivit", bits=bits).measurements.save(tmp_path / name)
    result = mnq("report", "diff", tmp_path / "a", tmp_path / "b")
    assert result.exit_code == 0
    assert result.stdout.endswith("Nothing that both measured.\n")


def test_diff_refuses_what_cannot_be_compared(measured: Path, chosen: Path, tmp_path: Path) -> None:
    line = refused("diff", measured, chosen)
    assert "expected two files of one kind and model" in line
    other = written(uniform("deit_t", "ivit"), tmp_path / "other.json")
    assert "found mnq-map/1 of digits in" in refused("diff", chosen, other)
    for name, text in (("x", "{"), ("y", '{"format": "z\\n"}'), ("list", "[1]"), ("n", "\x00")):
        (tmp_path / name).write_text(text)
        line = refused("diff", chosen, tmp_path / name)
        assert "expected a map.json or measurements of mnq-assign, found" in line
    assert "found No such file or directory" in refused("diff", chosen, tmp_path / "no")
    broken = {"format": "mnq-map/1", "model": 3}
    (tmp_path / "broken").write_text(json.dumps(broken))
    assert "found a fault at model" in refused("diff", tmp_path / "broken", tmp_path / "broken")
    wrong = written(Map("digits", sites={"x": {"method": "lut"}}), tmp_path / "wrong")
    assert "expected sites of digits, found 'x'" in refused("diff", chosen, wrong)


@pytest.mark.parametrize("verb", ["html", "show", "diff"])
def test_every_subcommand_has_help_with_examples(verb: str) -> None:
    result = mnq("report", verb, "--help")
    assert result.exit_code == 0
    assert f"  mnq-report {verb}" in result.stdout.split("Examples:\n")[1]
    assert mnq("report", verb, "-h").stdout == result.stdout


@pytest.mark.parametrize("verb", ["html", "show", "diff"])
def test_every_option_is_on_the_page(verb: str) -> None:
    commands = Path(__file__).parents[2] / "docs" / "commands.md"
    (page,) = re.findall(r"^## mnq-report\n(.*?)^## ", commands.read_text(), re.M | re.S)
    assert f"| `{verb} " in page
    options = re.findall(r"^  (--[\w-]+)", mnq("report", verb, "--help").stdout, re.M)
    for option in set(options) - {"--json", "--quiet", "--help"}:
        assert f"`{option}" in page, option


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["shwo"], "mnq-report: error: No such command 'shwo'"),
        (["--foo"], "mnq-report: error: No such option '--foo'"),
        (["show"], "mnq-report show: error: Missing argument 'MEASUREMENTS.JSON'; see mnq-report"),
        (["diff", "a"], "mnq-report diff: error: Missing argument 'B.JSON'; see mnq-report diff"),
    ],
)
def test_wrong_use_is_one_line_with_status_2(words: list[str], message: str) -> None:
    result = mnq("report", *words)
    assert result.exit_code == 2
    assert len(result.stderr.splitlines()) == 1
    assert result.stderr.startswith(message)


def test_ctrl_c_leaves_the_old_page(measured: Path, tmp_path: Path) -> None:
    output = tmp_path / "report.html"
    output.write_text("old")
    before = (
        "import mnq.toolchain.report.page as page, time\n"
        "page.render = lambda *a: [print('drawing', flush=True), time.sleep(60)]"
    )
    process = start("report", "html", measured, "--output", output, "--quiet", before=before)
    assert process.stdout is not None
    assert process.stdout.readline() == "drawing\n"
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors == "mnq-report html: interrupted; no file was left half-written\n"
    assert output.read_text() == "old"
    assert len(list(tmp_path.iterdir())) == 2


def test_command_imports_nothing_heavy() -> None:
    code = (
        "import sys; import mnq.cli.report, mnq.cli.bars, mnq.cli.differences\n"
        "print({'torch', 'matplotlib', 'numpy', 'onnx'} & {*sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "set()\n", done.stderr
