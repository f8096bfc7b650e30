"""Attention in a captured graph: factors per head, biases, and masks per window."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import toolchain_models as models
import torch
from toolchain_harness import Quantized, worst_error
from toolchain_models import Tokens, case
from torch import nn

from mnq.toolchain.evaluate import evaluate
from mnq.toolchain.graph import Graph, Node

FLOAT32_NOISE = 1e-5  # see test_capture.py

Refusal = Callable[..., str]
Scores = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
Quantizations = Callable[[Callable[[], nn.Module]], Quantized]

WINDOWS, LENGTH = 4, 4
DRAW = torch.Generator().manual_seed(3)
PER_HEAD = torch.tensor([0.3, 0.7]).reshape(2, 1, 1)
BIAS = torch.randn(2, LENGTH, LENGTH, generator=DRAW)
MASK = torch.where(torch.rand(WINDOWS, LENGTH, LENGTH, generator=DRAW) < 0.3, -100.0, 0.0)
MASK[:, 0] = 0.0


def split(scores: torch.Tensor) -> torch.Tensor:
    return scores.view(-1, WINDOWS, 2, LENGTH, LENGTH)


def joined(scores: torch.Tensor) -> torch.Tensor:
    return scores.view(-1, 2, LENGTH, LENGTH)


def windowed(scores: Scores) -> nn.Module:
    """Attention inside four windows of four tokens, its scores written out."""

    def middle(m: Tokens, t: torch.Tensor) -> torch.Tensor:
        cut = t.reshape(-1, LENGTH, 32)
        q, k, v = m.heads(cut)
        return m.join(cut, scores(q, k).softmax(-1) @ v).reshape(-1, WINDOWS * LENGTH, 32)

    return case(middle)


def product(q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
    return q @ k.transpose(-1, -2)


SHARED: dict[str, Scores] = {
    "factor": lambda q, k: product(q, k) * PER_HEAD,
    "factor, then bias": lambda q, k: product(q, k) * PER_HEAD + BIAS,
    "bias, then factor": lambda q, k: (product(q, k) + BIAS) * PER_HEAD[None] * 0.5,
    "factor, bias, factor": lambda q, k: PER_HEAD * (product(q * 0.5, k) * PER_HEAD + BIAS),
    "number and bias": lambda q, k: product(q, k) * torch.full((1, 1, 1), 0.3) + BIAS,
}
MASKED: dict[str, Scores] = {
    "mask": lambda q, k: joined(split(product(q, k)) + MASK[None, :, None]),
    "mask per head": lambda q, k: joined(
        split(product(q, k)) + MASK[:, None].expand(-1, 2, -1, -1)
    ),
    "bias, then mask": lambda q, k: joined(split(product(q, k) + BIAS) + MASK[:, None]),
    "mask, then bias": lambda q, k: joined(split(product(q, k)) + MASK[:, None]) + BIAS,
    "bias inside": lambda q, k: joined(split(product(q, k)) + MASK[:, None] + BIAS),
    "factor inside": lambda q, k: joined((split(product(q, k)) + MASK[:, None]) * PER_HEAD),
    "factor, then mask": lambda q, k: joined(
        split(product(q, k) * PER_HEAD + BIAS) + MASK[:, None]
    ),
}


def only_attention(model: nn.Module, normalized: torch.Tensor) -> Node:
    """The one attention node of a model whose graph computes it, and has no other products."""
    graph = models.prepared(lambda: model)
    assert not {"softmax", "matmul", "scale", "gain"} & {node.op for node in graph}
    for images in (normalized[:1], normalized[:5]):
        with torch.no_grad():
            assert worst_error(evaluate(graph, images), model(images)) < FLOAT32_NOISE
    (fused,) = [node for node in graph if node.op == "attention"]
    return fused


@pytest.mark.parametrize("name", SHARED)
def test_factors_per_head_are_part_of_attention(name: str, normalized: torch.Tensor) -> None:
    """And weights like others: what is trained, and stands in a checkpoint."""
    node = only_attention(windowed(SHARED[name]), normalized)
    assert node.shape == (-1, 2, LENGTH, 16)
    assert set(node.parameters) == {key for key in ("bias", "factor") if key in name}
    assert "factor" not in name or node.parameters["factor"].shape == (2, 1, 1)
    assert isinstance(node.settings["factor"], float)


@pytest.mark.parametrize("name", MASKED)
def test_mask_per_window_makes_windows_heads(name: str, normalized: torch.Tensor) -> None:
    node = only_attention(windowed(MASKED[name]), normalized)
    heads = WINDOWS * 2
    assert node.shape == (-1, heads, LENGTH, 16)
    assert node.parameters["bias"].shape == (1, heads, LENGTH, LENGTH)
    assert ("factor" in node.parameters) == ("factor" in name)
    assert all(value.shape == (heads, 1, 1) for k, value in node.parameters.items() if k != "bias")


def test_fused_mask_per_window_is_that_of_one_image(quantizations: Quantizations) -> None:
    """torch's operator gets it repeated for every image; the graph is the one that is written."""
    graphs = [quantizations(build).prepared for build in (models.windows, models.fused_windows)]
    written, fused = graphs
    assert list(written.nodes) == list(fused.nodes)
    for a, b in zip(written, fused, strict=True):
        assert (a.op, a.inputs, a.shape, a.site) == (b.op, b.inputs, b.shape, b.site)
        assert a.parameters.keys() == b.parameters.keys()
        for key, value in a.parameters.items():
            assert torch.allclose(value, b.parameters[key], rtol=1e-6), (a.name, key)


def attend(m: Any, t: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    cut = t.reshape(-1, LENGTH, 32)
    context = nn.functional.scaled_dot_product_attention(*m.heads(cut), attn_mask=mask)
    joined: torch.Tensor = m.join(cut, context)
    return joined.reshape(-1, WINDOWS * LENGTH, 32)


def by_image(m: Any, t: torch.Tensor) -> torch.Tensor:
    """The images' own masks: their first channel."""
    mask = t[:, :LENGTH, 0].reshape(-1, 1, 1, 1, LENGTH).expand(-1, WINDOWS, 2, LENGTH, -1)
    return attend(m, t, mask.reshape(-1, 2, LENGTH, LENGTH))


def interleaved(m: Any, t: torch.Tensor) -> torch.Tensor:
    """The masks of the first window for all images, then of the second: no image's own."""
    mask = MASK[None, :, None].expand(t.shape[0], -1, 2, -1, -1).transpose(0, 1)
    return attend(m, t, mask.reshape(-1, 2, LENGTH, LENGTH))


@pytest.mark.parametrize(
    ("middle", "part"),
    [(by_image, "a computed mask"), (interleaved, "constants that are the same for every image")],
)
def test_masks_that_differ_between_images_are_refused(
    middle: Callable[[Any, torch.Tensor], torch.Tensor], part: str, refusal: Refusal
) -> None:
    assert part in refusal(models.prepared, lambda: case(middle))


OTHERS: dict[str, Scores] = {
    "factor per row": lambda q, k: product(q, k) * torch.linspace(0.5, 1, LENGTH)[:, None],
    "factor per window": lambda q, k: joined(
        split(product(q, k)) * torch.linspace(0.5, 1, WINDOWS).reshape(1, WINDOWS, 1, 1, 1)
    ),
    "negative factor": lambda q, k: product(q, k) * (PER_HEAD - 0.5),
    "rows joined": lambda q, k: (
        product(q, k).reshape(-1, 2, LENGTH * LENGTH) + BIAS.flatten(1)
    ).view(-1, 2, LENGTH, LENGTH),
}


@pytest.mark.parametrize("name", OTHERS)
def test_other_scores_are_refused(name: str, refusal: Refusal) -> None:
    text = refusal(models.prepared, lambda: windowed(OTHERS[name]))
    assert "another softmax" in text or "number per channel" in text


def test_windows_of_an_image_read_their_own_tokens(quantizations: Quantizations) -> None:
    """Windows stand behind the image's axis, as heads do: nothing else would keep images apart."""
    graph: Graph = quantizations(models.windows).prepared
    nodes = [node for node in graph if node.op == "attention"]
    assert [node.shape for node in nodes] == [(-1, 2, 16, 8), (-1, 8, 16, 8), (-1, 4, 16, 8)]
    assert all(graph.nodes[name].shape == nodes[1].shape for name in nodes[1].inputs)
