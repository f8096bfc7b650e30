import json

import pytest
from runtime_tiny import flip_bit

from mnq.ops.errors import EnvironmentLack
from mnq.runtime import matrix
from mnq.runtime.matrix import Cell, cell, cells
from mnq.runtime.modelfile import ModelFile
from mnq.runtime.place import Place
from mnq.runtime.places import DIFFERS, EQUAL, MISSING, REFUSED
from mnq.runtime.session import LEVELS

pytestmark = pytest.mark.onnxruntime

HERE = Place("functions", "disabled", threads=1)


def test_every_row_has_every_level_and_the_reference_has_none() -> None:
    found = [place for place, _ in matrix.places(2)]
    assert len(found) == len(set(found)) == 12 * 4 + 1
    for level in LEVELS:
        assert Place("kernels", level, "cpu", 2, "amx") in found
        assert Place("functions", level, "cuda") in found
    assert [place for place in found if place.engine == "reference"] == [
        Place("reference", "disabled")
    ]


def test_an_untouched_model_is_equal_and_what_is_missing_says_why(model: ModelFile) -> None:
    found = list(
        cells(model, [(HERE, ""), (Place("kernels"), "no library"), (Place("reference"), "")])
    )
    assert [c.verdict for c in found] == [EQUAL, MISSING, EQUAL]
    assert (found[1].run, found[1].reason) == (None, "no library")
    shown = found[0].to_json()
    assert (shown["tensors"], shown["differing_tensors"]) == (len(model.tensors) + 2, 0)
    assert shown["place"]["threads"] == 1
    assert json.loads(json.dumps([c.to_json() for c in found]))[1]["verdict"] == "not run"


def test_a_difference_names_the_first_tensor_everywhere(model: ModelFile) -> None:
    flip_bit(model.proto, "blocks.0.attn.qkv.w", 100, 6)
    for place in (HERE, Place("reference")):
        found = cell(model, place)
        assert found.verdict == DIFFERS
        assert found.to_json()["first"] == "blocks.0.attn.qkv"
        assert found.to_json()["module"] == "blocks.0.attn.qkv"
        assert found.run is not None and not found.run.passed


@pytest.mark.native
@pytest.mark.parametrize("threads", [1, 2])
def test_every_path_of_this_processor_is_equal(model: ModelFile, threads: int) -> None:
    from mnq.ops.kernels import paths

    for path in paths():
        assert cell(model, Place("kernels", "all", threads=threads, path=path)).verdict == EQUAL


def test_a_model_that_does_not_run_is_refused_with_the_reason(model: ModelFile) -> None:
    model.proto.functions[0].node[0].op_type = "Nothing"
    for place in (HERE, Place("reference")):
        found = cell(model, place)
        assert found.verdict == REFUSED
        assert found.run is not None and not found.run.passed
        assert "expected" in found.reason and found.run.refused == found.reason


def test_a_place_that_does_not_start_is_not_run(
    model: ModelFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise EnvironmentLack(
            "onnxruntime: expected CUDA to start, found no device; run mnq-doctor"
        )

    monkeypatch.setattr("mnq.runtime.place.open_session", broken)
    found = cell(model, Place("functions", "all", "cuda"))
    assert found == Cell(
        found.place,
        MISSING,
        reason="onnxruntime: expected CUDA to start, found no device; run mnq-doctor",
    )
