"""Ranges: they begin as calibration left them, follow the mean or a gradient, alike everywhere."""

from __future__ import annotations

import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from toolchain_harness import Quantized, exact
from torch import distributed

from mnq.toolchain import calibrate
from mnq.toolchain.calibrate import METHODS, Histogram, Statistics
from mnq.toolchain.edges import Edge, Edges
from mnq.toolchain.quantizers import RANGES, activation_scale
from mnq.toolchain.ranges import Ranges, scale_gradient

SMALLEST = np.float32(2.0**-23)

Groups = dict[str, tuple[str, list[float]]]
# Group -> kind and values; the ones of "act" are many and small but for two, so mse clips them.
GROUPS: Groups = {
    "act": ("activation", [0.1] * 30000 + [1.0, -4.0]),
    "gelu": ("activation", [0.5, -0.25]),
    "sum": ("residual", [-3.0, 2.0]),
    "image": ("input", [2.0]),
    "zero": ("activation", [0.0]),
}


def statistics(groups: Groups) -> tuple[Statistics, Edges]:
    """A calibration on these values."""
    histograms = {}
    for name, (kind, values) in groups.items():
        histograms[name] = Histogram(keep_counts=kind == "activation")
        histograms[name].update(name, torch.tensor(values))
    kinds = {name: kind for name, (kind, _) in groups.items()}
    return Statistics(histograms, {}, {}), Edges({n: Edge(n, 1.0) for n in groups}, kinds)


CALIBRATION = statistics(GROUPS)


def made(method: str = "mse", learned: bool = False, bits: int = 8) -> Ranges:
    return Ranges(*CALIBRATION, bits, method, learned=learned)


def step(ranges: Ranges, *seen: tuple[str, list[float]]) -> None:
    """One step that sees these values."""
    for group, values in seen:
        ranges.observe(group, torch.tensor(values))
    ranges.update()


@pytest.mark.parametrize("learned", [False, True])
@pytest.mark.parametrize("form", RANGES)
@pytest.mark.parametrize("method", METHODS)
def test_first_scales_are_those_of_calibration(
    quantized: Quantized, method: str, form: str, learned: bool
) -> None:
    for bits in (8, 6, 4, 2):
        for given_, edges in ((quantized.statistics, quantized.edges), CALIBRATION):
            found = Ranges(given_, edges, bits, method, form, learned).scales()
            expected = calibrate.scales(given_, edges, bits, method, form)
            assert found == expected
            assert all(isinstance(scale, np.float32) for scale in found.values())


def test_a_range_between_two_bf16_scales_does_not_move_to_the_next() -> None:
    """The 99.99 % range is 127 * 13 / 8192: its scale is 13 / 8192, and a bf16 number."""
    rest = [0.7715582251548767]  # (range / rest) * rest is above the range in float64
    case = statistics({"t": ("activation", [127 * 13 / 8192] * 20000 + rest)})
    assert calibrate.scales(*case, 8, "percentile") == {"t": np.float32(13 / 8192)}
    assert Ranges(*case, 8, "percentile").scales() == {"t": np.float32(13 / 8192)}


def test_a_range_moves_by_a_twentieth_toward_the_largest_magnitude() -> None:
    """Also that of a group that was zero in the calibration."""
    ranges = made("minmax")
    step(ranges, ("gelu", [0.1, -1.5, 0.3]), ("sum", [7.0, -2.0]))
    found = ranges.scales()
    assert found["gelu"] == activation_scale(0.95 * 0.5 + 0.05 * 1.5, 8)
    assert found["sum"] == activation_scale(0.95 * 3.0 + 0.05 * 7.0, 16)
    assert found["zero"] == SMALLEST
    step(ranges, ("zero", [-2.0]))
    assert ranges.scales()["zero"] == activation_scale(0.1, 8)


def test_what_calibration_clipped_stays_clipped() -> None:
    """The range is the same share of the mean as it was of the calibrated maximum."""
    ranges, largest = made(), 4.0
    clipped = calibrate.ranges(*CALIBRATION, 8)["act"]
    assert clipped < 0.9 * largest
    step(ranges, ("act", [-8.0, 0.5]))
    share = clipped / largest
    assert ranges.scales()["act"] == activation_scale((0.95 * 4.0 + 0.05 * 8.0) * share, 8)


STEPS = st.lists(st.lists(st.floats(-100, 100, width=32), min_size=1, max_size=4), max_size=6)


@exact
@given(STEPS)
def test_many_steps_are_the_formula_repeated(steps: list[list[float]]) -> None:
    """Every value of a step in a call of its own; a step of zeros alone is none."""
    ranges, largest = made("minmax"), 3.0
    for values in steps:
        step(ranges, *(("sum", [value]) for value in values))
        seen = max(abs(value) for value in values)
        largest = 0.95 * largest + 0.05 * seen if seen > 0 else largest
    assert float(ranges.largest[list(GROUPS).index("sum")]) == pytest.approx(largest, rel=1e-12)
    assert ranges.scales()["gelu"] == made("minmax").scales()["gelu"]


def test_groups_that_were_not_observed_stay() -> None:
    ranges, before = made(), made().scales()
    step(ranges, ("gelu", [50.0]), ("logits", [1e6]))  # the logits have no range
    moved = ranges.scales()
    assert moved["gelu"] > before["gelu"] and moved == {**before, "gelu": moved["gelu"]}
    step(ranges)
    assert ranges.scales() == moved


def test_residual_groups_follow_the_mean_beside_learned_scales() -> None:
    ranges, before = made(learned=True), made().scales()
    step(ranges, ("act", [900.0]), ("sum", [7.0]))
    found = ranges.scales()
    assert found.pop("sum") == activation_scale(0.95 * 3.0 + 0.05 * 7.0, 16)
    assert found == {group: before[group] for group in found}


def test_learned_are_the_activation_groups_and_one_parameter_has_them() -> None:
    ranges = made(learned=True)
    logs = ranges.inputs()
    assert list(logs) == ["act", "gelu", "zero"]
    assert made().inputs() == {} and not list(made().parameters())
    (found,) = torch.autograd.grad(logs["gelu"] * 3, [*ranges.parameters()])
    assert found.tolist() == [0.0, 3.0, 0.0]


@exact
@given(st.lists(st.floats(-200, 100, width=32), min_size=3, max_size=3))
def test_learned_scales_are_the_nearest_bf16_numbers_and_have_a_smallest(
    logs: list[float],
) -> None:
    ranges = made(learned=True)
    (parameter,) = ranges.parameters()
    parameter.data.copy_(torch.tensor(logs))
    found = ranges.scales()
    for group, log in zip(ranges.learned, logs, strict=True):
        scale = found[group]
        assert scale.dtype == np.float32 and int(scale.view(np.uint32)) & 0xFFFF == 0
        assert scale >= SMALLEST
        wanted = 2.0 ** max(log, -23.0)
        assert abs(float(scale) / wanted - 1) <= 2.0**-8  # half a step of 8 significant bits


def ste(values: torch.Tensor, log: torch.Tensor, limits: tuple[int, int]) -> torch.Tensor:
    """S * rne(clamp(v / S)) for S = 2^log, its rounding with the gradient of the identity."""
    ratio = (values / torch.exp2(log)).clamp(*limits)
    return (ratio + (ratio.round() - ratio).detach()) * torch.exp2(log)


@exact
@given(
    st.sampled_from([(-128, 127), (-32, 31), (-8, 7)]),
    st.sampled_from([(6,), (4, 3), (2, 3, 5)]),
    st.integers(0, 10**6),
)
def test_scale_gradient_is_that_of_lsq(
    limits: tuple[int, int], shape: tuple[int, ...], seed: int
) -> None:
    """By autograd in float64, over sqrt(features of an image * largest code)."""
    draw = torch.Generator().manual_seed(seed)
    values = torch.randn(shape, generator=draw, dtype=torch.float64) * limits[1] * 0.1
    gradient = torch.randn(shape, generator=draw, dtype=torch.float64)
    log = torch.tensor(-3.3, dtype=torch.float64, requires_grad=True)
    (whole,) = torch.autograd.grad((ste(values, log, limits) * gradient).sum(), log)
    features = values.numel() // (shape[0] if len(shape) > 1 else 1)
    expected = float(whole) / (features * limits[1]) ** 0.5
    found = scale_gradient(values, 2.0**-3.3, limits, gradient)
    assert float(found) == pytest.approx(expected, rel=1e-9, abs=1e-12)


def test_scale_gradient_of_clipped_values_is_the_slope_of_the_loss() -> None:
    """Their codes do not move with the scale: what they stand for does, smoothly."""
    values = torch.tensor([[9.0, -20.0, 15.0], [-30.0, 12.0, -11.0]], dtype=torch.float64)
    gradient = torch.tensor([[1.0, 2.0, -3.0], [0.5, 0.25, 4.0]], dtype=torch.float64)

    def loss(log: float) -> float:
        scale = 2.0**log
        return float(((values / scale).round().clamp(-8, 7) * scale * gradient).sum())

    slope = (loss(1e-6) - loss(-1e-6)) / 2e-6
    found = float(scale_gradient(values, 1.0, (-8, 7), gradient)) * (3 * 7) ** 0.5
    assert found == pytest.approx(slope, rel=1e-6)


SEEN = [
    [[("act", [9.0]), ("sum", [1.0])], [("act", [-30.0]), ("gelu", [0.7])]],  # by both
    [[("zero", [2.5])], []],  # by the first alone
    [[], [("sum", [-64.0])]],
]

SECOND = """
import sys, torch
from torch import distributed
ranges, seen = torch.load(sys.argv[1], weights_only=False)
distributed.init_process_group("gloo", init_method=sys.argv[2], rank=1, world_size=2)
for _, second in seen:
    for group, values in second:
        ranges.observe(group, torch.tensor(values))
    ranges.update()
torch.save(ranges, sys.argv[1])
distributed.destroy_process_group()
"""


def test_two_processes_have_the_ranges_of_one_that_saw_everything(tmp_path: Path) -> None:
    """This one, and one that it starts."""
    ranges, alone = made(), made()
    file, store = tmp_path / "ranges", f"file://{tmp_path}/store"
    torch.save((ranges, SEEN), file)
    second = subprocess.Popen([sys.executable, "-c", SECOND, str(file), store])
    distributed.init_process_group(
        "gloo", init_method=store, rank=0, world_size=2, timeout=timedelta(seconds=60)
    )
    try:
        for observed, _ in SEEN:
            step(ranges, *observed)
    finally:
        distributed.destroy_process_group()
    assert second.wait(60) == 0
    for both in SEEN:
        step(alone, *both[0], *both[1])
    for found in (ranges, torch.load(file, weights_only=False)):
        assert torch.equal(found.largest, alone.largest) and found.scales() == alone.scales()
