"""Learned quantizers: the integers are those that are deployed, whatever the bits."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import toolchain_models as models
import torch
from toolchain_harness import Quantized, check_on_onnxruntime, step
from toolchain_learned import learned
from torch.nn.functional import cross_entropy

from mnq.toolchain.overflow import prove
from mnq.toolchain.quantizers import round_up_to_bf16
from mnq.toolchain.widths import LARGEST, SMALLEST, Widths

Quantizations = Callable[[Callable[[], torch.nn.Module]], Quantized]

LABELS = torch.arange(16) % models.CLASSES


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """These models are too small for more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("kernels", [False, pytest.param(True, marks=pytest.mark.native)])
@pytest.mark.parametrize("inputs", ["uint8", "float"])
@pytest.mark.parametrize("heads", ["paper", "published", "none"])
@pytest.mark.parametrize("method", ["ivit", "ibert", "fqvit", "lut"])
def test_logits_are_those_of_the_deployed_program(
    quantized: Quantized,
    pixels: torch.Tensor,
    method: str,
    heads: str,
    inputs: str,
    kernels: bool,
) -> None:
    model, _ = learned(quantized, method, heads, inputs=inputs, seed=1, kernels=kernels)
    images = model.image.from_pixels(pixels)
    program = model.program()
    assert torch.equal(model(images).detach(), program.logits(images))
    assert len(prove(program)) == len(program.steps) + 1


@pytest.mark.onnxruntime
@pytest.mark.parametrize(
    ("build", "heads", "seed"),
    [(models.tiny, "paper", 0), (models.tiny, "published", 1), (models.windows, "paper", 2)],
)
def test_runtimes_compute_the_integers_of_the_program(
    quantizations: Quantizations, build: Callable[[], torch.nn.Module], heads: str, seed: int
) -> None:
    """Bodies and kernels, at every level of the optimizer; packed weights are unpacked at each."""
    model, _ = learned(quantizations(build), "ibert", heads, seed=seed)
    check_on_onnxruntime(model.program())


def test_codes_stay_within_their_own_bits(quantized: Quantized, pixels: torch.Tensor) -> None:
    model, quantizers = learned(quantized, seed=3)
    program, widths = model.program(), model.widths()
    codes = program.run(pixels)
    for name in ("blocks.0.attn.qkv", "blocks.1.attn.qkv"):
        found = codes[name].reshape(-1, 6, 16)
        for part, bits in enumerate(widths.bits[name]):
            head = found[:, part]
            assert -(2 ** (bits - 1)) <= int(head.min()) <= int(head.max()) <= 2 ** (bits - 1) - 1
            assert len(head.unique()) > 2 ** (bits - 2), "hardly any code is used"
        weight, part = program.weights[name], np.repeat(np.arange(6), 16)
        bits = widths.bits[f"{name}:weight"][part]
        assert (weight.codes.numpy() >= -(2 ** (bits - 1))[:, None]).all()
        assert (weight.codes.numpy() < (2 ** (bits - 1))[:, None]).all()
    assert quantizers.bits is not None and len(set(widths.bits["blocks.0.attn.qkv"])) > 2


def test_what_gelu_makes_begins_at_its_offset(quantized: Quantized, pixels: torch.Tensor) -> None:
    """Few codes are for the small negative values, and all others for what is above."""
    model, _ = learned(quantized, kind="lsq+", bits=3)
    codes = model.program().run(pixels)["blocks.0.mlp.act"]
    lowest = model.widths().lowest["blocks.0.mlp.act"]
    assert -3 <= lowest <= 0
    assert (int(codes.min()), int(codes.max())) == (lowest, lowest + 7)
    signed, _ = learned(quantized, kind="lsq", bits=3)
    codes = signed.program().run(pixels)["blocks.0.mlp.act"]
    assert int(codes.max()) == 3 and signed.widths().lowest == {}


@pytest.mark.parametrize("kind", ["lsq", "lsq+", "qvit"])
def test_a_uniform_model_has_eight_bits_at_its_ends(quantized: Quantized, kind: str) -> None:
    model, quantizers = learned(quantized, kind=kind, bits=3)
    bits = model.widths().bits
    inner = 4 if kind == "qvit" else 3
    assert {*bits.pop("norm"), *bits.pop("patch_embed.proj:weight"), *bits.pop("head:weight")} == {
        8
    }
    for name in [n for n in bits if n.endswith((".scores", ".fc1"))]:
        assert [*bits.pop(name)] == [8], "no product reads it"
    assert {*itertools.chain.from_iterable(bits.values())} == {inner}
    assert (quantizers.bits is None) == (kind != "qvit")


def test_every_parameter_gets_a_gradient(quantized: Quantized, pixels: torch.Tensor) -> None:
    model, quantizers = learned(quantized, bits=2)
    cross_entropy(model(pixels), LABELS).backward()
    for name, parameter in quantizers.named_parameters():
        assert parameter.grad is not None and bool(parameter.grad.isfinite().all()), name
    bits, scales = quantizers.bits, quantizers.log_scale
    assert bits is not None and bits.grad is not None and scales.grad is not None
    assert float((bits.grad != 0).float().mean()) > 0.9
    # Only the scale of the width in use, one of each row.
    assert {*(scales.grad != 0).sum(1).tolist()} == {1}


def test_frozen_bits_get_none(quantized: Quantized, pixels: torch.Tensor) -> None:
    model, quantizers = learned(quantized)
    quantizers.searching = False
    cross_entropy(model(pixels), LABELS).backward()
    assert quantizers.bits is not None and quantizers.bits.grad is None


def test_another_width_has_its_own_scale(quantized: Quantized) -> None:
    name = "blocks.0.norm1"
    found = {}
    for switchable in (True, False):
        model, quantizers = learned(quantized, switchable=switchable)
        assert quantizers.bits is not None
        place = quantizers.slots[name].bits
        for bits in range(SMALLEST, LARGEST + 1):
            with torch.no_grad():
                quantizers.bits[place] = bits
            found[switchable, bits] = float(quantizers.scales()[name])
        assert found[switchable, 4] == float(model.scales()[name]) or switchable
    assert len({found[True, bits] for bits in range(2, 9)}) == 7
    assert len({found[False, bits] for bits in range(2, 9)}) == 1
    steps = [found[True, bits] for bits in range(2, 9)]
    assert steps == sorted(steps, reverse=True), "more bits, finer steps"


def test_the_published_variant_shares_scales_among_heads_of_equal_bits(
    quantized: Quantized,
) -> None:
    _, quantizers = learned(quantized, heads="published")
    scales = quantizers.scales()["blocks.0.attn.qkv"]
    q, k, v = np.asarray(scales).reshape(3, 2)
    assert q[0] == q[1] and k[0] == k[1] and v[0] == v[1] and len({q[0], k[0], v[0]}) > 1
    _, quantizers = learned(quantized, heads="paper")
    assert len(np.unique(np.asarray(quantizers.scales()["blocks.0.attn.qkv"]))) > 3


def test_scales_of_activations_are_bf16_numbers(quantized: Quantized) -> None:
    _, quantizers = learned(quantized, seed=5)
    for name, scale in quantizers.scales().items():
        if not name.endswith(":weight"):
            np.testing.assert_array_equal(round_up_to_bf16(scale), np.asarray(scale, np.float32))


def test_a_step_has_a_scale_for_every_head(quantized: Quantized) -> None:
    model, quantizers = learned(quantized, seed=7)
    found = step(model.program(), "blocks.0.attn.qkv").scale
    assert np.array_equal(found, quantizers.scales()["blocks.0.attn.qkv"])
    assert np.shape(found) == (6,)  # q, k and v of two heads, not their 96 channels


def test_a_layer_after_heads_is_a_sum_of_products(quantized: Quantized) -> None:
    """Eq. 10: one product for every head, in the order of the heads."""
    program = learned(quantized, seed=7)[0].program()
    last, first = step(program, "blocks.0.attn.proj"), step(program, "blocks.0.attn.proj.sum_0")
    assert [first.operator, last.operator] == ["QLinearAdd", "QLinearAdd"]
    assert last.inputs == ("blocks.0.attn.proj.head_1", "blocks.0.attn.proj.sum_0")
    assert [len(np.asarray(s.constants["w"])) for s in (first, last)] == [16, 16]
    assert step(program, "blocks.0.attn.context").operator == "LutPackedAttention"


def test_more_bits_are_closer_to_the_float_model(
    quantized: Quantized, pixels: torch.Tensor
) -> None:
    with torch.no_grad():
        wanted = quantized.model.eval()(quantized.normalized)
        errors = []
        for bits in (2, 4, 8):
            model, _ = learned(quantized, kind="lsq+", bits=bits)
            errors.append(float((model(pixels) - wanted).square().mean()))
    assert errors[0] > 2 * errors[1] > 4 * errors[2]


def test_bits_of_the_map_are_those_of_what_is_not_learned() -> None:
    assert Widths(6, 5).weight("any").tolist() == [5]
    assert Widths(6, 5).softmax("any").tolist() == [8]


def test_an_unknown_quantizer_is_refused(quantized: Quantized, refusal: Callable[..., str]) -> None:
    assert "expected lsq or lsq+ or qvit, found 'x'" in refusal(
        learned, quantized, "lut", "paper", "x"
    )
