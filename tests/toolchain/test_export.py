"""Export and rebuild: what the file says, and that it can be made again from it and the weights."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pytest
import toolchain_models as models
import torch
from numpy.typing import NDArray
from toolchain_harness import Quantized, every_tensor

from mnq.models.zoo import LoadedModel
from mnq.ops.errors import InputError
from mnq.runtime import contents, modelfile, verify
from mnq.runtime.modelfile import ModelFile
from mnq.toolchain import export as exports
from mnq.toolchain import map as maps
from mnq.toolchain.calibrate import scales
from mnq.toolchain.export import Settings, export, rebuild, reference
from mnq.toolchain.map import Map
from mnq.toolchain.program import Program

Refusal = Callable[..., str]

# A map with every kind of entry: other bits, defaults, sites, both forms.
MIXED = Map(
    "tiny",
    6,
    8,
    {"softmax": "ivit", "gelu": "ibert", "layernorm": "fqvit"},
    {
        "blocks.0.attn.softmax": {"method": "lut", "attention": "normalized"},
        "blocks.1.mlp.act": {"method": "ivit", "measured": {"sqnr": 31.5}},
    },
    {"rule": "by hand"},
)
SETTINGS = Settings("percentile", "paper", "float")


@pytest.fixture(scope="module")
def proto(loaded: LoadedModel, quantized: Quantized) -> onnx.ModelProto:
    mapping = maps.uniform("tiny", "lut")
    return export(loaded, quantized.prepared, quantized.statistics, mapping)


@pytest.fixture(scope="module")
def exported(proto: onnx.ModelProto) -> ModelFile:
    return modelfile.parse(proto, "tiny.onnx")


@pytest.fixture(scope="module")
def mixed(loaded: LoadedModel, quantized: Quantized) -> ModelFile:
    found = export(loaded, quantized.prepared, quantized.statistics, MIXED, SETTINGS)
    return modelfile.parse(found, "mixed.onnx")


def images(kind: str) -> NDArray[Any]:
    pixels = models.pixels(4, seed=21)
    return pixels.numpy() if kind == "uint8" else models.normalize(pixels).numpy()


def test_metadata_says_what_the_model_is(
    exported: ModelFile, loaded: LoadedModel, quantized: Quantized
) -> None:
    assert (exported.name, exported.input_kind) == ("tiny", "uint8")
    assert exported.preprocess == loaded.preprocess
    assert exported.classes is None
    assert exported.map == maps.uniform("tiny", "lut").to_json()
    stored = exported.quantization
    assert (stored["method"], stored["form"]) == ("mse", "ivit")
    assert stored["weights"] == loaded.weights_digest
    assert stored["calibration"] == {"images": 16}
    assert stored["scales"] == {g: float(s) for g, s in quantized.scales().items()}
    assert set(exported.versions) == {"mnq", "torch", "timm", "onnx", "onnx-graphsurgeon"}
    assert exported.versions["torch"] == torch.__version__.partition("+")[0]


def test_metadata_names_module_site_and_scale_of_every_tensor(
    exported: ModelFile, quantized: Quantized
) -> None:
    program = quantized.program("lut")
    assert list(exported.tensors) == [step.output for step in program.steps]
    for step in program.steps:
        expected = {"module": step.module, "site": step.site, "scale": step.scale}
        assert exported.tensors[step.output] == expected
    assert exported.output_scale == program.output_scale


def test_metadata_keeps_a_mixed_map_and_settings(mixed: ModelFile, quantized: Quantized) -> None:
    found = scales(quantized.statistics, quantized.edges, 6, "percentile", "paper")
    assert mixed.quantization["scales"] == {group: float(s) for group, s in found.items()}
    assert mixed.map == MIXED.to_json()
    assert mixed.input_kind == "float"
    assert (mixed.quantization["method"], mixed.quantization["form"]) == ("percentile", "paper")
    operators = {node.name: node.op_type for node in mixed.proto.graph.node}
    assert operators["blocks.0.attn.context"] == "LutNormalizedPackedAttention"
    assert operators["blocks.1.attn.context"] == "IVitPackedAttention"
    assert operators["blocks.1.mlp.act"] == "IVitGelu"
    assert operators["blocks.0.mlp.act"] == "QLinearLut"
    assert operators["norm"] == "FqVitLayerNorm"


@pytest.mark.onnxruntime
@pytest.mark.parametrize("which", ["exported", "mixed"])
def test_certificate_holds(which: str, request: pytest.FixtureRequest) -> None:
    model: ModelFile = request.getfixturevalue(which)
    assert verify.check_purity(model).float_tensors == []
    run = verify.check_certificate(model, "all")
    assert run.passed and run.tensors == len(model.tensors) + 2  # the input's codes, the output


@pytest.mark.parametrize("which", ["exported", "mixed"])
def test_certificate_is_of_the_reference_integers(
    which: str, request: pytest.FixtureRequest, loaded: LoadedModel
) -> None:
    model: ModelFile = request.getfixturevalue(which)
    file = contents.digests(model.proto)
    assert exports._certificate(rebuild(model, loaded), file) == model.certificate


@pytest.mark.onnxruntime
@pytest.mark.parametrize("which", ["exported", "mixed"])
def test_rebuilt_program_computes_the_integers_of_the_file(
    which: str, request: pytest.FixtureRequest, loaded: LoadedModel
) -> None:
    model: ModelFile = request.getfixturevalue(which)
    source = images(model.input_kind)
    expected = reference(rebuild(model, loaded))(source)
    found = every_tensor(model.proto, list(expected), "all")(source)
    for name, values in found.items():
        np.testing.assert_array_equal(values, expected[name], strict=True, err_msg=name)


def test_rebuilt_program_is_the_exported_one(
    exported: ModelFile, loaded: LoadedModel, quantized: Quantized
) -> None:
    program: Program = rebuild(exported, loaded)
    first = quantized.program("lut")
    for again, step in zip(program.steps, first.steps, strict=True):
        assert replace(again, constants={}) == replace(step, constants={})
        assert again.constants.keys() == step.constants.keys()
        for name, value in step.constants.items():
            np.testing.assert_array_equal(again.constants[name], value, strict=True)
    for name, codes in first.constants.items():
        np.testing.assert_array_equal(program.constants[name], codes, strict=True)


# --- what does not belong together ---


def test_other_weights_are_refused(exported: ModelFile, refusal: Refusal) -> None:
    text = refusal(rebuild, exported, models.loaded(seed=2))
    assert "weights" in text and "tiny" in text


def edited(model: ModelFile, edit: Callable[[dict[str, Any]], object]) -> ModelFile:
    """The model with its quantization entry changed."""
    quantization = copy.deepcopy(model.quantization)
    edit(quantization)
    return replace(model, quantization=quantization)


def scale(value: Any) -> Callable[[dict[str, Any]], object]:
    return lambda q: q["scales"].update({"norm": value})


EDITS: dict[str, Callable[[dict[str, Any]], object]] = {
    "negative scale": scale(-0.01),
    "zero scale": scale(0.0),
    "scale below float32": scale(1e-60),
    "scale above float32": scale(1e39),
    "scale NaN": scale(float("nan")),
    "scale a text": scale("0.01"),
    "scale nothing": scale(None),
    "scale missing": lambda q: q["scales"].pop("norm"),
    "scale of an unknown tensor": lambda q: q["scales"].update({"norm9": 0.1}),
    "scales a list": lambda q: q.update(scales=[0.1]),
    "scales missing": lambda q: q.pop("scales"),
    "method unknown": lambda q: q.update(method="best"),
    "method a list": lambda q: q.update(method=["mse"]),
    "form missing": lambda q: q.pop("form"),
    "equalization missing": lambda q: q.pop("equalization"),
    "equalization of another model": lambda q: q["equalization"].update(norm9=[1] * 32),
    "equalization too short": lambda q: q["equalization"].update(norm=[1]),
    "weights a number": lambda q: q.update(weights=7),
}


@pytest.mark.parametrize("name", EDITS)
def test_tampered_quantization_is_refused(
    name: str, exported: ModelFile, loaded: LoadedModel, refusal: Refusal
) -> None:
    refusal(rebuild, edited(exported, EDITS[name]), loaded)


@pytest.mark.parametrize(
    "change",
    [{"model": "other"}, {"format": "x"}, {"bits": {"activations": 99}}, {"sites": {"a": 1}}],
)
def test_tampered_map_is_refused(
    change: dict[str, Any], exported: ModelFile, loaded: LoadedModel, refusal: Refusal
) -> None:
    tampered = replace(exported, map={**exported.map, **change})
    assert "map" in refusal(rebuild, tampered, loaded)


@pytest.mark.parametrize("value", [2e-37, 1e-20, 1e20, 2e38])
@pytest.mark.parametrize("group", ["add", "norm", "blocks.0.attn.qkv", "blocks.0.mlp.act"])
def test_scale_of_any_size_is_refused_or_computed(
    group: str, value: float, exported: ModelFile, loaded: LoadedModel
) -> None:
    """Nothing but an InputError may come out of a hostile file."""
    tampered = edited(exported, lambda q: q["scales"].update({group: value}))
    try:
        program = rebuild(tampered, loaded)
    except InputError:
        return
    for tensor in program.run(torch.from_numpy(images("uint8"))).values():
        assert not tensor.is_floating_point()


@pytest.mark.onnxruntime
def test_plausible_other_scale_is_found_by_comparison(
    exported: ModelFile, loaded: LoadedModel
) -> None:
    double = 2 * exported.quantization["scales"]["blocks.1.mlp.fc1"]
    tampered = edited(exported, lambda q: q["scales"].update({"blocks.1.mlp.fc1": double}))
    run = verify.compare(tampered, reference(rebuild(tampered, loaded)), [images("uint8")])
    assert not run.passed
    assert run.first is not None and run.first.tensor == "blocks.1.mlp.act"
    honest = verify.compare(exported, reference(rebuild(exported, loaded)), [images("uint8")])
    assert honest.passed and honest.differing_integers == 0


@pytest.mark.parametrize("wrong", [{"method": "kl"}, {"form": "hawq"}])
def test_unknown_settings_are_refused(wrong: dict[str, str], refusal: Refusal) -> None:
    assert repr(next(iter(wrong.values()))) in refusal(lambda: Settings(**wrong))


def test_unknown_input_kind_is_refused(
    loaded: LoadedModel, quantized: Quantized, refusal: Refusal
) -> None:
    arguments = (loaded, quantized.prepared, quantized.statistics, maps.uniform("tiny", "lut"))
    assert "'int8'" in refusal(export, *arguments, Settings(input_kind="int8"))
