"""Views in a captured model: rolls, padding, repeated constants and new tensors."""

from collections.abc import Callable
from typing import Any

import pytest
import toolchain_models as models
import torch
from toolchain_harness import worst_error
from toolchain_models import Tokens, case
from torch import nn
from torch.nn import functional

from mnq.toolchain.capture import capture
from mnq.toolchain.evaluate import evaluate
from mnq.toolchain.graph import Graph

FLOAT32_NOISE = 1e-5  # see test_capture.py

Middle = Callable[[Any, torch.Tensor], torch.Tensor]
Refusal = Callable[..., str]


def captured(middle: Middle) -> tuple[nn.Module, Graph]:
    model = case(middle)
    return model, capture(model, torch.zeros(2, 3, models.SIZE, models.SIZE))


def rolled(m: Tokens, t: torch.Tensor) -> torch.Tensor:
    maps = m.maps(t).roll((1, -2), (2, -1)).roll(5, 3).roll(shifts=(7,), dims=(1,))
    return m.rows(maps)


def unrolled(m: Tokens, t: torch.Tensor) -> torch.Tensor:
    return t.roll(3, 1).roll(0, 1).roll(-3, 1)


def padded(m: Tokens, t: torch.Tensor) -> torch.Tensor:
    """Different numbers of zeros at each end of two axes, and nothing around the third."""
    t = functional.pad(t, (0, 0, 1, 0))
    maps = functional.pad(m.maps(t[:, 1:]), (1, 2, 3, 0, 0, 0), value=0.0)
    return m.rows(functional.pad(maps, (0, 0)))


def constants(m: Tokens, t: torch.Tensor) -> torch.Tensor:
    """Rows made inside, of a fixed number, written to, and repeated for every image."""
    made = t.new_ones(1, 2, 32, dtype=torch.float64).float() * 0.5
    made[:, 0] = torch.linspace(-1, 1, 32)
    zeros = t.new_zeros((1, 1, 32))
    return torch.cat([made.expand_as(t[:, :2]), zeros.expand_as(t[:, :1]), t], 1)


@pytest.mark.parametrize("middle", [rolled, unrolled, padded, constants])
def test_views_move_the_values_of_the_torch_model(middle: Middle, normalized: torch.Tensor) -> None:
    model, graph = captured(middle)
    for images in (normalized[:1], normalized[:5]):
        with torch.no_grad():
            assert worst_error(evaluate(graph, images), model(images)) < FLOAT32_NOISE


def test_a_roll_is_a_gather_along_each_axis() -> None:
    _, graph = captured(lambda m, t: m.rows(m.maps(t).roll((1, -1), (2, 3))))
    (rows, columns) = [node for node in graph if node.op == "gather"]
    assert (rows.settings, columns.settings) == (
        {"axis": 2, "order": (3, 0, 1, 2)},
        {"axis": 3, "order": (1, 2, 3, 0)},
    )
    assert columns.inputs == (rows.name,) and rows.shape == columns.shape == (-1, 32, 4, 4)


def test_padding_by_nothing_is_no_view() -> None:
    _, graph = captured(lambda m, t: functional.pad(t, (0, 0, 0, 0)))
    assert "pad" not in {node.op for node in graph}


def test_decomposed_padding_is_the_same_view(normalized: torch.Tensor) -> None:
    """aten.constant_pad_nd, which has no mode: what other exporters write."""

    def middle(m: Tokens, t: torch.Tensor) -> torch.Tensor:
        one: torch.Tensor = torch.ops.aten.constant_pad_nd(t, [0, 0, 2, 1])
        two: torch.Tensor = torch.ops.aten.constant_pad_nd(t, [0, 0, 2, 1], 0.0)
        return one + two

    model, graph = captured(middle)
    pads = [node.settings for node in graph if node.op == "pad"]
    assert pads == 2 * [{"before": (0, 2, 0), "after": (0, 1, 0)}]
    with torch.no_grad():
        assert worst_error(evaluate(graph, normalized), model(normalized)) < FLOAT32_NOISE


REFUSED: list[tuple[Middle, str]] = [
    (lambda m, t: t.roll(1, 0), "along axes of fixed length"),
    (lambda m, t: t.roll(1), "along axes of fixed length"),
    (lambda m, t: functional.pad(t, (0, 0, 1, 1), value=1.0), "padding by zeros"),
    (lambda m, t: functional.pad(t, (0, 0, 1, 1), mode="replicate"), "padding by zeros"),
    (lambda m, t: functional.pad(t, (0, 0, -1, 0)), "padding by zeros"),
    (lambda m, t: functional.pad(t, (0, 0, 0, 0, 1, 0)), "padding by zeros"),
    (lambda m, t: torch.ops.aten.constant_pad_nd(t, [0, 0, 1, 1], -1.0), "padding by zeros"),
    (lambda m, t: t[:, :1].expand_as(t[:, :1].unsqueeze(0))[0], "repeated for every image"),
]


@pytest.mark.parametrize(("middle", "part"), REFUSED)
def test_other_moves_are_refused_with_their_module(
    middle: Middle, part: str, refusal: Refusal
) -> None:
    text = refusal(captured, middle)
    assert part in text and "'(top)'" in text
