"""The integer program: integers only, in range, exact sums, and close to the float model."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import toolchain_models as models
import torch
from toolchain_harness import FORMS, METHODS, Quantized, logit_sqnr, sqnr

from mnq.ops.qlinear.op import accumulate
from mnq.ops.requantize.op import code_range
from mnq.toolchain.program import Program

ALL = [(method, form) for method in METHODS for form in FORMS]

# dB of the logits against the float model, 16 images, two blocks. An 8-bit tensor of bell-shaped
# values has about 38 dB; some fifteen such errors add up in the logits: 38 - 10 log10(15) = 26.
# Measured at 8 bits: lut 30, ibert and ivit 26, fqvit 16 (its softmax knows powers of two only,
# which alone is 13 to 16 dB). Two bits fewer cost 12 dB in each tensor. A scale that belongs to
# another tensor, a wrong multiplier or codes that wrap around leave less than 9 dB.
LEAST_SQNR = {"ivit": 20.0, "ibert": 20.0, "fqvit": 12.0, "lut": 24.0}
LEAST_SQNR_6 = 10.0
LEAST_SQNR_4 = 3.0


@pytest.mark.parametrize(("method", "form"), ALL)
def test_logits_of_8_bit_codes_approximate_the_float_model(
    quantized: Quantized, pixels: torch.Tensor, method: str, form: str
) -> None:
    found = logit_sqnr(quantized, quantized.program(method, form), pixels)
    assert found > LEAST_SQNR[method]


@pytest.mark.parametrize(("method", "form"), ALL)
def test_fewer_bits_run_and_cost_quality(
    quantized: Quantized, pixels: torch.Tensor, method: str, form: str
) -> None:
    eight, six, four = (
        logit_sqnr(quantized, quantized.program(method, form, bits), pixels) for bits in (8, 6, 4)
    )
    assert eight > six > four
    assert six > LEAST_SQNR_6 and four > LEAST_SQNR_4


def test_float_input_is_as_good_as_pixels(quantized: Quantized, pixels: torch.Tensor) -> None:
    program = quantized.program("lut", kind="float")
    assert logit_sqnr(quantized, program, quantized.normalized) > LEAST_SQNR["lut"]


def test_every_tensor_is_close_to_its_float_value(
    quantized: Quantized, pixels: torch.Tensor
) -> None:
    """A wrong scale in `Step.scale` alone would not show in the logits."""
    program = quantized.program("lut")
    tensors = program.run(pixels)
    for s in program.steps:
        value = quantized.values[s.output].double()
        if s.operator == "LutPackedAttention":
            value = value.transpose(1, 2)
        error = value - tensors[s.output].double() * s.scale
        assert float(error.square().sum() / value.square().sum()) < 10**-2.4, s.output  # 24 dB


# --- integers ---


def edge_images(kind: str) -> torch.Tensor:
    """Random, black, white and checkered images; beyond all pixels where the input is float."""
    images = models.pixels(6, seed=9)
    images[2, :, ::2] = 255
    images[2, :, 1::2] = 0
    return images if kind == "uint8" else models.normalize(images) * 3


@pytest.mark.parametrize("kind", ["uint8", "float"])
@pytest.mark.parametrize("bits", [8, 6, 4, 2])
@pytest.mark.parametrize(("method", "form"), ALL)
def test_every_tensor_is_an_integer_within_its_code_range(
    quantized: Quantized, method: str, form: str, bits: int, kind: str
) -> None:
    program, edges = quantized.program(method, form, bits, kind), quantized.edges
    results = program.run(edge_images(kind))
    assert list(results) == [program.image.name, *(s.output for s in program.steps)]
    for s in program.steps:
        value = results[s.output]
        width = edges.bits(edges.edges[s.output].group, bits)
        dtype = torch.int8 if width <= 8 else torch.int16 if width <= 16 else torch.int32
        assert value.dtype == dtype, s.output
        lo, hi = code_range(width)
        assert lo <= int(value.min()) and int(value.max()) <= hi, s.output
        assert value.shape == tuple(6 if n == -1 else n for n in s.shape), s.output
    assert results[program.output].dtype == torch.int32


def test_accumulators_are_the_exact_integers(quantized: Quantized, pixels: torch.Tensor) -> None:
    """The float32 products inside torch round nothing."""
    program = quantized.program("lut")
    tensors = program.run(pixels)
    for s in program.steps:
        if s.operator.startswith("QLinear"):
            x = tensors[s.inputs[0]].numpy().astype(np.int64)
            weight, bias = (np.asarray(s.constants[k]) for k in ("w", "bias"))
            exact = x @ weight.astype(np.int64) + bias
            found = accumulate(tensors[s.inputs[0]], torch.tensor(weight), torch.tensor(bias))
            np.testing.assert_array_equal(found.numpy(), exact)


# --- step by step ---


def test_walking_gives_the_tensors_of_a_run(quantized: Quantized, pixels: torch.Tensor) -> None:
    program = quantized.program("ibert")
    expected = program.run(pixels)
    values = program.start(pixels)
    assert set(values) == {program.image.name, *program.constants}
    for count, (s, inputs, value) in enumerate(program.walk(values, len(pixels)), 1):
        assert program.steps[count - 1] is s
        for x, name in zip(inputs, s.inputs, strict=True):
            assert name not in expected or torch.equal(x, expected[name])
        assert torch.equal(value, expected[s.output])
    assert count == len(program.steps)


def test_a_walk_can_be_cut_anywhere(quantized: Quantized, pixels: torch.Tensor) -> None:
    """The tensors that are left at the cut are all that the rest needs, and no more."""
    program = quantized.program("lut")
    logits = program.run(pixels)[program.output]
    for cut in range(len(program.steps) + 1):
        values = program.start(pixels)
        first = [s for s, _, _ in program.walk(values, len(pixels), 0, cut)]
        assert first == program.steps[:cut]
        needed = {name for s in program.steps[cut:] for name in s.inputs}
        made = {program.image.name, *program.constants, *(s.output for s in first)}
        assert set(values) >= needed & made
        assert set(values) - {program.output} <= needed
        rest = [s for s, _, _ in program.walk(values, len(pixels), cut)]
        assert first + rest == program.steps
        assert set(values) == {program.output}
        assert torch.equal(values[program.output], logits)


def test_output_that_is_read_again_is_kept(quantized: Quantized, pixels: torch.Tensor) -> None:
    program = quantized.program("lut")
    inner = "blocks.0.norm2"
    early = Program(program.image, program.steps, program.constants, inner, 1.0)
    values = early.start(pixels)
    for _ in early.walk(values, len(pixels)):
        pass
    assert torch.equal(values[inner], program.run(pixels)[inner])


def test_all_outputs_are_kept_with_their_scales(
    quantizations: Callable[..., Quantized], pixels: torch.Tensor
) -> None:
    """Each close to its float map: its scale is its own."""
    found = quantizations(models.pyramid)
    program = found.program("lut")
    values = program.start(pixels)
    for _ in program.walk(values, len(pixels)):
        pass
    assert set(values) == set(program.outputs) and list(program.outputs)[-1] == program.output
    for (name, scale), exactly in zip(program.outputs.items(), found.outputs, strict=True):
        assert sqnr(exactly, values[name].double() * scale) > LEAST_SQNR["lut"]


@pytest.mark.parametrize("build", models.ARCHITECTURES, ids=lambda build: build.__name__)
def test_architectures_approximate_their_float_models(
    build: Callable[[], torch.nn.Module],
    quantizations: Callable[..., Quantized],
    pixels: torch.Tensor,
) -> None:
    """As the model above does; measured 28 dB or more."""
    found = quantizations(build)
    program = found.program("lut")
    tensors = program.run(pixels)
    for (name, scale), exactly in zip(program.outputs.items(), found.outputs, strict=True):
        assert sqnr(exactly, tensors[name].double() * scale) > LEAST_SQNR["lut"]


def test_a_step_alone_computes_its_tensor(quantized: Quantized, pixels: torch.Tensor) -> None:
    program = quantized.program("fqvit")
    tensors = program.run(pixels)
    for s in program.steps:
        tables = {k: torch.from_numpy(v) for k, v in program.constants.items()}
        found = s.run([{**tables, **tensors}[name] for name in s.inputs], len(pixels))
        assert found.dtype == tensors[s.output].dtype
        assert torch.equal(found, tensors[s.output]), s.output
