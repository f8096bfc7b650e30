"""Gradients of single nodes: those of a fake-quantized float model, written here a second time."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from toolchain_harness import exact, worst_error

from mnq.ops.requantize.op import code_range
from mnq.toolchain.calibrate import Histogram, Statistics
from mnq.toolchain.edges import Edge, Edges
from mnq.toolchain.graph import Node
from mnq.toolchain.program import Weight
from mnq.toolchain.quantizers import quantize
from mnq.toolchain.ranges import Quantizer, Ranges
from mnq.toolchain.surrogate import Call, Exact, Read, softmax_slope, weights_of_bits

ROUNDING = 1e-5  # float32 against float64: some hundred roundings of 2^-24
BITS = 6
Tensors = list[torch.Tensor]


def ranges(learned: bool = False) -> Ranges:
    """Ranges of the groups that the calls below name, which saw nothing yet."""
    groups = ("y", "y.scores")
    given = Statistics({group: Histogram(keep_counts=False) for group in groups}, {}, {})
    edges = Edges(
        {group: Edge(group, 1.0) for group in groups}, dict.fromkeys(groups, "activation")
    )
    return Ranges(given, edges, BITS, learned=learned)


def quantized(y: torch.Tensor, quantizer: Quantizer) -> torch.Tensor:
    """Codes times their scale: straight through the rounding, flat where it saturates."""
    lo, hi = quantizer.limits
    codes = torch.round(y / quantizer.scale)
    inside = (lo <= codes) & (codes <= hi)
    return torch.where(inside, y - y.detach(), 0) + codes.clamp(lo, hi) * quantizer.scale


def linear(x: Tensors, call: Call) -> torch.Tensor:
    y = torch.einsum("bnk,ok->bno", x[0], x[-2]) + x[-1]
    return y + x[1] if len(call.reads) > 1 else y


def layernorm(x: Tensors, call: Call) -> torch.Tensor:
    centred = x[0] - x[0].mean(-1, keepdim=True)
    variance = (centred**2).mean(-1, keepdim=True)
    return centred * (variance + call.node.settings["epsilon"]) ** -0.5 * x[1] + x[2]


def gelu(x: Tensors, call: Call) -> torch.Tensor:
    if call.node.settings["approximate"] == "tanh":
        inner = math.sqrt(2 / math.pi) * (x[0] + 0.044715 * x[0] ** 3)
        return 0.5 * x[0] * (1 + torch.tanh(inner))
    return 0.5 * x[0] * (1 + torch.erf(x[0] / math.sqrt(2)))


def attention(x: Tensors, call: Call) -> torch.Tensor:
    q, k, v = x[:3]
    more = dict(zip(call.node.parameters, x[3:], strict=True))
    scores = torch.einsum("bhnd,bhmd->bhnm", q, k) + more.get("bias", 0.0)
    scores = scores * more.get("factor", 1.0) * call.node.settings["factor"]
    weights = torch.exp(quantized(scores, call.scores or call.output))
    return torch.einsum("bhnm,bhmd->bhnd", weights / weights.sum(-1, keepdim=True), v)


def unit(x: Tensors, call: Call) -> torch.Tensor:
    return x[0] * torch.einsum("bnc,bnc->bn", x[0], x[0])[..., None] ** -0.5


@dataclass(frozen=True)
class Case:
    """A node, its float function, the shapes of what it reads, and the scale of its codes."""

    op: str
    reference: Callable[[Tensors, Call], torch.Tensor]
    inputs: Sequence[tuple[int, ...]]
    parameters: Mapping[str, tuple[int, ...]]
    scale: float
    settings: dict[str, Any] = field(default_factory=dict)

    def call(self, learned: bool = False, precision: str = "float32") -> Call:
        """A call on random codes; some of what it makes saturates, most does not."""
        draw = torch.Generator().manual_seed(3)
        codes = [torch.randint(-32, 32, s, generator=draw).to(torch.int8) for s in self.inputs]
        reads = [Read(each, 0.0413 + 0.0117 * number) for number, each in enumerate(codes)]
        drawn = {key: torch.randn(s, generator=draw) for key, s in self.parameters.items()}
        made: dict[str, torch.Tensor] = {k: torch.nn.Parameter(v) for k, v in drawn.items()}
        weight = None
        if self.op == "linear":
            outputs, inner = self.parameters["weight"]
            integers = torch.randint(-31, 32, (inner, outputs), generator=draw).to(torch.int8)
            scale = torch.rand(outputs, generator=draw)[:, None] * 0.02 + 0.01
            weight = Weight(integers.t(), scale.numpy())
        node = Node("y", self.op, ("a", "b", "c")[: len(reads)], (), "", made, self.settings)
        scores = Quantizer("y.scores", 0.0537, code_range(BITS)) if self.op == "attention" else None
        output = Quantizer("y", self.scale, code_range(BITS))
        rest = (reads, weight, output, scores, ranges(learned), precision)
        call = Call(node, torch.zeros(0), *rest)
        y = self.reference(leaves(call), call).detach()
        return replace(call, codes=quantize(y, self.scale, BITS).to(torch.int8))


def leaves(call: Call) -> Tensors:
    """Inputs and parameters as the integers have them, float64."""
    inputs = [read.codes.double() * (read.scale or 0.0) for read in call.reads]
    parameters = {key: value.detach().double() for key, value in call.node.parameters.items()}
    if call.weight is not None:
        scale = torch.from_numpy(call.weight.scale).double()
        parameters["weight"] = call.weight.codes.double() * scale
    return [value.clone().requires_grad_() for value in (*inputs, *parameters.values())]


X, LAYER, NORM = (2, 5, 8), {"weight": (6, 8), "bias": (6,)}, {"weight": (8,), "bias": (8,)}
HEADS = [(2, 2, 5, 4), (2, 2, 7, 4), (2, 2, 7, 4)]
CASES = {
    "linear": Case("linear", linear, [X], LAYER, 0.04),
    "linear with residual": Case("linear", linear, [X, (2, 5, 6)], LAYER, 0.04),
    "layernorm": Case("layernorm", layernorm, [X], NORM, 0.05, {"epsilon": 0.1}),
    "gelu": Case("gelu", gelu, [X], {}, 0.03, {"approximate": "none"}),
    "tanh gelu": Case("gelu", gelu, [X], {}, 0.03, {"approximate": "tanh"}),
    "attention": Case("attention", attention, HEADS, {}, 0.03, {"factor": 0.5}),
    "attention with bias": Case(
        "attention", attention, HEADS, {"bias": (2, 5, 7)}, 0.03, {"factor": 0.5}
    ),
    "attention with a factor per head": Case(
        "attention",
        attention,
        HEADS,
        {"bias": (2, 5, 7), "factor": (2, 1, 1)},
        0.03,
        {"factor": 2.0},
    ),
    "normalize": Case("normalize", unit, [X], {}, 0.02),
    "mean": Case("mean", lambda x, _: torch.einsum("bnc->bc", x[0]) / 5, [X], {}, 0.02),
    "requantize": Case("requantize", lambda x, _: x[0] * 1.0, [X], {}, 0.035),
    "matmul": Case("matmul", lambda x, _: x[0] @ x[1], [X, (2, 8, 3)], {}, 0.1),
    "add": Case("add", lambda x, _: x[0] + x[1], [X, X], {}, 0.05),
    "add of a row": Case("add", lambda x, _: x[0] + x[1], [X, (1, 1, 8)], {}, 0.05),
    "constant": Case("constant", lambda x, _: x[0], [], {"value": (1, 5, 8)}, 0.05),
}
EACH = pytest.mark.parametrize("name", CASES)


def upstream(call: Call) -> torch.Tensor:
    return torch.randn(call.codes.shape, generator=torch.Generator().manual_seed(4))


def expected(name: str, call: Call) -> tuple[Tensors, torch.Tensor]:
    """The reference's gradients, and its values before the output's quantizer."""
    given = leaves(call)
    y = CASES[name].reference(given, call)
    found = torch.autograd.grad(quantized(y, call.output), given, upstream(call).double())
    return [*found], y.detach()


@EACH
def test_gradients_are_those_of_the_fake_quantized_float_function(name: str) -> None:
    call = CASES[name].call()
    wanted, y = expected(name, call)
    saturated = (torch.round(y / call.output.scale) + 0.5).abs() > 2 ** (BITS - 1)
    assert 0.02 < float(saturated.float().mean()) < 0.5  # the case has both
    inputs = [torch.zeros(read.codes.shape, requires_grad=True) for read in call.reads]
    given_ = [*inputs, *call.node.parameters.values()]
    found: torch.Tensor = Exact.apply(call, *given_)
    assert found.shape == call.codes.shape and found.untyped_storage().nbytes() == 4  # one number
    found.backward(upstream(call))
    for leaf, want in zip(given_, wanted, strict=True):
        assert leaf.grad is not None and leaf.grad.dtype == torch.float32
        assert worst_error(leaf.grad.double(), want) < ROUNDING


@EACH
def test_only_the_gradients_that_are_needed_are_returned(name: str) -> None:
    call = CASES[name].call()
    count = len(leaves(call))
    every = call.gradients(upstream(call), (True,) * count)
    for needed in filter(any, itertools.product((False, True), repeat=count)):
        found = call.gradients(upstream(call), needed)
        assert [gradient is not None for gradient in found] == list(needed)
        for part, whole in zip(found, every, strict=True):
            assert part is None or (whole is not None and torch.equal(part, whole)), needed


@EACH
def test_learned_scales_get_the_gradient_of_lsq(name: str) -> None:
    """d log2(S): S ln 2 (rne(v/S) - v/S), or the limit, over sqrt(features * largest code)."""
    call = CASES[name].call(learned=True)
    wanted, y = expected(name, call)
    count = len(wanted) + len(call.groups())
    found = call.gradients(upstream(call), (True,) * count)
    lo, hi = call.output.limits
    ratio = y / call.output.scale
    error = torch.where(ratio > hi, hi, torch.where(ratio < lo, lo, ratio.round() - ratio))
    total = float((error * upstream(call)).sum()) * call.output.scale * math.log(2)
    want = total / math.sqrt(y[0].numel() * hi)
    log = found[len(wanted)]
    assert log is not None and float(log) == pytest.approx(want, rel=1e-3, abs=1e-6)  # float32
    assert len(found) == count == len(wanted) + (2 if call.scores else 1)


def test_the_scale_of_clipped_scores_gets_the_slope_of_the_loss() -> None:
    """Nearly all are; the output's quantizer clips nothing."""
    case, fine = CASES["attention"], Quantizer("y", 1.0, code_range(16))

    def scored(scale: float) -> Call:
        scores = Quantizer("y.scores", scale, code_range(BITS))
        return replace(case.call(learned=True), output=fine, scores=scores)

    def loss(log: float) -> float:
        call = scored(1e-5 * 2.0**log)
        return float((case.reference(leaves(call), call).detach() * upstream(call)).sum())

    found = scored(1e-5).gradients(upstream(scored(1e-5)), (True,) * 5)[-1]
    slope = (loss(1e-2) - loss(-1e-2)) / 2e-2 / math.sqrt(2 * 5 * 7 * 31)
    assert found is not None and float(found) == pytest.approx(slope, rel=1e-3)


@pytest.mark.parametrize("name", ["linear", "attention"])
def test_scales_learn_where_nothing_else_does(name: str) -> None:
    """Below the first layer that is trained, if others are frozen."""
    call = CASES[name].call(learned=True)
    count, logs = len(leaves(call)), len(call.groups())
    every = call.gradients(upstream(call), (True,) * (count + logs))
    found = call.gradients(upstream(call), (False,) * count + (True,) * logs)
    assert found == [*(None for _ in range(count)), *every[count:]]


@exact
@given(st.lists(st.integers(-600, 600), min_size=1), st.sampled_from([4, 6, 8]))
def test_the_gradient_is_zero_exactly_where_codes_saturate(quarters: list[int], bits: int) -> None:
    """Values in quarters of a step. The tie at the lower end rounds inside, and is left out."""
    lo, hi = code_range(bits)
    kept = [value for value in quarters if value != 4 * lo - 2] or [0]
    value = torch.nn.Parameter(torch.tensor(kept) / 16.0)
    node, output = (
        Node("y", "constant", (), (), "", {"value": value}),
        Quantizer("y", 0.25, (lo, hi)),
    )
    codes = quantize(value.detach(), 0.25, bits)
    call = Call(node, codes, [], None, output, None, ranges(), "float32")
    (found,) = call.gradients(torch.ones(value.shape), (True,))
    assert found is not None
    free = quantize(value.detach(), 0.25, 16)
    assert found.tolist() == ((lo <= free) & (free <= hi)).float().tolist()


@EACH
def test_bfloat16_changes_gradients_little(name: str) -> None:
    """2^-8 per rounded factor. What is next to a limit may change sides; here nothing does."""
    exactly, low = (CASES[name].call(precision=p) for p in ("float32", "bfloat16"))
    needed = (True,) * len(leaves(exactly))
    pairs = zip(*(c.gradients(upstream(c), needed) for c in (exactly, low)), strict=True)
    for number, (want, found) in enumerate(pairs):
        assert want is not None and found is not None
        assert (found.dtype == torch.bfloat16) == (number < len(low.reads))  # of codes
        cosine = torch.cosine_similarity(found.float().flatten(), want.flatten(), 0)
        assert float(cosine) > 0.999


def test_softmax_weights_of_few_bits_are_those_of_the_definition() -> None:
    """Numbers from 0 to 2^b - 1 relative to the row's largest, over their sum."""
    scores = torch.tensor([[0.0, -0.5, -1.0, -9.0], [3.0, 3.0, 3.0, 3.0]])
    bits = torch.tensor([[2.0], [3.0]])
    found = weights_of_bits(scores, bits)
    wanted = torch.tensor([[3.0, 2, 1, 0], [7, 7, 7, 7]])
    assert torch.equal(found, wanted / wanted.sum(-1, keepdim=True))
    fine = weights_of_bits(scores, torch.tensor(20.0))
    assert torch.allclose(fine, scores.softmax(-1), atol=1e-6)


def test_the_slope_of_bits_is_that_from_one_fewer_to_one_more() -> None:
    scores = torch.tensor([[0.0, -0.3, -1.1, -2.0]])
    more, fewer = (weights_of_bits(scores, torch.tensor(b)) for b in (5.0, 3.0))
    assert torch.equal(softmax_slope(scores, torch.tensor(4.0)), (more - fewer) / 2)
    assert float(softmax_slope(scores, torch.tensor(4.0)).sum()) == pytest.approx(0, abs=1e-6)
