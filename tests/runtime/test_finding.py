import json
from dataclasses import dataclass

import numpy as np
import pytest
from onnx import ModelProto
from runtime_tiny import Tiny, flip_bit, recertified

from mnq.runtime import certified, contents
from mnq.runtime.causes import in_words, likely
from mnq.runtime.certified import Right
from mnq.runtime.finding import ALONE, FILE, TOGETHER, find
from mnq.runtime.modelfile import ModelFile
from mnq.runtime.place import Place, Runner
from mnq.runtime.places import DIFFERS, EQUAL, MISSING

pytestmark = pytest.mark.onnxruntime

HERE = Place("functions", "disabled", threads=1)


def quiet(text: str) -> None:
    pass


@dataclass(frozen=True)
class Rewriting(Place):
    """onnxruntime with an optimizer that changes the bias of a node, if another is beside it."""

    target: str = "blocks.0.attn.qkv"
    beside: str = "blocks.0.norm1"

    def open(self, model: ModelProto, names: list[str] | None = None) -> Runner:
        copy = ModelProto()
        copy.CopyFrom(model)
        made = {name for node in copy.graph.node for name in node.output}
        if {self.target, self.beside} <= made:
            flip_bit(copy, f"{self.target}.bias", 3, 12)
        return HERE.open(copy, names)


def test_a_rewrite_of_two_nodes_is_named_with_both(model: ModelFile) -> None:
    place = Rewriting(level="extended")
    found = find(model, certified.right(model), place, quiet)
    assert found is not None
    assert (found.kind, found.tensor, found.module) == (TOGETHER, place.target, place.target)
    assert found.nodes == ["IBertLayerNorm 'blocks.0.norm1'", "QLinear 'blocks.0.attn.qkv'"]
    assert found.part.piece.inputs == ("add",)
    index, expected, integer = found.first()
    assert index is not None and expected != integer
    shown = json.loads(json.dumps(found.to_json()))
    assert (shown["kind"], shown["expected"], shown["found"]) == ("together", expected, integer)
    # The real places are all right.
    assert {other.verdict for other in found.elsewhere} <= {EQUAL, MISSING}
    assert likely(found)[0].startswith("only cpu, level extended gives these integers")


def test_a_node_that_is_wrong_everywhere_is_the_file(tiny: Tiny, model: ModelFile) -> None:
    """With PyTorch's integers at hand both integers are known."""
    flip_bit(model.proto, "blocks.0.mlp.act.w", 3, 6)
    right = Right({"image": tiny.images, **tiny.reference(tiny.images)}, None)
    found = find(model, right, HERE, quiet)
    assert found is not None
    assert (found.kind, found.tensor) == (ALONE, "blocks.0.mlp.act")
    assert {other.verdict for other in found.elsewhere} - {MISSING} == {DIFFERS}
    (change,) = contents.changes(model)
    assert likely(found, [change]) == [
        "the file was changed after the export: constant 'blocks.0.mlp.act.w' of node "
        "'blocks.0.mlp.act': other values than certified"
    ]
    assert "nothing here computes the expected integers" in likely(found)[0]


def test_a_file_that_was_certified_with_other_constants_is_located(model: ModelFile) -> None:
    """A forger wrote the changed constant's digest into the certificate, but has no torch."""
    flip_bit(model.proto, "blocks.0.mlp.act.w", 3, 6)
    forged = recertified(model, **contents.digests(model.proto))
    assert contents.changes(forged) == []
    right = certified.right(forged)
    found = find(forged, right, HERE, quiet)
    assert found is not None
    assert (found.kind, found.tensor) == (FILE, "blocks.0.mlp.act")
    assert found.first() == (None, None, "int8 [2, 5, 64]")
    (cause,) = likely(found)
    assert cause.startswith("the file is another than certified, for nothing here computes")
    assert "blocks.0.mlp.act.w, blocks.0.mlp.act.bias" in cause
    assert "other integers than certified" in in_words(found)[1]
    assert found.to_json()["differing_integers"] is None


def test_a_tensor_that_cannot_be_computed_at_all_is_no_finding(model: ModelFile) -> None:
    right = certified.right(model)
    for function in model.proto.functions:
        del function.node[:]
    short = {name: right.values[name] for name in ("image", "input.codes")}
    assert find(model, Right(short, "patch_embed.proj"), HERE, quiet) is None


def test_a_model_that_is_right_has_no_finding(model: ModelFile) -> None:
    assert find(model, certified.right(model), HERE, quiet) is None


@pytest.mark.native
def test_kernels_are_named_with_the_path_that_they_chose(
    tiny: Tiny, model: ModelFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MNQ_CPU_PATH", "portable")
    flip_bit(model.proto, "head.bias", 0, 5)
    right = Right({"image": tiny.images, **tiny.reference(tiny.images)}, None)
    found = find(model, right, Place("kernels"), quiet)
    assert found is not None
    assert (found.place.path, found.tensor, found.inner) == ("portable", "head", None)


def test_a_shape_or_a_type_that_differs_is_named(tiny: Tiny, model: ModelFile) -> None:
    reference = tiny.reference(tiny.images)
    reference["norm"] = reference["norm"].astype(np.int16)
    found = find(model, Right({"image": tiny.images, **reference}, None), HERE, quiet)
    assert found is not None
    assert found.first() == (None, "int16 [5, 5, 16]", "int8 [5, 5, 16]")
    assert "expected int16 [5, 5, 16], found int8 [5, 5, 16]" in in_words(found)[1]
