"""Probe of attention: the scores that it reads, and the probabilities that it writes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import toolchain_models as models
import torch
from numpy.typing import NDArray
from toolchain_harness import FORMS, METHODS, Quantized, separate, sqnr, step

from mnq.ops.requantize.op import code_range
from mnq.toolchain.map import Choice
from mnq.toolchain.probe import Probe

CASES = [(method, form) for method in METHODS for form in FORMS]

# Largest distance of a row's sum from 1. The deferred form divides by the sum itself. The
# normalized one rounds 17 probabilities down to 16 bits, and the factor 2^32 // sum too. I-ViT's
# sum has up to 25 bits: of 2^31 // sum six are left. FQ-ViT rounds every probability to a power
# of two, after an integer division, and leaves the sum as it is.
FARTHEST = {"ivit": 2.0**-6, "ibert": 34 * 2.0**-16, "lut": 34 * 2.0**-16, "fqvit": 0.5}

# dB against the softmax of the same scores at 8 and 4 bits. Measured: I-ViT 23 and 6.4, I-BERT 20
# and 14, FQ-ViT 12.6 and 10.6, tables 46.
LEAST = {"ivit": (18.0, 5.0), "ibert": (17.0, 11.0), "fqvit": (10.0, 8.0), "lut": (43.0, 43.0)}


def walk(
    quantized: Quantized, method: str, form: str, bits: int
) -> list[tuple[Probe, list[torch.Tensor], torch.Tensor]]:
    """A probe of every attention, its input tensors and its output on five images."""
    program = quantized.program(method, form, bits)
    images = models.pixels(5, seed=3)
    sites = quantized.graph.sites()
    return [
        (Probe(s, "softmax", Choice(method, form)), inputs, value)
        for s, inputs, value in program.walk(program.start(images), len(images))
        if sites.get(s.site) == "softmax"
    ]


def reference_scores(probe: Probe, q: torch.Tensor, k: torch.Tensor) -> NDArray[np.int64]:
    """floor((q k^T + bias) * m / 2^e + 1/2) in int64, saturated."""
    c = {name: np.asarray(value, np.int64) for name, value in probe.step.constants.items()}
    z = q.numpy().astype(np.int64) @ k.numpy().astype(np.int64).swapaxes(-1, -2) + c["bias"]
    rounded = (z * c["m_s"] + (1 << (c["e_s"] - 1))) >> c["e_s"]
    return np.clip(rounded, c["lo_s"], c["hi_s"])


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize(("method", "form"), CASES)
def test_scores_are_what_the_operator_computes_inside(
    quantized: Quantized, method: str, form: str, bits: int
) -> None:
    found = walk(quantized, method, form, bits)
    assert len(found) == 2
    for probe, inputs, _ in found:
        codes = probe.read(inputs)
        assert codes.dtype == torch.int64
        np.testing.assert_array_equal(codes.numpy(), reference_scores(probe, *separate(inputs)[:2]))
        assert code_range(bits)[0] <= int(codes.min()) and int(codes.max()) <= code_range(bits)[1]
        scale = float(quantized.scales(bits)[f"{probe.step.output}.scores"])
        assert torch.equal(probe.value(codes), codes.double() * scale)


def test_scores_of_separate_queries_and_keys(normalized: torch.Tensor) -> None:
    """Norms of queries and keys: the operator reads three tensors."""
    (found,) = walk(Quantized(models.tiny(depth=1, qk_norm=True), normalized), "lut", FORMS[0], 8)
    probe, inputs, _ = found
    expected = reference_scores(probe, *inputs[:2])
    assert len(inputs) == 3
    np.testing.assert_array_equal(probe.read(inputs).numpy(), expected)


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize(("method", "form"), CASES)
def test_probabilities_approximate_the_softmax_of_what_is_read(
    quantized: Quantized, method: str, form: str, bits: int
) -> None:
    for probe, inputs, _ in walk(quantized, method, form, bits):
        codes = probe.read(inputs)
        p = probe.write(codes)
        assert p.dtype == torch.float64 and p.shape == codes.shape
        assert float(p.min()) >= 0 and float(p.max()) <= 1
        exactly = form == "deferred" and method != "fqvit"
        assert float((p.sum(-1) - 1).abs().max()) < (1e-12 if exactly else FARTHEST[method])
        assert sqnr(probe.value(codes).softmax(-1), p) > LEAST[method][bits == 4]


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize(("method", "form"), CASES)
def test_probabilities_times_v_are_what_the_operator_rounds(
    quantized: Quantized, method: str, form: str, bits: int
) -> None:
    """acc = w v is exact; the deferred form rounds once before the output's own rounding.

    Its quotient 2^31 // sum is too small by less than one, which is |acc| 2^-31 of V's steps, and
    the result has steps of 2^-15 of these. m / 2^e is the ratio of scales but for 2^-31 of it.
    """
    lo, hi = code_range(bits)
    for probe, inputs, output in walk(quantized, method, form, bits):
        p, v = probe.write(probe.read(inputs)), separate(inputs)[2].double()
        in_steps_of_v = p @ v
        error = torch.zeros_like(in_steps_of_v)
        if form == "deferred":
            largest = 255 * v.shape[-2] * 128
            error += largest * 2.0**-31 + 2.0**-16
        ratio = value_scale(quantized, probe, bits) / probe.step.scale
        expected = (in_steps_of_v * ratio).clamp(lo, hi)
        allowed = 0.5 + error * ratio + expected.abs() * 2.0**-29
        assert bool(((output.double().transpose(1, 2) - expected).abs() <= allowed).all())
        assert int(output.abs().max()) > hi // 2


@pytest.mark.parametrize("build", [models.windows, models.padded_windows])
def test_scores_inside_windows_are_those_of_their_own_queries_and_keys(
    build: Callable[[], torch.nn.Module], quantizations: Callable[..., Quantized]
) -> None:
    """In the program without fused views every window's stand apart."""
    quantized = quantizations(build)
    plain, images = quantized.unfused("lut"), models.pixels(5, seed=3)
    tensors = plain.run(images)
    found = walk(quantized, "lut", "deferred", 8)
    assert len(found) == 3 and "LutWindowAttention" in {
        probe.step.operator for probe, _, _ in found
    }
    for probe, inputs, _ in found:
        apart = step(plain, probe.step.output)
        q, k, v = (tensors[name] for name in apart.inputs)
        expected = reference_scores(Probe(apart, "softmax", probe.choice), q, k)
        codes = probe.read(inputs)
        np.testing.assert_array_equal(codes.numpy().ravel(), expected.ravel())
        assert codes.shape[-2:] == expected.shape[-2:] and len(codes) == 5
        p = probe.write(codes)
        assert p.shape == codes.shape and float((p.sum(-1) - 1).abs().max()) < 1e-12
        product = p.reshape(*q.shape[:2], *p.shape[-2:]) @ v.double()
        ratio = step(plain, apart.inputs[2]).scale / apart.scale
        written = tensors[apart.output].double()
        assert float((written - (product * ratio).clamp(-128, 127)).abs().max()) < 0.51


def value_scale(quantized: Quantized, probe: Probe, bits: int) -> float:
    """The scale of V, which is that of queries and keys."""
    return step(quantized.program("lut", bits=bits), probe.step.inputs[0]).scale
