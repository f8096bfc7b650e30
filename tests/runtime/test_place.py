import os

import numpy as np
import pytest
from onnx import ModelProto
from runtime_tiny import Tiny

from mnq.ops.errors import EnvironmentLack, InputError
from mnq.runtime.place import PATH_VARIABLE, Place, cpu_path

PLACES = {
    "cpu, level all": Place(),
    "cpu, 1 thread, level basic": Place("functions", "basic", threads=1),
    "cpu kernels avx2, 2 threads, level all": Place("kernels", threads=2, path="avx2"),
    "cuda, level disabled": Place("functions", "disabled", "cuda"),
    "onnx.reference": Place("reference", "all", threads=3),
}


@pytest.mark.parametrize("text", PLACES)
def test_a_place_in_words(text: str) -> None:
    assert str(PLACES[text]) == text


def test_a_place_as_json_says_nothing_that_does_not_apply() -> None:
    assert Place("reference").to_json() == {"engine": "reference"}
    assert Place("kernels", "basic", "cpu", 2, "amx").to_json() == {
        **{"engine": "kernels", "level": "basic", "provider": "cpu", "threads": 2, "path": "amx"}
    }


@pytest.mark.onnxruntime
@pytest.mark.parametrize(
    "place",
    [
        Place("functions", "disabled", threads=1),
        Place("reference"),
        pytest.param(Place("kernels", path="portable"), marks=pytest.mark.native),
    ],
)
def test_a_place_runs_a_model_and_reads_its_tensors(place: Place, tiny: Tiny) -> None:
    right = tiny.reference(tiny.images)
    found = place.run(tiny.copy(), {"image": tiny.images}, ["head", "blocks.0.norm1"])
    assert list(found) == ["head", "blocks.0.norm1"]
    for name, values in found.items():
        np.testing.assert_array_equal(values, right[name])
    plain = place.run(tiny.copy(), {"image": tiny.images})
    np.testing.assert_array_equal(plain["logits"], right["head"])


@pytest.mark.onnxruntime
@pytest.mark.parametrize("engine", ["functions", "reference"])
def test_a_model_that_does_not_run_is_refused_in_one_line(engine: str, proto: ModelProto) -> None:
    proto.graph.node[5].op_type = "Nothing"
    with pytest.raises(InputError, match=r"expected .*, found: ") as caught:
        Place(engine).run(proto, {"image": np.zeros((1, 3, 16, 16), np.uint8)})
    assert "\n" not in str(caught.value)


@pytest.mark.native
def test_a_path_that_this_processor_lacks_is_said(proto: ModelProto) -> None:
    with pytest.raises(EnvironmentLack, match=r"MNQ_CPU_PATH: expected one of .*, found 'none'"):
        Place("kernels", path="none").open(proto)


def test_the_variable_is_as_before_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(PATH_VARIABLE, raising=False)
    with cpu_path("avx2"):
        assert os.environ[PATH_VARIABLE] == "avx2"
        with cpu_path(""):
            assert os.environ[PATH_VARIABLE] == "avx2"
    assert PATH_VARIABLE not in os.environ
    monkeypatch.setenv(PATH_VARIABLE, "amx")
    with pytest.raises(RuntimeError), cpu_path("portable"):
        raise RuntimeError
    assert os.environ[PATH_VARIABLE] == "amx"


@pytest.mark.native
def test_every_session_of_a_process_can_have_another_path(proto: ModelProto) -> None:
    """No choice is kept: the second is refused though the first was there."""
    Place("kernels", path="portable").open(proto)
    with pytest.raises(EnvironmentLack):
        Place("kernels", path="none").open(proto)
    Place("kernels", path="portable").open(proto)
