"""Patches against its definition, element by element."""

import numpy as np
import pytest
from ops_harness import Case

from mnq.ops.patches.op import constants, patches


@pytest.mark.parametrize("patch", [(1, 1), (2, 3), (4, 6)])
@pytest.mark.parametrize(("dtype", "offset"), [(np.uint8, 128), (np.int8, 0), (np.int8, 3)])
def test_rows_are_the_pixels_of_a_patch(
    patch: tuple[int, int], dtype: type[np.generic], offset: int
) -> None:
    (p, q), (channels, height, width) = patch, (3, 4, 6)
    low = offset - 128
    rng = np.random.default_rng(6)
    x = rng.integers(max(low, np.iinfo(dtype).min), np.iinfo(dtype).max + 1, (2, 3, 4, 6))
    made = Case(patches, {"x": x.astype(dtype)}, constants(offset, x.shape[1:], patch)).compute()
    assert made.shape == (2, height // p, width // q, channels * p * q) and made.dtype == np.int8
    for b, c, row, column in np.ndindex(x.shape):
        inside = (c * p + row % p) * q + column % q
        assert made[b, row // p, column // q, inside] == x[b, c, row, column] - offset


def test_every_pixel_has_a_code() -> None:
    pixels = np.arange(256, dtype=np.uint8).reshape(1, 1, 16, 16)
    made = Case(patches, {"x": pixels}, constants(128, (1, 16, 16), (1, 16))).compute()
    assert made.reshape(-1).tolist() == list(range(-128, 128))


def test_inputs_are_the_image_and_the_constants() -> None:
    assert patches.inputs == ("x", *constants(0, (3, 4, 6), (2, 3)))
    assert patches.attributes == ()
