"""Calibration: what is counted does not depend on how, and ranges are the best of their kind."""

from collections.abc import Callable, Iterator

import numpy as np
import pytest
import toolchain_models as models
import torch
from hypothesis import given
from hypothesis import strategies as st
from toolchain_harness import Quantized, exact

from mnq.toolchain.calibrate import BINS, METHODS, Histogram, Statistics, collect, scales
from mnq.toolchain.edges import Edge, Edges
from mnq.toolchain.evaluate import hidden_scores
from mnq.toolchain.graph import Graph
from mnq.toolchain.quantizers import activation_scale, round_up_to_bf16, steps

# Values of any size and sign; powers of two lie on the edges of bins.
VALUES = st.one_of(
    st.floats(-1000, 1000, width=32),
    st.integers(-20, 20).map(lambda k: 2.0**k),
    st.just(0.0),
)


def of(batches: list[list[float]]) -> Histogram:
    histogram = Histogram(keep_counts=True)
    for batch in batches:
        histogram.update("t", torch.tensor(batch, dtype=torch.float32))
    return histogram


@exact
@given(st.lists(st.lists(VALUES, max_size=20), min_size=1, max_size=8))
def test_counts_do_not_depend_on_how_the_data_is_split(batches: list[list[float]]) -> None:
    streamed, direct = of(batches), of([[value for batch in batches for value in batch]])
    grown = max(streamed.exponent or 0, direct.exponent or 0)
    for histogram in (streamed, direct):  # an early batch of zeros begins at 2^-125
        assert histogram.largest == max((abs(v) for b in batches for v in b), default=0.0)
        assert histogram.exponent == grown
    assert torch.equal(streamed.counts, direct.counts)
    assert int(streamed.counts.sum()) == sum(map(len, batches))


@exact
@given(st.lists(VALUES, min_size=1, max_size=50))
def test_counts_are_those_of_numpy(values: list[float]) -> None:
    histogram = of([[value] for value in values])
    edges = np.linspace(0.0, 2.0**histogram.exponent, BINS + 1)
    expected, _ = np.histogram(np.abs(np.float32(values)), edges)
    assert np.array_equal(histogram.counts.numpy(), expected)


def test_range_grows_by_doubling() -> None:
    histogram = of([[0.3, 0.49]])
    assert histogram.exponent == -1  # [0, 0.5)
    first = histogram.counts.clone()
    histogram.update("t", torch.tensor([0.5]))
    assert histogram.exponent == 0
    assert torch.equal(histogram.counts[: BINS // 2], first.reshape(-1, 2).sum(1))
    assert histogram.counts.nonzero()[-1] == BINS // 2  # 0.5 itself, at the edge
    histogram.update("t", torch.tensor([-9.0]))
    assert histogram.exponent == 4 and histogram.largest == 9.0


def test_counts_are_exact_above_what_float32_can_count() -> None:
    histogram, threads = Histogram(keep_counts=True), torch.get_num_threads()
    torch.set_num_threads(1)  # each thread counts for itself
    try:
        histogram.update("t", torch.zeros(1).expand(2**24 + 1000))
    finally:
        torch.set_num_threads(threads)
    assert int(histogram.counts[0]) == 2**24 + 1000


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_activation_that_is_not_finite_names_its_tensor(
    value: float, keep: bool, refusal: Callable[..., str]
) -> None:
    batch = torch.tensor([1.0, value, 2.0])
    assert "'blocks.3.mlp.act'" in refusal(Histogram(keep).update, "blocks.3.mlp.act", batch)


def test_weights_that_are_not_finite_name_the_first_tensor_that_they_spoil(
    quantized: Quantized, refusal: Callable[..., str]
) -> None:
    nodes = dict(quantized.prepared.nodes)
    layer = nodes["blocks.1.mlp.fc1"]
    bias = layer.parameters["bias"].clone()
    bias[3] = float("nan")
    broken = type(layer)(**{**vars(layer), "parameters": {**layer.parameters, "bias": bias}})
    graph = Graph({**nodes, layer.name: broken}, quantized.graph.input, quantized.graph.output)
    for equalized in (True, False):  # the equalization reads activations too
        text = refusal(collect, graph, lambda: [quantized.normalized[:2]], {}, equalized)
        assert "'blocks.1.mlp.fc1'" in text


# --- collecting from a graph ---


def test_statistics_are_those_of_the_observed_tensors(quantized: Quantized) -> None:
    edges, values = quantized.edges, quantized.values
    for group, histogram in quantized.statistics.histograms.items():
        members = [values[name] for name, edge in edges.edges.items() if edge == Edge(group, 1.0)]
        assert histogram.largest == max(float(v.abs().max()) for v in members), group
        assert (histogram.counts is not None) == (edges.kinds[group] == "activation")


def test_one_group_counts_every_tensor_once(quantized: Quantized) -> None:
    """Views of a tensor repeat its values; they are not counted again."""
    direct = Histogram(keep_counts=True)
    direct.update("t", quantized.values["blocks.0.attn.qkv"])
    found = quantized.statistics.histograms["blocks.0.attn.qkv"]
    # Batches of 7 and one of 16 differ in the order of float32 sums: a value at the edge of a
    # bin may move to the next one.
    assert int(found.counts.sum()) == int(direct.counts.sum())
    assert int((found.counts - direct.counts).abs().sum()) <= 0.01 * int(direct.counts.sum())


def test_images_are_counted_and_provenance_is_kept(quantized: Quantized) -> None:
    def batches() -> Iterator[torch.Tensor]:  # a stream for each pass
        yield from quantized.normalized[:5].split(2)

    found = collect(quantized.prepared, batches, {"source": "here"})
    assert found.provenance == {"source": "here", "images": 5}


def test_collecting_keeps_no_activation(quantized: Quantized) -> None:
    for histogram in quantized.statistics.histograms.values():
        assert histogram.counts is None or histogram.counts.shape == (BINS,)


# --- scales ---


def one(values: torch.Tensor, kind: str = "activation") -> tuple[Statistics, Edges]:
    """Statistics of one group of this kind."""
    histogram = Histogram(keep_counts=kind == "activation")
    histogram.update("t", values)
    return Statistics({"t": histogram}, {}, {}), Edges({"t": Edge("t", 1.0)}, {"t": kind})


DRAW = torch.Generator().manual_seed(3)
HEAVY = torch.cat([torch.randn(40000, generator=DRAW), torch.tensor([30.0, -24.0])])


@pytest.mark.parametrize("form", ["ivit", "paper"])
@pytest.mark.parametrize("bits", [4, 6, 8])
def test_minmax_keeps_the_largest_value(bits: int, form: str) -> None:
    found = scales(*one(HEAVY), bits, "minmax", form)["t"]
    assert found == activation_scale(30.0, bits, form)


def test_percentile_leaves_one_in_ten_thousand_out() -> None:
    """Of an exponential distribution, where 99.9 % would be 6.9 and 99.999 % 11.5."""
    values = -torch.log1p(-(torch.arange(20000, dtype=torch.float64) + 0.5) / 20000)
    found = float(scales(*one(values.float()), 8, "percentile")["t"]) * 127
    # Two are above the range: it ends at the 19 998th, ln(8000), give or take half a bin, and
    # the scale is rounded up by at most 2^-7.
    assert np.log(8000) - 2.0**-9 <= found <= (np.log(8000) + 2.0**-9) * (1 + 2.0**-7)
    heavy = float(scales(*one(HEAVY), 8, "percentile")["t"]) * 127
    assert heavy < 5  # not the outliers


@pytest.mark.parametrize("form", ["ivit", "paper"])
@pytest.mark.parametrize("bits", [4, 6, 8])
def test_mse_range_is_as_good_as_the_best_by_brute_force(bits: int, form: str) -> None:
    """Against every candidate range, on the values themselves and not on a histogram."""
    values = HEAVY.double().numpy()

    def error(scale: float) -> float:
        codes = np.clip(np.rint(values / scale), -(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
        return float(((codes * scale - values) ** 2).mean())

    ranges = 30.0 * np.linspace(0.05, 1.0, 96)
    best = min(error(float(round_up_to_bf16(r / steps(bits, form)))) for r in ranges)
    found = error(float(scales(*one(HEAVY), bits, "mse", form)["t"]))
    # A bin is 32 / 4096 wide, 1/10 of the finest step here: its centre stands for its values.
    assert found <= best * 1.01
    assert best < 0.9 * error(float(activation_scale(30.0, bits, form)))  # clipping pays here


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("kind", ["residual", "input"])
def test_residual_stream_and_input_keep_their_whole_range(kind: str, method: str) -> None:
    bits = {"residual": 16, "input": 8}[kind]
    assert scales(*one(HEAVY, kind), 6, method)["t"] == activation_scale(30.0, bits)


@pytest.mark.parametrize("method", METHODS)
def test_tensor_of_zeros_has_a_scale(method: str) -> None:
    assert scales(*one(torch.zeros(5)), 8, method)["t"] == 2.0**-23


@pytest.mark.parametrize("method", METHODS)
def test_scales_are_bf16_for_every_group_but_the_logits(quantized: Quantized, method: str) -> None:
    found = scales(quantized.statistics, quantized.edges, 8, method)
    assert set(found) == {g for g, kind in quantized.edges.kinds.items() if kind != "logits"}
    for group, scale in found.items():
        assert scale == round_up_to_bf16(scale) > 0, group


@pytest.mark.parametrize(("equalized", "passes"), [(True, 2), (False, 1)])
def test_images_are_read_once_per_pass(quantized: Quantized, equalized: bool, passes: int) -> None:
    sizes: list[int] = []

    def batches() -> Iterator[torch.Tensor]:
        for batch in quantized.normalized[:6].split(4):
            sizes.append(len(batch))
            yield batch

    found = collect(quantized.prepared, batches, {}, equalized)
    assert sizes == [4, 2] * passes
    assert bool(found.equalization) == equalized


def test_masks_do_not_widen_the_range_of_scores(
    quantizations: Callable[..., Quantized],
) -> None:
    """Masked scores are near -100; those of the other windows are not."""
    found = quantizations(models.windows)
    shifted = [n for n in found.graph if n.op == "attention" and hidden_scores(n) is not None]
    assert shifted
    for node in shifted:
        assert found.statistics.histograms[node.scores].largest < 50.0
