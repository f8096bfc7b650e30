"""Straight-through estimation: the value of the integers, the gradient of the float function."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from ops_harness import tensor

from mnq.ops.integer import INT8, INT16, i64
from mnq.ops.method import layernorm_reference
from mnq.ops.operator import Operator
from mnq.ops.registry import GELU, LAYERNORM, SOFTMAX
from mnq.ops.requantize.op import Constants
from mnq.ops.ste import straight_through

SCALE, OUT_SCALE, CHANNELS = 0.0625, 0.0625, 24
Q = np.random.default_rng(5).integers(-128, 128, (2, 7, CHANNELS))
WEIGHT = np.random.default_rng(6).normal(size=CHANNELS).astype(np.float32)
BIAS = np.random.default_rng(7).normal(size=CHANNELS).astype(np.float32)

Surrogate = Callable[[torch.Tensor], torch.Tensor]


def integers(operator: Operator, constants: Constants, to: int) -> torch.Tensor:
    """The operator's codes for Q, as int64."""
    attributes = {"to": to} if operator.attributes else {}
    inputs = (tensor(constants[name]) for name in operator.inputs[1:])
    return i64(operator(tensor(Q), *inputs, **attributes))


def softmax_site(name: str) -> tuple[Surrogate, torch.Tensor]:
    method = SOFTMAX[name]
    codes = method.probability(integers(method.operator, method.constants(SCALE, 16), INT16))
    return method.reference, codes.to(torch.float32) * method.probability_scale(16)


def gelu_site(name: str) -> tuple[Surrogate, torch.Tensor]:
    method = GELU[name]
    codes = integers(method.operator, method.constants(SCALE, OUT_SCALE, 8), INT8)
    return method.reference, codes.to(torch.float32) * OUT_SCALE


def layernorm_site(name: str) -> tuple[Surrogate, torch.Tensor]:
    method = LAYERNORM[name]
    codes = integers(method.operator, method.constants(WEIGHT, BIAS, OUT_SCALE, 8), INT8)
    weight, bias = torch.from_numpy(WEIGHT), torch.from_numpy(BIAS)
    return lambda x: method.reference(x, weight, bias), codes.to(torch.float32) * OUT_SCALE


SITES = {
    **{f"{name} softmax": (softmax_site, name) for name in SOFTMAX},
    **{f"{name} gelu": (gelu_site, name) for name in GELU},
    **{f"{name} layernorm": (layernorm_site, name) for name in LAYERNORM},
}


@pytest.mark.parametrize("site", SITES)
def test_every_method_has_its_integers_forward_and_its_reference_backward(site: str) -> None:
    build, name = SITES[site]
    reference, exact = build(name)
    x = (torch.from_numpy(Q).to(torch.float32) * SCALE).requires_grad_()
    upstream = torch.randn(x.shape, generator=torch.Generator().manual_seed(8))

    y = straight_through(reference(x), exact)
    (gradient,) = torch.autograd.grad(y, x, upstream)

    (want,) = torch.autograd.grad(reference(x), x, upstream)
    assert torch.equal(y, exact)
    assert torch.equal(gradient, want)
    assert int(gradient.count_nonzero()) > gradient.numel() // 2


@pytest.mark.parametrize("site", SITES)
def test_the_reference_is_what_the_integers_approximate(site: str) -> None:
    """9 dB; the specification's table of quality (7.2) has 11.9 dB and more at such inputs."""
    build, name = SITES[site]
    reference, exact = build(name)
    x = torch.from_numpy(Q).to(torch.float32) * SCALE
    limit = torch.iinfo(torch.int8).max * OUT_SCALE
    want = reference(x).clamp(-limit, limit)
    assert float((exact - want).square().sum()) < float(want.square().sum()) / 8


def test_the_value_is_bit_exact_where_a_difference_would_round() -> None:
    surrogate = torch.tensor([1e8, -3.0], requires_grad=True)
    exact = torch.tensor([0.1, -0.0])
    y = straight_through(surrogate, exact)
    assert torch.equal(y, exact) and bool(torch.signbit(y[1]))
    assert not torch.equal((surrogate + (exact - surrogate)).detach(), exact)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32, torch.float64])
def test_value_and_gradient_keep_the_type(dtype: torch.dtype) -> None:
    surrogate = torch.ones(3, dtype=dtype, requires_grad=True)
    y = straight_through(surrogate, torch.zeros(3, dtype=dtype))
    y.sum().backward()
    assert y.dtype is dtype
    assert surrogate.grad is not None and surrogate.grad.tolist() == [1.0, 1.0, 1.0]


def test_no_gradient_flows_into_the_integers() -> None:
    surrogate = torch.ones(2, requires_grad=True)
    exact = torch.ones(2, requires_grad=True)
    straight_through(surrogate, exact * 2).sum().backward()
    assert exact.grad is None


def test_the_result_is_no_view_of_the_integers() -> None:
    exact = torch.zeros(2)
    y = straight_through(torch.ones(2, requires_grad=True), exact)
    with torch.no_grad():
        y += 1
    assert exact.tolist() == [0.0, 0.0]


def test_layernorm_reference_is_torchs_without_epsilon() -> None:
    x = torch.from_numpy(Q).to(torch.float64)
    weight, bias = torch.from_numpy(WEIGHT).double(), torch.from_numpy(BIAS).double()
    want = torch.nn.functional.layer_norm(x, (CHANNELS,), weight, bias, eps=0.0)
    torch.testing.assert_close(layernorm_reference(x, weight, bias), want)


def test_layernorm_reference_of_a_row_without_variance_has_a_finite_gradient() -> None:
    x = torch.full((2, 4), 3.0, requires_grad=True)
    weight, bias = torch.ones(4), torch.arange(4.0)
    y = layernorm_reference(x, weight, bias)
    (gradient,) = torch.autograd.grad(y, x, torch.randn(y.shape))
    assert y.tolist() == [bias.tolist()] * 2
    assert bool(gradient.isfinite().all())
    assert float(gradient.abs().max()) < 10
