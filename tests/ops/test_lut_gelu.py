"""LutGelu: every entry of its table, and that it is read at the right place."""

from fractions import Fraction
from statistics import NormalDist

import ops_reference as plain
import pytest
from hypothesis import given
from ops_harness import by_torch
from ops_strategies import few, float32s

from mnq.ops.integer import INT64
from mnq.ops.lut_gelu.op import constants, lut_gelu


@few
@given(float32s(0.005, 0.5), float32s(0.005, 0.5))
def test_the_table_is_the_true_gelu_of_every_code_rounded_half_up(
    scale: float, out_scale: float
) -> None:
    gelu = [q * scale * NormalDist().cdf(q * scale) for q in range(-128, 128)]
    want = [plain.half_up(Fraction(y / out_scale)) for y in gelu]
    values = constants(scale, out_scale, 8)
    got = by_torch(lut_gelu, list(range(-128, 128)), values["table"], to=INT64)
    assert got == [plain.saturate(y, -128, 127) for y in want]


@pytest.mark.parametrize("bits", [4, 6, 8])
def test_the_table_saturates_at_the_output_width(bits: int) -> None:
    table = constants(0.5, 0.001, bits)["table"]
    assert table.dtype == "int8"
    assert (int(table.min()), int(table.max())) == plain.code_range(bits)
