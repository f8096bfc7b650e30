"""Peers: what is in their files, when they are built, and what is left when that fails."""

from __future__ import annotations

import dataclasses
import importlib.util
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from timm.models.vision_transformer import VisionTransformer

from mnq.models import weights
from mnq.models.preprocess import Preprocess
from mnq.models.zoo import LoadedModel
from mnq.ops.errors import EnvironmentLack, InputError
from mnq.runtime import child
from mnq.runtime.engines import images, open_engine
from mnq.toolchain import peers

pytestmark = pytest.mark.onnxruntime

SHAPE = [1, 3, 16, 16]


@pytest.fixture(scope="module")
def loaded() -> LoadedModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        net = VisionTransformer(
            img_size=16, patch_size=8, embed_dim=16, depth=1, num_heads=2, num_classes=5
        ).eval()
    preprocess = Preprocess(16, 16, "bicubic", (0.5,) * 3, (0.5,) * 3, 3)
    return LoadedModel("a/b c", None, net, preprocess, None, 5, weights.digest(net))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("peers")


def float_logits(loaded: LoadedModel, batch: int) -> Any:
    with torch.no_grad():
        return loaded.model(torch.from_numpy(images([batch, *SHAPE[1:]], raw=False))).numpy()


def operators(path: Path) -> Counter[str]:
    return Counter(node.op_type for node in onnx.load(path).graph.node)


def check(loaded: LoadedModel, kind: str, folder: Path, decibels: float) -> Path:
    """Build a peer, run two images in it, and hold its logits to PyTorch's."""
    ticks: list[int] = []
    (engine,) = peers.build(loaded, [kind], folder, ticks.append)
    assert ticks == [1]
    assert engine.name == peers.PEERS["cpu"][kind].name
    found: Any = open_engine(engine, 2, 1).run()
    (logits,) = found.values() if engine.runtime == "openvino" else found
    wanted = float_logits(loaded, 2)
    error = np.square(np.asarray(logits) - wanted).sum()
    assert 10 * np.log10(np.square(wanted).sum() / error) > decibels
    return engine.path


def test_the_float_peer_computes_what_pytorch_does(loaded: LoadedModel, folder: Path) -> None:
    path = check(loaded, "fp32", folder, 100)
    found = operators(path)
    assert found["LayerNormalization"] == 3
    assert found["Erf"] == 1  # which onnxruntime fuses to a GELU
    assert not [name for name in found if "Quantize" in name]
    assert path.name.startswith("a_b_c-")


def test_the_float_model_is_left_as_it_was(loaded: LoadedModel, tmp_path: Path) -> None:
    before = loaded.model.blocks[0].attn.fused_attn  # type: ignore[index, union-attr]
    peers.export_float(loaded, tmp_path / "m.onnx")
    assert loaded.model.blocks[0].attn.fused_attn is before  # type: ignore[index, union-attr]


# Eight bits without calibration on real images: it is the same model, not an accurate one.


def test_the_static_peer_is_quantized_throughout(loaded: LoadedModel, folder: Path) -> None:
    path = check(loaded, "qdq", folder, 15)
    found = operators(path)
    assert found["QuantizeLinear"] > 20
    assert found["Softmax"] == 1
    assert {t.data_type for t in onnx.load(path).graph.initializer if "weight_quantized" in t.name}


def test_the_dynamic_peer_measures_as_it_goes(loaded: LoadedModel, folder: Path) -> None:
    found = operators(check(loaded, "dynamic", folder, 20))
    assert found["DynamicQuantizeLinear"] >= 4
    assert found["MatMulInteger"] >= 4


def test_the_openvino_peer_is_quantized(loaded: LoadedModel, folder: Path) -> None:
    if peers.missing("openvino"):
        pytest.skip("missing OpenVINO: install the extra bench")
    path = check(loaded, "openvino", folder, 15)
    assert "FakeQuantize" in path.read_text()
    assert path.with_suffix(".bin").stat().st_size > 0


def test_a_peer_that_is_there_is_not_built_again(
    loaded: LoadedModel, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = peers.build(loaded, ["fp32", "dynamic"], folder)
    monkeypatch.setattr(child, "run", None)
    monkeypatch.setattr(peers, "export_float", None)
    assert peers.build(loaded, ["fp32", "dynamic"], folder) == first


def test_other_weights_or_versions_have_other_files(
    loaded: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    others = dataclasses.replace(loaded, weights_digest="00")
    paths = {peers.build(model, ["fp32"], tmp_path)[0].path for model in (loaded, others)}
    monkeypatch.setattr(peers, "version", lambda name: "0.0")
    paths.add(peers.build(loaded, ["fp32"], tmp_path)[0].path)
    assert len(paths) == 3
    assert sorted(tmp_path.iterdir()) == sorted(paths)


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), child.ChildFailed("it ran out of wit")])
def test_an_interrupted_build_leaves_whole_files_only(
    stop: BaseException, loaded: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(module: str, kind: str, source: Path, target: Path, *more: object) -> None:
        target.write_bytes(b"half")
        raise stop

    monkeypatch.setattr(child, "run", run)
    kind = KeyboardInterrupt if isinstance(stop, KeyboardInterrupt) else EnvironmentLack
    with pytest.raises(kind) as caught:
        peers.build(loaded, ["qdq"], tmp_path)
    (left,) = tmp_path.iterdir()
    assert left.name.endswith("-fp32.onnx")
    onnx.checker.check_model(onnx.load(left))
    if kind is EnvironmentLack:
        assert "to convert a/b c, found: it ran out of wit; choose others" in str(caught.value)


def test_a_folder_that_cannot_be_made_is_an_error(loaded: LoadedModel, tmp_path: Path) -> None:
    taken = tmp_path / "file"
    taken.write_text("")
    for place in (taken, tmp_path / "no" / "folder"):
        with pytest.raises(InputError, match="choose another with --peers-dir"):
            peers.build(loaded, ["fp32"], place)


def test_a_peer_whose_tools_are_missing_says_how_to_get_them(
    loaded: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(
        peers.importlib.util, "find_spec", lambda name: None if name == "nncf" else find(name)
    )
    reason = "OpenVINO int8: expected the module nncf, found none; pip install 'mnq[bench]'"
    assert peers.missing("openvino").startswith(reason)
    assert peers.missing("fp32") == ""
    with pytest.raises(EnvironmentLack, match="expected the module nncf"):
        peers.build(loaded, ["fp32", "openvino"], tmp_path / "new")
    assert not (tmp_path / "new").exists()
