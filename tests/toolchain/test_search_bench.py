"""The bench of a search: logit SQNR of programs that share their first steps."""

from __future__ import annotations

import pytest
import toolchain_models as models
import torch
from toolchain_harness import METHODS as NAMES
from toolchain_harness import Quantized, batches, mix_sqnr

from mnq.toolchain.search import Bench
from mnq.toolchain.variants import Methods, Variants

BATCHES = batches(models.pixels(6, seed=31), 4)  # of 4 and 2 images
CLOSE = 1e-6  # dB


@pytest.fixture
def bench(quantized: Quantized) -> Bench:
    return Bench(quantized.graph, BATCHES)


@pytest.fixture
def variants(quantized: Quantized) -> Variants:
    return quantized.variants(8)


def quality(quantized: Quantized, methods: Methods) -> float:
    return mix_sqnr(quantized, methods, BATCHES)


def test_bench_gives_the_logit_sqnr_of_a_whole_run(
    quantized: Quantized, variants: Variants, bench: Bench
) -> None:
    for name in NAMES:
        methods = variants.uniform(name)
        expected = quality(quantized, methods)
        assert bench.sqnr_db(variants.program(methods)) == pytest.approx(expected, abs=CLOSE)


def test_shared_steps_change_no_figure(
    quantized: Quantized, variants: Variants, bench: Bench
) -> None:
    """Wherever the first steps end, and in the order of the search, which only goes on."""
    program = variants.program(variants.uniform("ibert"))
    expected = quality(quantized, variants.uniform("ibert"))
    for steps in (0, 1, 7, 30, len(program.steps)):
        bench.advance(program, steps)
        assert bench.steps == steps
        assert bench.sqnr_db(program) == pytest.approx(expected, abs=CLOSE)
        assert bench.sqnr_db(program) == pytest.approx(expected, abs=CLOSE)  # left as it was
    bench.rewind()
    other = variants.program(variants.uniform("lut"))
    expected = quality(quantized, variants.uniform("lut"))
    assert bench.sqnr_db(other) == pytest.approx(expected, abs=CLOSE)


def test_outputs_of_a_step_are_its_tensors_of_each_batch(variants: Variants, bench: Bench) -> None:
    program = variants.program(variants.uniform("ivit"))
    index = next(i for i, s in enumerate(program.steps) if s.site == "blocks.1.attn.softmax")
    bench.advance(program, index)
    for (pixels, _), found in zip(BATCHES, bench.outputs(program.steps[index]), strict=True):
        assert torch.equal(found, program.run(pixels)[program.steps[index].output])
