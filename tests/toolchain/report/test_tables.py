from report_html import Element, fragment
from report_samples import ALL, Sample, by_hand

from mnq.toolchain.map import Map
from mnq.toolchain.report.tables import counts_table, sites_table
from mnq.toolchain.report.view import View


def columns(table: Element) -> list[str]:
    return [cell.text for cell in table.one("thead").all("tr")[-1].parts]  # type: ignore[union-attr]


def test_counts_stand_beside_the_papers(sample: Sample, mapping: Map) -> None:
    view = View(sample.measurements, mapping)
    table = fragment(counts_table(view))
    ours, paper = table.rows()
    counts = view.counts()
    assert ours == ["this map", *(str(counts[k][m]) for k in counts for m in counts[k])]
    # Columns: I-ViT, I-BERT, FQ-ViT, table; I-ViT, I-BERT, table; I-ViT, I-BERT, FQ-ViT.
    assert " ".join(paper) == "the paper, Table 3 2 6 4 – 9 3 – 8 13 4"
    spans = [th.attributes["colspan"] for th in table.all("th", scope="colgroup")]
    assert spans == ["4", "3", "3"]
    names = ["I-ViT", "I-BERT", "FQ-ViT", "LUT", "I-ViT", "I-BERT", "LUT", "I-ViT", "I-BERT"]
    assert columns(table) == ["", *names, "FQ-ViT"]


def test_counts_of_a_model_that_the_paper_lacks_stand_alone() -> None:
    sample = Sample(2, "digits").uniform("ivit")
    assert len(fragment(counts_table(View(sample.measurements, sample.mapping()))).rows()) == 1


def test_counts_have_a_column_for_a_method_that_was_not_measured() -> None:
    sample = Sample(2, "digits").uniform("ivit")
    mapping = by_hand("digits", gelu="lut")
    table = fragment(counts_table(View(sample.measurements, mapping)))
    assert columns(table) == ["", "I-ViT", "I-BERT", "I-ViT", "LUT", "I-ViT", "I-BERT"]
    assert table.rows() == [["this map", "0", "2", "0", "2", "0", "5"]]


def test_a_row_of_a_site_has_the_figures_of_the_runs() -> None:
    sample = Sample(2).uniform(*ALL)
    mapping = sample.mapping("sqnr-output")
    table = fragment(sites_table(View(sample.measurements, mapping)))
    assert columns(table) == ["site", "chosen", "I-ViT", "I-BERT", "FQ-ViT", "LUT", "why"]
    rows = {row[0]: row for row in table.rows()}
    assert len(rows) == 9
    row = rows["4.gelu blocks.0.mlp.act"]
    measured = mapping.sites["blocks.0.mlp.act"]
    names = {"ivit": "I-ViT", "ibert": "I-BERT", "lut": "LUT"}
    assert row[1] == names[measured["method"]]
    for column, method in ((2, "ivit"), (3, "ibert"), (5, "lut")):
        run = sample.measurements.run(8, "joint", method)
        assert run is not None
        entry = run.sites["blocks.0.mlp.act"]
        beta, gamma = entry.output.asqnr(), entry.input.asqnr()
        shown = f"{round(beta - gamma, 3):.2f} diff β {beta:.1f} γ {gamma:.1f}"
        shown += f" {entry.output.sqnr_db():.1f} dB output"
        assert row[column] == shown.replace("-", "−")
    assert row[4] == "–"  # FQ-ViT's stand-in
    assert row[6] == measured["measured"]["reason"]


def test_chosen_cells_are_marked() -> None:
    sample = Sample(2).uniform(*ALL)
    mapping = sample.mapping()
    rows = fragment(sites_table(View(sample.measurements, mapping))).one("tbody").all("tr")
    for row, entry in zip(rows, mapping.sites.values(), strict=True):
        (marked,) = row.all("td", class_="chosen")
        assert row.parts.index(marked) == 2 + ALL.index(entry["method"])


def test_figures_on_the_logits_come_first(sample: Sample, mapping: Map) -> None:
    row = fragment(sites_table(View(sample.measurements, mapping))).rows()[0]
    trial = sample.measurements.searches[0].sites["blocks.0.norm1"]
    assert row[3].startswith(f"{round(trial.sqnr_db['ibert'], 3):.2f} dB logits ")


def test_unusable_methods_say_why() -> None:
    sample = Sample(2).uniform("ivit", "ibert")
    run = sample.measurements.runs[0]
    run.unusable["blocks.1.mlp.act"] = "weights are too large"
    run.sites["blocks.1.mlp.act"].method = "ibert"
    rows = fragment(sites_table(View(sample.measurements, sample.mapping()))).rows()
    assert rows[7][2] == "unusable: weights are too large"


def test_a_map_without_figures_says_so() -> None:
    sample = Sample(2).uniform("ivit", "ibert")
    rows = fragment(sites_table(View(sample.measurements, by_hand("deit_t")))).rows()
    assert {row[-1] for row in rows} == {"The map states no figures."}
    assert rows[0][2] != "–"  # computed from the runs
    rows = fragment(sites_table(View(sample.measurements))).rows()
    assert {row[-1] for row in rows} == {""}
