"""Capture says what it cannot take: the operator or the reason, and the module, in one line."""

from collections.abc import Callable
from typing import Any

import pytest
import toolchain_models as models
import torch
from toolchain_models import Tokens, case
from torch import nn
from torch.nn import functional

Refusal = Callable[..., str]

attend = functional.scaled_dot_product_attention


def overlapping() -> nn.Module:
    model = Tokens()
    model.embed = nn.Conv2d(3, 32, 8, 4)
    return model


def padded() -> nn.Module:
    model = Tokens()
    model.embed = nn.Conv2d(3, 32, 8, 8, padding=4)
    return model


def grouped() -> nn.Module:
    model = Tokens()
    model.embed = nn.Conv2d(3, 33, 8, 8, groups=3)
    model.norm, model.head = nn.LayerNorm(33), nn.Linear(33, 10)
    return model


def not_dividing() -> nn.Module:
    model = Tokens()
    model.embed = nn.Conv2d(3, 32, 7, 7)
    return model


def batch_norm() -> nn.Module:
    model = Tokens()
    model.embed = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 32, 8, 8))
    return model


def scaled_image() -> nn.Module:
    """A number per colour in front of the first layer."""
    model = Tokens()
    model.embed = nn.Sequential(Gain(torch.tensor([0.5, 1.0, 2.0]).reshape(3, 1, 1)), model.embed)
    return model


class Gain(nn.Module):
    """A product with numbers that are not one."""

    def __init__(self, numbers: torch.Tensor) -> None:
        super().__init__()
        self.numbers = nn.Parameter(numbers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.numbers


def two_axes(m: Any, t: torch.Tensor) -> torch.Tensor:
    return functional.layer_norm(t, (16, 32))


def softmax_of_tokens(m: Any, t: torch.Tensor) -> torch.Tensor:
    return t + m.norm(t).softmax(-1)


def softmax_of_columns(m: Any, t: torch.Tensor) -> torch.Tensor:
    q, k, v = m.heads(t)
    return m.join(t, (q @ k.transpose(-1, -2)).softmax(-2) @ v)


def one_head_on_three_axes(m: Any, t: torch.Tensor) -> torch.Tensor:
    return t + attend(*m.qkv(m.norm(t)).chunk(3, -1))


def causal(m: Any, t: torch.Tensor) -> torch.Tensor:
    return m.join(t, attend(*m.heads(t), is_causal=True))


def computed_mask(m: Any, t: torch.Tensor) -> torch.Tensor:
    q, k, v = m.heads(t)
    return m.join(t, attend(q, k, v, attn_mask=q @ k.transpose(-1, -2)))


def computed_bias(m: Any, t: torch.Tensor) -> torch.Tensor:
    q, k, v = m.heads(t)
    return m.join(t, (q @ k.transpose(-1, -2) + k @ q.transpose(-1, -2)).softmax(-1) @ v)


def scores_read_twice(m: Any, t: torch.Tensor) -> torch.Tensor:
    q, k, v = m.heads(t)
    scores = q @ k.transpose(-1, -2)
    return m.join(t, scores.softmax(-1) @ v + scores @ v)


def boolean_mask(m: Any, t: torch.Tensor) -> torch.Tensor:
    return m.join(t, attend(*m.heads(t), attn_mask=torch.ones(16, 16).tril().bool()))


def grouped_queries(m: Any, t: torch.Tensor) -> torch.Tensor:
    q, k, v = m.heads(t)
    return m.join(t, attend(q, k[:, :1], v[:, :1], enable_gqa=True))


def windows(m: Any, t: torch.Tensor) -> torch.Tensor:
    """A token repeated for every window, not for every image."""
    parts = t.reshape(t.shape[0] * 4, 4, 32)
    token = torch.ones(1, 1, 32).expand(t.shape[0] * 4, -1, -1)
    return torch.cat([token, parts], 1).reshape(-1, 20, 32)


def of_windows(m: Any, t: torch.Tensor) -> torch.Tensor:
    """A position of its own for every window of an image."""
    place = torch.arange(4.0).reshape(4, 1, 1).repeat(t.shape[0], 1, 1)
    return (t.reshape(-1, 4, 32) + place).reshape(-1, 16, 32)


def of_images(m: Any, t: torch.Tensor) -> torch.Tensor:
    return t + torch.arange(t.shape[0]).reshape(-1, 1, 1)


def on_another_axis(m: Any, t: torch.Tensor) -> torch.Tensor:
    """The batch is the second axis: its halves are no images."""
    return (t.transpose(0, 1) + torch.ones(16, t.shape[0], 1)).transpose(0, 1)


def read_twice(m: Any, t: torch.Tensor) -> torch.Tensor:
    normed = m.norm(t)
    return normed * GAINS + normed


GAINS = torch.linspace(0.5, 2.0, 32)

REFUSED: list[tuple[Any, tuple[str, ...]]] = [
    (overlapping, ("(32, 3, 8, 8)", "stride [4, 4]", "'embed'")),
    (padded, ("padding [4, 4]", "'embed'")),
    (grouped, ("groups 3", "'embed'")),
    (not_dividing, ("32x32", "'embed'")),
    (batch_norm, ("aten.batch_norm.default", "'embed.0'")),
    (scaled_image, ("number per channel behind a layer", "'embed.0'")),
    (two_axes, ("LayerNorm over the last axis", "[16, 32]", "'(top)'")),
    (softmax_of_tokens, ("another softmax", "'(top)'")),
    (softmax_of_columns, ("axis -2", "'(top)'")),
    (one_head_on_three_axes, ("3 axes", "'(top)'")),
    (causal, ("a causal mask", "'(top)'")),
    (computed_mask, ("a computed mask", "'(top)'")),
    (computed_bias, ("another softmax", "'(top)'")),
    (scores_read_twice, ("another softmax", "'(top)'")),
    (boolean_mask, ("torch.bool", "'(top)'")),
    (grouped_queries, ("grouped queries", "'(top)'")),
    (windows, ("the same for every image", "expand its first axis", "'(top)'")),
    (of_windows, ("a constant for every window", "'(top)'")),
    (of_images, ("the same for every image", "aten.add.Tensor", "'(top)'")),
    (on_another_axis, ("the same for every image", "aten.add.Tensor", "'(top)'")),
    (lambda m, t: t.to(torch.int32) + t, ("real numbers", "'(top)'")),
    (lambda m, t: t.relu(), ("aten.relu.default", "'(top)'")),
    (lambda m, t: t * t, ("aten.mul.Tensor", "'(top)'")),
    (lambda m, t: t * GAINS, ("number per channel behind a layer", "'(top)'")),
    (lambda m, t: m.norm(t) * GAINS[:16, None], ("number per channel behind a layer", "'(top)'")),
    (lambda m, t: (m.norm(t) * GAINS[None, None, None])[0], ("number per channel", "'(top)'")),
    (read_twice, ("number per channel behind a layer", "'(top)'")),
    (lambda m, t: t / GAINS, ("aten.div.Tensor", "'(top)'")),
    (lambda m, t: t.norm(dim=-1, keepdim=True) + t, ("norm inside functional.normalize",)),
    (lambda m, t: t.norm(dim=-1)[..., None] + t, ("linalg_vector_norm", "kept with length 1")),
    (lambda m, t: functional.normalize(t, p=1.0, dim=-1), ("linalg_vector_norm", "'(top)'")),
    (lambda m, t: functional.normalize(t, dim=1), ("linalg_vector_norm", "'(top)'")),
    (lambda m, t: functional.normalize(t, dim=-1, eps=0.5), ("aten.clamp_min.default", "'(top)'")),
    (lambda m, t: t / t.norm(dim=-1, keepdim=True).clamp_min(1), ("aten.clamp_min", "'(top)'")),
    (lambda m, t: m.norm(t) / t.norm(dim=-1, keepdim=True), ("aten.div.Tensor", "'(top)'")),
    (lambda m, t: t.clamp_min(0.0), ("aten.clamp_min.default", "'(top)'")),
    (lambda m, t: t.mean((0, 1)) + t, ("images and channels", "[0, 1]", "'(top)'")),
    (lambda m, t: t[:, 0].mean(0) + t, ("images and channels", "'(top)'")),
    (lambda m, t: t.unflatten(1, (4, 4)).mean(2), ("images and channels", "'(top)'")),
    (lambda m, t: m.rows(functional.adaptive_avg_pool2d(m.maps(t), 2)), ("one value per channel",)),
    (lambda m, t: m.rows(functional.adaptive_avg_pool2d(m.maps(t), (1, 4))), ("one value per",)),
    (lambda m, t: m.rows(functional.avg_pool2d(m.maps(t), 4)), ("aten.avg_pool2d", "'(top)'")),
    (lambda m, t: t * -1.0, ("positive number", "'(top)'")),
    (lambda m, t: t / t, ("aten.div.Tensor", "'(top)'")),
    (lambda m, t: t + 1.0, ("aten.add.Tensor", "'(top)'")),
    (lambda m, t: torch.add(t, t, alpha=2), ("alpha: 2", "'(top)'")),
    (lambda m, t: t @ torch.eye(32), ("a constant factor", "'(top)'")),
    (lambda m, t: t.repeat(1, 2, 1), ("aten.repeat", "'(top)'")),
    (
        lambda m, t: t + torch.arange(t.shape[0]).reshape(-1, 1, 1),
        ("the same for every image", "'(top)'"),
    ),
    (lambda m, t: t.new_zeros(t.shape[0], 1, 32) + t, ("of fixed size", "expand it", "'(top)'")),
]


@pytest.mark.parametrize(("build", "parts"), REFUSED)
def test_unsupported_operator_is_named_with_its_module(
    build: Any, parts: tuple[str, ...], refusal: Refusal
) -> None:
    middle = "t" in build.__code__.co_varnames
    text = refusal(models.prepared, (lambda: case(build)) if middle else build)
    for part in parts:
        assert part in text


def halves(t: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """The same codes at two scales."""
    return t, t * 0.5


def forward(body: Callable[..., Any]) -> nn.Module:
    return type("Odd", (Tokens,), {"forward": body})()


ODD: list[tuple[Callable[..., Any], str]] = [
    (lambda self, x, y: self.out(self.tokens(x + y)), "'y'"),
    (lambda self, x: None, "found 1 inputs, and 0 such tensors among 1 outputs"),
    (lambda self, x: self.head.weight, "0 such tensors among 1 outputs"),
    (lambda self, x: (self.out(self.tokens(x)), self.head.weight), "1 such tensors among 2"),
    (lambda self, x: 2 * (self.out(self.tokens(x)),), "1 such tensors among 2"),
    (lambda self, x: halves(self.tokens(x)), "found one twice"),
    (lambda self, x: x, "returns its input"),
    (lambda self, x: (x, self.out(self.tokens(x))), "returns its input"),
    (lambda self, x: (self.out(self.tokens(x)), 0.5 * x.flatten(1)), "returns its input"),
    (lambda self, x: torch.from_numpy(x.numpy()), "torch.export"),
    (lambda self, x: self.out(self.tokens(x.reshape(2, 3, 32, 32))), "torch.export"),
]


@pytest.mark.parametrize(("body", "part"), ODD)
def test_model_that_is_no_function_of_one_image_is_refused(
    body: Callable[..., Any], part: str, refusal: Refusal
) -> None:
    assert part in refusal(models.prepared, lambda: forward(body))


def test_model_that_branches_on_data_is_refused(refusal: Refusal) -> None:
    model = forward(lambda self, x: self.out(self.tokens(x if x.sum() > 0 else -x)))
    assert "data-dependent" in refusal(models.prepared, lambda: model)
