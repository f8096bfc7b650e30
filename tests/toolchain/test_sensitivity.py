"""Sensitivity: every figure against a computation of whole tensors in numpy, and resuming."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import toolchain_models as models
import torch
from numpy.typing import NDArray
from toolchain_harness import Quantized, batches, separate

from mnq.ops.registry import METHODS, UNIFORM
from mnq.toolchain import sensitivity
from mnq.toolchain.evaluate import evaluate
from mnq.toolchain.map import uniform
from mnq.toolchain.measurements import BINS, Measurements, Run
from mnq.toolchain.probe import Probe
from mnq.toolchain.program import Step
from mnq.toolchain.sensitivity import MEASURES, observe_sites
from mnq.toolchain.sqnr import Powers

Tensors = dict[str, NDArray[np.float64]]
BATCHES = batches(models.pixels(7, seed=21), 3)  # of 3, 3 and 1 images
NAMES = tuple(UNIFORM)


@pytest.fixture(scope="module")
def measured(quantized: Quantized) -> Callable[[str], Measurements]:
    """A function that measures everything in one go; once for "joint" and for "isolated"."""
    return cache(lambda how: quantized.measure(how, BATCHES))


# --- the same with whole tensors ---


@pytest.fixture(scope="module")
def floats(quantized: Quantized) -> Tensors:
    """The float tensors around the sites, on all images."""
    sites = [node for node in quantized.graph if node.site]
    names = {quantized.graph.output, *(n.name for n in sites), *(n.inputs[0] for n in sites)}
    names |= {node.scores for node in sites if node.op == "attention"}
    parts: list[dict[str, torch.Tensor]] = []
    for _, images in BATCHES:
        parts.append({})
        with torch.no_grad():
            evaluate(quantized.graph, images, parts[-1].__setitem__)
    return {n: torch.cat([p[n] for p in parts]).double().numpy() for n in names}


def float_site(quantized: Quantized, floats: Tensors, site: str) -> tuple[Any, Any]:
    """What a site reads and writes in the float model."""
    (node,) = (node for node in quantized.graph if node.site == site)
    if node.op != "attention":
        return floats[node.inputs[0]], floats[node.name]
    scores = floats[node.scores]
    exp = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return scores, exp / exp.sum(axis=-1, keepdims=True)


def read_codes(step: Step, tensors: dict[str, torch.Tensor]) -> NDArray[np.int64]:
    """What a site's function reads; for attention floor((q k + bias) m / 2^e + 1/2)."""
    inputs = [tensors[name].long() for name in step.inputs]
    if not step.operator.endswith("Attention"):
        return inputs[0].numpy()
    q, k, _ = (x.numpy() for x in separate(inputs))
    c = {name: np.asarray(value, np.int64) for name, value in step.constants.items()}
    z = q @ k.swapaxes(-1, -2) + c["bias"]
    rounded = (z * c["m_s"] + (1 << (c["e_s"] - 1))) >> c["e_s"]
    return np.clip(rounded, c["lo_s"], c["hi_s"])


def assert_powers(found: Powers, x: NDArray[Any], q: NDArray[Any], what: str) -> None:
    """Mean squares per image. Float32 softmax in torch and here differ by some 1e-7."""
    assert len(found.signal) == len(found.noise) == len(x) == 7
    for image in range(len(x)):
        signal, noise = np.mean(x[image] ** 2), np.mean((x[image] - q[image]) ** 2)
        assert found.signal[image] == pytest.approx(signal, rel=1e-5), what
        assert found.noise[image] == pytest.approx(noise, rel=1e-5, abs=signal * 1e-11), what


def assert_histogram(counts: list[int], value: NDArray[Any], low: float, high: float) -> None:
    """Counts in equal bins; a value on the border of two may be in either."""
    clipped = np.clip(value.ravel(), low, high)
    expected, edges = np.histogram(clipped, BINS, (low, high))
    assert sum(counts) == value.size
    border = np.abs(clipped[:, None] - edges[None, 1:-1]).min(axis=1) < 1e-6 * (high - low)
    assert np.abs(np.array(counts) - expected).sum() <= 2 * border.sum()


def assert_site(
    found: Measurements,
    run: Run,
    site: str,
    exactly: tuple[NDArray[Any], NDArray[Any]],
    codes: NDArray[np.int64],
    probe: Probe,
) -> None:
    """One site's entry is what these codes give."""
    entry, what = run.sites[site], f"{run.name} at {site}"
    written = probe.write(torch.from_numpy(codes)).numpy()
    assert_powers(entry.input, exactly[0], codes * probe.reads.scale, what)
    assert_powers(entry.output, exactly[1], written, what)
    bins = found.histograms[site]
    assert_histogram(entry.histogram, written, bins.low, bins.high)


@pytest.mark.parametrize("name", NAMES)
def test_joint_figures_are_those_of_the_whole_quantized_model(
    quantized: Quantized,
    measured: Callable[[str], Measurements],
    floats: Tensors,
    name: str,
) -> None:
    found, program = measured("joint"), quantized.build_sites(uniform("tiny", name))
    run = found.run(8, "joint", name)
    assert run is not None and run.images == 7 and run.unusable == {}
    tensors = program.run(torch.cat([pixels for pixels, _ in BATCHES]))
    assert list(run.sites) == list(found.sites)
    for s in program.steps:
        if s.site:
            method = UNIFORM[name][found.sites[s.site]]
            assert run.sites[s.site].method == method
            probe = quantized.variants(8).probe(s.site, method)
            exactly = float_site(quantized, floats, s.site)
            assert_site(found, run, s.site, exactly, read_codes(s, tensors), probe)
    logits = tensors[program.output].numpy() * program.output_scale
    assert_powers(run.logits, floats[quantized.graph.output], logits, name)


@pytest.mark.parametrize("name", NAMES)
def test_isolated_figures_are_those_of_one_site_in_the_float_model(
    quantized: Quantized,
    measured: Callable[[str], Measurements],
    floats: Tensors,
    name: str,
) -> None:
    """The site's input is rounded and nothing else; sites without the method are left out."""
    found = measured("isolated")
    run = found.run(8, "isolated", name)
    assert run is not None and run.images == 7
    assert (run.logits, run.unusable) == (Powers(), {})
    assert list(run.sites) == [s for s, kind in found.sites.items() if name in METHODS[kind]]
    for site, entry in run.sites.items():
        assert entry.method == name
        probe = quantized.variants(8).probe(site, name)
        exactly = float_site(quantized, floats, site)
        codes = probe.quantize(torch.from_numpy(exactly[0])).numpy()
        assert_site(found, run, site, exactly, codes, probe)


def test_inputs_of_sites_far_from_the_image_are_noisier_in_a_whole_model(
    measured: Callable[[str], Measurements],
) -> None:
    """The two measures are not the same thing."""
    whole, alone = (measured(how).run(8, how, "ibert") for how in MEASURES)
    assert whole is not None and alone is not None
    assert whole.sites["norm"].input.sqnr_db() < alone.sites["norm"].input.sqnr_db() - 10


@pytest.mark.parametrize("how", MEASURES)
def test_histograms_of_float_outputs_count_every_value_once(
    quantized: Quantized, measured: Callable[[str], Measurements], floats: Tensors, how: str
) -> None:
    """In the bins of the first batch's range, however many runs see the images."""
    found = measured(how)
    assert list(found.histograms) == list(found.sites)
    for site, bins in found.histograms.items():
        value = float_site(quantized, floats, site)[1]
        assert bins.images == 7
        assert bins.low == pytest.approx(value[:3].min(), rel=1e-6)
        assert bins.high == pytest.approx(value[:3].max(), rel=1e-6)
        assert_histogram(bins.counts, value, bins.low, bins.high)
    assert measured("joint").histograms == measured("isolated").histograms


def test_a_flat_output_has_a_histogram_too(quantized: Quantized) -> None:
    found = Measurements("tiny", {}, quantized.graph.sites())
    sensitivity._count_floats(found, "norm", torch.full((2, 3), 0.25), 2)
    bins = found.histograms["norm"]
    assert (bins.low, bins.high, bins.counts[0], sum(bins.counts)) == (0.25, 1.25, 6, 6)


def test_observed_sites_are_tensors_of_the_float_model(
    quantized: Quantized, floats: Tensors
) -> None:
    found = observe_sites(quantized.graph, BATCHES[0][1])
    assert set(found.read) == set(found.written) == set(quantized.graph.sites())
    for site in found.read:
        read, written = float_site(quantized, floats, site)
        np.testing.assert_array_equal(found.read[site].double().numpy(), read[:3])
        np.testing.assert_allclose(found.written[site].numpy(), written[:3], rtol=1e-5, atol=1e-9)
    np.testing.assert_array_equal(found.logits.numpy(), floats[quantized.graph.output][:3])


# --- windows ---


@pytest.mark.parametrize("how", MEASURES)
def test_windows_of_an_image_count_as_that_image(
    how: str, quantizations: Callable[..., Quantized]
) -> None:
    """Shifted and masked ones too; a norm outside of windows is beside them."""
    quantized = quantizations(models.windows)
    found = quantized.measure(how, BATCHES, ("ibert",))
    run = found.run(8, how, "ibert")
    assert run is not None
    pixels, images = (torch.cat(part) for part in zip(*BATCHES, strict=True))
    values: dict[str, torch.Tensor] = {}
    with torch.no_grad():
        evaluate(quantized.graph, images, values.__setitem__)
    plain = quantized.unfused("ibert")
    tensors = plain.run(pixels)
    steps = {s.site: s for s in plain.steps if s.site}
    for site, kind in found.sites.items():
        assert len(run.sites[site].input.signal) == len(run.sites[site].output.noise) == 7
        if kind == "softmax":
            exactly = values[f"{steps[site].output}.scores"]
            probe = quantized.variants(8).probe(site, "ibert")
            codes = torch.from_numpy(read_codes(steps[site], tensors))
            codes = codes if how == "joint" else probe.quantize(exactly)
            pairs = (exactly, probe.value(codes)), (exactly.softmax(-1), probe.write(codes))
            entry = run.sites[site]
            for powers, pair in zip((entry.input, entry.output), pairs, strict=True):
                x, q = (value.double().reshape(7, -1).numpy() for value in pair)
                assert_powers(powers, x, q, site)
