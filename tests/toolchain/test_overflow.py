"""Whole programs: every tensor's range is proved, and what could overflow is not exported."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
import toolchain_models as models
import torch
from toolchain_harness import FORMS, METHODS, Quantized, step

from mnq.models.zoo import LoadedModel, load
from mnq.ops.errors import CheckFailed
from mnq.ops.proof import LIMITS
from mnq.runtime.modelfile import parse
from mnq.runtime.overflow import Proven, from_json, tightest
from mnq.toolchain import export as exports
from mnq.toolchain import map as maps
from mnq.toolchain.calibrate import collect, scales
from mnq.toolchain.edges import assign_edges
from mnq.toolchain.equalize import equalize
from mnq.toolchain.overflow import prove
from mnq.toolchain.program import Program
from mnq.toolchain.views import VIEWS

Quantizations = Callable[[Callable[[], torch.nn.Module]], Quantized]


def holds(program: Program, images: torch.Tensor) -> list[Proven]:
    """The proof of a program, whose ranges hold for these images and for extreme ones."""
    rows = prove(program)
    hard = torch.stack([torch.zeros_like(images[0]), torch.full_like(images[0], 255)])
    hard = torch.cat([hard, torch.where(images[2:6] < 128, 0, 255).to(images.dtype)])
    found = [program.run(program.image.from_pixels(each)) for each in (images, hard)]
    assert [row.tensor for row in rows] == [*found[0]]
    for row in rows:
        for values in found:
            integers = values[row.tensor]
            assert row.lo <= int(integers.min()) and int(integers.max()) <= row.hi, row.tensor
            assert row.width == 8 * integers.element_size(), row.tensor
        assert row.bits <= row.width
        assert bool(row.inside) != (row.operator in VIEWS or row.operator == ""), row.tensor
    assert all(place["spare"] >= 0 for place in tightest(rows).values())
    return rows


@pytest.mark.parametrize("bits", [8, 6, 4])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("method", METHODS)
def test_every_method_is_proved_at_every_width(
    quantized: Quantized, pixels: torch.Tensor, method: str, form: str, bits: int
) -> None:
    rows = holds(quantized.program(method, form, bits), pixels)
    assert {kind for row in rows for kind in row.inside} == {*LIMITS}
    assert {row.width for row in rows} == {8, 16, 32}
    codes = [row for row in rows if row.operator == "QLinear" and row.width == 8]
    assert max(row.bits for row in codes) == bits


@pytest.mark.parametrize("build", models.ARCHITECTURES, ids=lambda build: build.__name__)
def test_every_architecture_is_proved(
    quantizations: Quantizations, pixels: torch.Tensor, build: Callable[[], torch.nn.Module]
) -> None:
    quantized = quantizations(build)
    for method in METHODS:
        holds(quantized.program(method), pixels)


def test_normalized_floats_are_codes_of_a_quantizer(
    quantized: Quantized, pixels: torch.Tensor
) -> None:
    rows = holds(quantized.program("lut", kind="float"), pixels)
    assert (rows[0].lo, rows[0].hi) == (-128, 127)


def test_ranges_are_those_of_the_producers(quantized: Quantized) -> None:
    """A GELU of small outputs makes narrower accumulators of the layer that reads it."""
    program = quantized.program("lut")
    gelu, layer = step(program, "blocks.0.mlp.act"), step(program, "blocks.0.mlp.fc2")
    table = np.clip(np.asarray(gelu.constants["table"]), -3, 5)
    narrow = replace(gelu, constants={**gelu.constants, "table": table})
    changed = replace(program, steps=[narrow if s is gelu else s for s in program.steps])
    before, after = ({row.tensor: row for row in prove(p)} for p in (program, changed))
    assert (after[gelu.output].lo, after[gelu.output].hi) == (-3, 5)
    wide, close = (rows[layer.output].inside["int32"][0] for rows in (before, after))
    assert close <= wide - 3


def with_constant(program: Program, tensor: str, name: str, value: int, at: int) -> Program:
    """The program with one integer of one constant replaced."""
    spoiled = step(program, tensor)
    array = np.array(spoiled.constants[name], np.int64)
    array.reshape(-1)[at] = value
    other = replace(spoiled, constants={**spoiled.constants, name: array})
    return replace(program, steps=[other if s is spoiled else s for s in program.steps])


@pytest.mark.parametrize(
    ("tensor", "name", "value", "at", "words"),
    [
        ("blocks.0.mlp.act", "bias", 2**31 - 1, 7, "needs 33 bits of 32 because of bias[7]"),
        ("blocks.1.mlp.fc2", "m", 2**52, 3, "QLinearAdd needs 7"),
        ("blocks.1.mlp.fc2", "m", 2**52, 3, "because of m[3] in `RequantizeAdd > rescale: z * m`"),
        ("blocks.0.norm1", "bq", 2**55, 30, "because of bq[30] in `rescale: z * m`"),
        ("blocks.0.norm1", "e", 64, 2, "needs an exponent of 0 to 62, found 63 because of e[2]"),
        ("blocks.1.attn.context", "e_s", 0, 0, "`IBertAttention > scores > QMatMul > Requantize"),
    ],
)  # fmt: skip
def test_what_may_overflow_is_refused_in_one_line(
    quantized: Quantized, tensor: str, name: str, value: int, at: int, words: str
) -> None:
    program = with_constant(quantized.program("ibert"), tensor, name, value, at)
    with pytest.raises(CheckFailed) as caught:
        prove(program)
    text = str(caught.value)
    assert text.startswith("export: expected integers that cannot overflow, found tensor ")
    assert f"{tensor!r} of module " in text and words in text
    assert "\n" not in text


def test_export_keeps_the_proof_and_refuses_without_one(
    loaded: LoadedModel, quantized: Quantized, monkeypatch: pytest.MonkeyPatch
) -> None:
    mapping = maps.uniform("tiny", "ibert")
    given = (loaded, quantized.prepared, quantized.statistics, mapping)
    proto = exports.export(*given)
    assert from_json(parse(proto, "m.onnx").overflow) == prove(quantized.program("ibert"))
    real = exports.quantize

    def spoiled(*arguments: object) -> Program:
        return with_constant(real(*arguments), "head", "bias", -(2**31), 1)

    monkeypatch.setattr(exports, "quantize", spoiled)
    with pytest.raises(CheckFailed, match=r"tensor 'head' .* because of bias\[1\]"):
        exports.export(*given)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["deit_t", "swin_t"])
def test_full_size_models_with_random_weights_are_proved(name: str) -> None:
    found = load(name, None, random=0)
    graph = exports.graph_of(found)
    size = found.preprocess.size
    images = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    statistics = collect(graph, lambda: [images], {}, True)
    graph = equalize(graph, statistics.equalization)
    for method, bits in (("ivit", 8), ("ibert", 8), ("fqvit", 8), ("lut", 8), ("fqvit", 4)):
        ranges = scales(statistics, assign_edges(graph), bits)
        mapping = maps.uniform(name, method, bits)
        rows = prove(exports.quantize(found, graph, ranges, mapping, exports.Settings()))
        spare = {kind: place["spare"] for kind, place in tightest(rows).items()}
        assert spare["int64"] >= 1 and spare["int32"] >= 6 and spare["sum"] >= 9
