"""Roofline: products counted against the layers, bytes against the file."""

from __future__ import annotations

import onnx
import pytest
from runtime_tiny import SIZE, Tiny

from mnq.ops.errors import InputError
from mnq.runtime.roofline import Ceilings, Work, work

CONFORMANCE = __file__.rpartition("/tests/")[0] + "/conformance/models/test_{}/model.onnx"


def test_the_larger_time_is_the_floor() -> None:
    ceilings = Ceilings(macs_per_second=2e12, bytes_per_second=1e12)
    assert Work(macs=4 * 10**9, bytes=10**9).floor_milliseconds(ceilings) == 2
    assert Work(macs=1 * 10**9, bytes=10**9).floor_milliseconds(ceilings) == 1
    found = Work(macs=4 * 10**9, bytes=10**9).to_json(ceilings)
    assert found["floor_milliseconds"] == 2 and found["macs"] == 4 * 10**9


@pytest.mark.parametrize("batch", [1, 3])
def test_a_vit_is_counted_layer_by_layer(batch: int) -> None:
    """4 tokens and a class token of 8 channels in 2 heads, images of 8 x 8, 4 blocks, 5 classes."""
    n, c = 5, 8
    block = n * c * (3 * c + c + 2 * 2 * c) + 2 * n * n * c
    patches, head = 4 * 48 * c, c * 5
    found = work(onnx.load(CONFORMANCE.format("vit")), batch)
    assert found.macs == batch * (patches + 4 * block + head)


def test_windows_multiply_the_tokens_of_a_window_only() -> None:
    """16 tokens of 8 channels in windows of 4, then 4 of 16 channels; 2 blocks each."""

    def block(tokens: int, channels: int, keys: int) -> int:
        return tokens * channels * (8 * channels + 2 * keys)

    ends = 16 * 12 * 8 + 4 * 32 * 16 + 16 * 5
    found = work(onnx.load(CONFORMANCE.format("swin")), 1)
    assert found.macs == ends + 2 * block(16, 8, keys=4) + 2 * block(4, 16, keys=4)


def test_images_and_logits_are_moved_once_for_each_image(tiny: Tiny) -> None:
    two, three = work(tiny.copy(), 2), work(tiny.copy(), 3)
    assert three.bytes - two.bytes == 3 * SIZE * SIZE + 5 * 4
    assert three.macs * 2 == two.macs * 3


def test_shapes_that_do_not_follow_from_the_batch_are_refused(tiny: Tiny) -> None:
    free = tiny.copy()
    free.graph.input[0].type.tensor_type.shape.dim[2].dim_param = "height"
    with pytest.raises(InputError, match=r"^roofline: expected shapes that follow from the batch"):
        work(free, 1)
