from report_samples import ALL, Sample, by_hand

from mnq.toolchain.map import Map, uniform
from mnq.toolchain.measurements import CHOSEN
from mnq.toolchain.report.view import View

SOFTMAX, GELU, NORM = "blocks.0.attn.softmax", "blocks.0.mlp.act", "norm"


def test_sites_are_numbered_as_in_the_paper(sample: Sample) -> None:
    labels = {site.name: site.label for site in View(sample.measurements).sites}
    assert labels["blocks.5.attn.softmax"] == "22.softmax"
    assert labels["blocks.11.attn.softmax"] == "46.softmax"
    assert labels["norm"] == "49.layernorm"


def test_a_stand_in_is_no_candidate(sample: Sample) -> None:
    view = View(sample.measurements)
    assert view.candidates("softmax") == ["ivit", "ibert", "fqvit", "lut"]
    assert view.candidates("gelu") == ["ivit", "ibert", "lut"]
    assert view.candidates("layernorm") == ["ivit", "ibert", "fqvit"]
    run = sample.measurements.run(8, "joint", "fqvit")
    assert run is not None and run.sites[GELU].method == "ivit"
    assert view.entry("fqvit", GELU) is None
    assert view.figures("fqvit", GELU) == {}


def test_figures_are_those_of_the_run(sample: Sample) -> None:
    run = sample.measurements.run(6, "joint", "lut")
    assert run is not None
    output, entering = run.sites[SOFTMAX].output, run.sites[SOFTMAX].input
    found = View(sample.measurements).figures("lut", SOFTMAX, 6)
    assert found["output"] == output.asqnr()
    assert found["diff"] == output.asqnr() - entering.asqnr()
    assert found["output_sqnr_db"] == output.sqnr_db()


def test_joint_runs_are_shown_before_isolated_ones() -> None:
    sample = Sample().uniform("ivit", measure="isolated")
    mapping = sample.mapping(measure="isolated")
    assert View(sample.measurements, mapping).measure == "isolated"
    sample.chosen(mapping)  # joint, but of no method
    view = View(sample.measurements, mapping)
    assert (view.measure, view.images) == ("isolated", 4)
    assert view.chosen is not None
    sample.uniform("ivit")
    assert View(sample.measurements, mapping).measure == "joint"


def test_basis_is_what_the_map_was_chosen_by() -> None:
    sample = Sample().uniform("ivit", "ibert").uniform("ivit", "ibert", measure="isolated")
    mapping = sample.mapping("sqnr-drop", measure="isolated")
    view = View(sample.measurements, mapping)
    assert (view.measure, view.basis) == ("joint", "isolated")
    run = sample.measurements.run(8, "isolated", "ibert")
    assert run is not None
    rounded = view.stated("ibert", NORM)["output"]
    assert rounded == round(run.sites[NORM].output.asqnr(), 3)
    bare = by_hand("deit_t")
    bare.provenance.update(mapping.provenance)
    stated = View(sample.measurements, bare).stated("ibert", NORM)
    assert stated["output"] == run.sites[NORM].output.asqnr()
    assert View(sample.measurements, by_hand("deit_t")).basis == "joint"


def test_width_is_the_maps_then_the_chosen_runs_then_the_first_joint_one() -> None:
    sample = Sample().uniform("ivit", bits=4, measure="isolated")
    assert View(sample.measurements).bits == 4
    sample.uniform("ivit", bits=6).uniform("ivit", bits=8)
    assert View(sample.measurements).bits == 6
    sample.chosen(uniform("deit_t", "ivit", 8))
    assert View(sample.measurements).bits == 8
    assert View(sample.measurements, uniform("deit_t", "ivit", 6)).bits == 6
    assert View(sample.measurements, bits=4).bits == 4


def test_widths_are_those_of_the_shown_measure(sample: Sample) -> None:
    assert View(sample.measurements).widths == [8, 6]
    assert View(sample.measurements, measure="isolated").widths == [8]


def test_chosen_run_of_another_map_is_not_this_maps() -> None:
    sample = Sample().uniform(*ALL).chosen(uniform("deit_t", "lut"))
    view = View(sample.measurements, uniform("deit_t", "ivit"))
    assert view.chosen is None
    assert CHOSEN not in view.models()
    assert view.choices[SOFTMAX] == "ivit"
    alone = View(sample.measurements)
    assert alone.chosen is not None
    assert alone.choices[SOFTMAX] == "lut"


def test_counts_are_those_of_the_choices(sample: Sample, mapping: Map) -> None:
    found = View(sample.measurements, mapping).counts()
    methods = [mapping.sites[s]["method"] for s in sample.measurements.sites]
    assert {k: sum(found[k].values()) for k in found} == {
        "softmax": 12,
        "gelu": 12,
        "layernorm": 25,
    }
    for method in ALL:
        assert sum(table.get(method, 0) for table in found.values()) == methods.count(method)


def test_methods_to_choose_from() -> None:
    sample = Sample().uniform(*ALL)
    assert View(sample.measurements, sample.mapping(methods="all")).allowed() == ALL
    assert View(sample.measurements, sample.mapping(methods="paper")).allowed() == ALL[:3]
    one = Sample().uniform("ibert")
    assert View(one.measurements, one.mapping(methods="paper")).allowed() == ("ibert",)


def test_reasons_against_a_method_come_from_runs_and_map() -> None:
    sample = Sample().uniform("ivit", "ibert")
    sample.measurements.runs[0].unusable[GELU] = "too\nlarge"
    mapping = sample.mapping()
    assert View(sample.measurements, mapping).unusable(GELU) == {"ivit": "too large"}
    mapping.sites[GELU]["measured"]["unusable"] = {"lut": "no table", "other": "x"}
    found = View(sample.measurements, mapping).unusable(GELU)
    assert found == {"ivit": "too large", "lut": "no table"}
    mapping.sites[GELU]["measured"] = "x"
    assert View(sample.measurements, mapping).unusable(GELU) == {"ivit": "too large"}
    assert View(sample.measurements, mapping).reason(GELU) is None


def test_a_run_without_images_counts_as_none() -> None:
    sample = Sample().uniform("ivit", "ibert")
    for entry in sample.measurements.runs[1].sites.values():
        entry.input.signal, entry.input.noise = [], []
        entry.output.signal, entry.output.noise = [], []
    view = View(sample.measurements)
    assert view.images == 4
    assert view.allowed() == ("ivit",)
    assert view.candidates("gelu") == ["ivit"]


def test_mean_is_over_the_sites_of_a_kind(sample: Sample) -> None:
    run = sample.measurements.run(8, "joint", "ibert")
    assert run is not None
    kinds = sample.measurements.sites
    values = [e.output.sqnr_db() for site, e in run.sites.items() if kinds[site] == "softmax"]
    view = View(sample.measurements)
    assert view.mean_db("ibert", "softmax", 8) == sum(values) / 12
    assert view.mean_db("fqvit", "gelu", 8) is None
