"""The input: pixels with mean and std folded into the first layer, or one quantizer for floats."""

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
import toolchain_models as models
import torch
from onnx import TensorProto, helper, numpy_helper
from toolchain_harness import Quantized, logit_sqnr, step
from toolchain_models import MEAN, SIZE, STD, OnPixels, Tokens
from torch import nn

from mnq.ops.body import IR_VERSION, OPSET
from mnq.runtime.session import open_session
from mnq.toolchain.image import ImageInput, image_input

SHAPE = (3, SIZE, SIZE)
Refusal = Callable[..., str]


def test_pixels_become_signed_codes() -> None:
    pixels = torch.arange(256, dtype=torch.uint8).reshape(1, 1, 16, 16)
    codes = image_input("uint8", MEAN, STD, SHAPE).codes(pixels)
    assert codes.dtype == torch.int8
    assert codes.reshape(-1).tolist() == list(range(-128, 128))


def test_all_normalized_pixels_are_inside_the_float_quantizer() -> None:
    image = image_input("float", MEAN, STD, SHAPE)
    ends = models.normalize(torch.stack([torch.zeros(SHAPE), torch.full(SHAPE, 255.0)]))
    codes = image.codes(ends)
    assert int(codes.min()) > -128 and int(codes.max()) <= 127
    largest = float(ends.abs().max())
    assert largest <= image.scale * 127 <= largest * (1 + 2.0**-7)  # no range is given away


def test_mean_outside_the_pixels_is_covered_too() -> None:
    """Some models take 0..255 minus a mean: mean and std are then far from 0..1."""
    image = image_input("float", (-0.5, 1.5, 0.2), (0.5, 0.5, 4.0), SHAPE)
    assert image.scale * 127 >= 3.0  # (1 + 0.5) / 0.5 and (0 - 1.5) / 0.5


def test_unknown_kind_is_refused(refusal: Refusal) -> None:
    text = refusal(image_input, "int8", MEAN, STD, SHAPE)
    assert "uint8 or float" in text and "'int8'" in text


def quantize_linear(scale: float) -> Any:
    graph = helper.make_graph(
        [helper.make_node("QuantizeLinear", ["x", "s", "z"], ["y"])],
        "q",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n"])],
        [helper.make_tensor_value_info("y", TensorProto.INT8, ["n"])],
        [
            numpy_helper.from_array(np.array(scale, np.float32), "s"),
            numpy_helper.from_array(np.array(0, np.int8), "z"),
        ],
    )
    opset = [helper.make_opsetid("", OPSET)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=IR_VERSION)
    onnx.checker.check_model(model, full_check=True)
    return open_session(model, threads=1, kernels=False)


# Dividing by the last two and multiplying by their reciprocals differ for many values near ties.
SCALES = [image_input("float", MEAN, STD, SHAPE).scale, 2.0**-6, 159 * 2.0**-13, 166 * 2.0**-13]


@pytest.mark.onnxruntime
@pytest.mark.parametrize("scale", SCALES)
def test_float_codes_are_those_of_quantize_linear(scale: float) -> None:
    """At every tie, up to three float32 numbers on either side of it, and far outside."""
    x = (np.arange(-600, 600) / 2).astype(np.float32) * np.float32(scale)
    near = [x]
    for direction in (-np.inf, np.inf):
        for _ in range(3):
            near.append(np.nextafter(near[-1], np.float32(direction)))
        near.append(x)
    far = np.float32([-np.inf, -3e38, -1e3, -0.0, 1e-45, 1e3, 3e38, np.inf])
    random = np.random.default_rng(0).normal(size=20000).astype(np.float32)
    x = np.concatenate([*near, far, random])
    expected = quantize_linear(scale).run(None, {"x": x})[0]
    image = ImageInput("float", scale, MEAN, STD, SHAPE)
    np.testing.assert_array_equal(image.codes(torch.from_numpy(x)).numpy(), expected)
    assert {-128, 127} <= set(expected.tolist())


# --- folding ---


class ChannelsLast(OnPixels):
    """A linear layer on the image itself, its channels interleaved."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.first(x.permute(0, 2, 3, 1).flatten(1))


class PerChannel(Tokens):
    """A layer that reads the channels as three rows."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(SIZE * SIZE, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.first(x.flatten(2))[:, 0]


class NormFirst(Tokens):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(self.tokens(nn.functional.layer_norm(x, (SIZE,))))


@pytest.mark.parametrize(
    ("build", "name"),
    [(models.tiny, "patch_embed.proj"), (OnPixels, "first"), (ChannelsLast, "first")],
)
def test_folded_layer_on_codes_is_the_layer_on_normalized_values(
    build: Callable[[], nn.Module], name: str, captured: Callable[..., Any], pixels: torch.Tensor
) -> None:
    """In float64, before anything is quantized: equal up to float64 rounding."""
    graph = captured(build)
    layer = graph.nodes[name]
    rng = np.random.default_rng(1)
    weight = rng.normal(size=layer.parameters["weight"].shape)
    bias = rng.normal(size=weight.shape[0])
    image = image_input("uint8", MEAN, STD, SHAPE)
    tensor, shifted = image.fold(graph, layer.inputs[0], torch.from_numpy(weight), bias)
    folded = tensor.numpy()

    def rows(images: torch.Tensor) -> np.ndarray[Any, Any]:
        """The layer's input rows for an image, by the graph's own moves."""
        values = {graph.input: images}
        for node in graph:
            if node.name == name:
                return values[layer.inputs[0]].double().numpy()
            if node.op in ("reshape", "transpose"):
                above = values[node.inputs[0]]
                moved = (
                    above.reshape(node.shape)
                    if node.op == "reshape"
                    else above.permute(node.settings["perm"])
                )
                values[node.name] = moved
        raise AssertionError(name)

    mean, std = (torch.tensor(v, dtype=torch.float64).reshape(1, 3, 1, 1) for v in (MEAN, STD))
    normalized = (pixels.double() / 255 - mean) / std
    expected = rows(normalized) @ weight.T + bias
    found = rows(image.codes(pixels)) @ folded.T + shifted
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-10 * np.abs(expected).max())


def test_float_input_folds_nothing(graph: Any) -> None:
    weight, bias = torch.ones(2, 3), np.zeros(2)
    image = image_input("float", MEAN, STD, SHAPE)
    assert image.fold(graph, "any", weight, bias) == (weight, bias)


@pytest.mark.parametrize("kind", ["uint8", "float"])
def test_first_layer_is_within_its_quantization_error(quantized: Quantized, kind: str) -> None:
    """The error is at most half a step of every weight, the bias, the output and the input."""
    program = quantized.program("lut", kind=kind)
    image, layer = program.image, step(program, "patch_embed.proj")
    source = models.pixels(16) if kind == "uint8" else quantized.normalized
    tensors = program.run(source)
    exact = quantized.values[layer.output].double().numpy()
    found = tensors[layer.output].double().numpy() * layer.scale

    node = quantized.graph.nodes[layer.output]
    real, bias = (node.parameters[k].double() for k in ("weight", "bias"))
    real, shifted = image.fold(quantized.graph, node.inputs[0], real, bias.numpy())
    weight, bias = real.numpy(), shifted
    codes = np.abs(tensors[layer.inputs[0]].double().numpy()).sum(-1, keepdims=True)
    weight_step = np.abs(weight).max(axis=1) / 127
    bound = codes * image.scale * weight_step / 2  # of the weights
    bound = bound + image.scale * weight_step / 2 + layer.scale / 2  # of bias and output
    if kind == "float":  # uint8 codes are the pixels, exactly
        bound = bound + np.abs(weight).sum(axis=1) * image.scale / 2
    error = np.abs(found - exact)
    # 1.001: scales are float32, the float graph computes in float32.
    assert (error <= bound * 1.001).all()
    assert float(error.max()) > 0 and np.median(bound) < 0.2 * np.abs(exact).max()


def test_layer_before_the_first_linear_one_needs_the_float_input(
    normalized: torch.Tensor, refusal: Refusal
) -> None:
    found = Quantized(models.randomize(NormFirst()), normalized)
    text = refusal(found.program, "lut")
    assert "layernorm" in text and "--input float" in text
    assert found.program("lut", kind="float").steps


def test_layer_whose_rows_are_channels_needs_the_float_input(
    normalized: torch.Tensor, refusal: Refusal
) -> None:
    found = Quantized(models.randomize(PerChannel()), normalized)
    assert "--input float" in refusal(found.program, "lut")
    assert found.program("lut", kind="float").steps


class Margins(Tokens):
    """Zeros around the image: a grey of its mean."""

    def tokens(self, x: torch.Tensor) -> torch.Tensor:
        return super().tokens(nn.functional.pad(x[:, :1], (4, 4, 4, 4)))

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Conv2d(1, 32, 8, 8)


def test_zeros_around_raw_pixels_are_refused_and_fine_around_floats(
    normalized: torch.Tensor, refusal: Refusal
) -> None:
    """Code 0 is a pixel of 128, which is no zero to the float model."""
    quantized = Quantized(models.randomize(Margins()), normalized)
    text = refusal(quantized.program, "lut")
    assert "found pad in module '(top)'" in text and "--input float" in text
    program = quantized.program("lut", kind="float")
    assert logit_sqnr(quantized, program, normalized) > 20  # measured 37; see test_program.py
