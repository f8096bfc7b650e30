"""FqVitSoftmax (Log-Int-Softmax) against plain integers."""

import ops_reference as plain
import pytest
from hypothesis import example, given
from ops_harness import by_torch, tensor
from ops_strategies import exact, float32s, rows

from mnq.ops.errors import InputError
from mnq.ops.fqvit_softmax.op import (
    constants,
    fqvit_softmax,
    method,
    probability,
    weigh,
)

SCALES = float32s(6e-4, 3.0)


@exact
@given(rows(), SCALES)
@example([3] * 40, 0.0006)
@example([127] + [-128] * 39, 0.05)
@example([0, -1], 0.6931)
@example([0, 0, -1], 0.6931)  # the ratio is 2.5, which rounds to 2
def test_log_int_softmax_equals_plain_integers(row: list[int], scale: float) -> None:
    values = constants(scale)
    got = by_torch(fqvit_softmax, row, values["x0"], values["b"], values["c"])
    assert got == plain.log_codes(plain.log_int_softmax(row, *plain.i_exp_constants(scale)))


@pytest.mark.parametrize("length", range(1, 50))
def test_the_logarithm_of_a_flat_row_is_rounded_at_three_halves(length: int) -> None:
    """A flat row of n elements has the ratio n exactly."""
    log = max(k for k in range(8) if length >= (1 if k == 0 else 1.5 * 2 ** (k - 1)))
    values = constants(0.1)
    got = by_torch(fqvit_softmax, [7] * length, values["x0"], values["b"], values["c"])
    assert got == [log] * length


def test_row_sums_beyond_what_a_double_holds_are_exact() -> None:
    """c * 2^30 at the finest scale that is accepted, 1024 keys: 2^62."""
    values = constants(6e-4)
    row = [127, 126] * 512
    largest = int(values["c"]) * 2**30
    assert largest * 1024 > 2**62
    got = by_torch(fqvit_softmax, row, values["x0"], values["b"], values["c"])
    assert got == plain.log_codes(plain.log_int_softmax(row, *plain.i_exp_constants(6e-4)))


@pytest.mark.parametrize("scale", [5e-4, 1e-5])
def test_a_scale_too_fine_for_int64_sums_is_refused(scale: float) -> None:
    with pytest.raises(InputError, match="expected a score scale of at least"):
        constants(scale)


@exact
@given(SCALES)
def test_constants_are_those_of_i_exp(scale: float) -> None:
    x0, b, c = plain.i_exp_constants(scale)
    assert {name: int(v) for name, v in constants(scale).items()} == {"x0": x0, "b": b, "c": c}


@exact
@given(rows(), SCALES)
def test_weights_are_powers_of_two_below_the_largest(row: list[int], scale: float) -> None:
    logs = plain.log_int_softmax(row, *plain.i_exp_constants(scale))
    least = min(log for log in logs if log is not None)
    behind = [None if log is None else log - least for log in logs]
    want = [0 if b is None or b > 7 else 2 ** (7 - b) for b in behind]
    d = [q - max(row) for q in row]
    got, normalizer = weigh(
        tensor(d), *(tensor(v) for v in method.weight_constants(scale).values())
    )
    assert got.tolist() == want
    assert normalizer.tolist() == [2 ** (least + 7)]


@pytest.mark.parametrize("code", range(16))
def test_probability_is_a_power_of_two_and_code_15_means_zero(code: int) -> None:
    assert int(probability(tensor(code))) == (0 if code == 15 else 2 ** (15 - code))
    assert method.probability_scale(16) == 2.0**-15
