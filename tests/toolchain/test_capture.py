"""Capture: what a float model becomes, and what it says about a model that it cannot take."""

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

# Some 80 roundings of float32 (2^-23). Measured: at most 1.5e-6. An operator that is left out or
# misread shows: a position bias multiplied by 1/sqrt(d) once too often gave 4e-3.
FLOAT32_NOISE = 1e-5

EXAMPLE = torch.zeros(2, 3, models.SIZE, models.SIZE)

Captured = Callable[..., Graph]


def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, **options: Any) -> torch.Tensor:
    return functional.scaled_dot_product_attention(q, k, v, **options)


RAMP = torch.linspace(-2, 2, 256).reshape(1, 1, 16, 16)


def qk_norm() -> nn.Module:
    return models.tiny(depth=1, qk_norm=True)


def register_tokens() -> nn.Module:
    return models.tiny(depth=1, reg_tokens=2, qkv_bias=False)


def pre_norm_without_class_token_position() -> nn.Module:
    return models.tiny(depth=1, pre_norm=True, no_embed_class=True)


def attention_pooling() -> nn.Module:
    return models.tiny(depth=1, class_token=False, global_pool="map")


def fused_with_scale() -> nn.Module:
    return case(lambda m, t: m.join(t, attend(*m.heads(t), scale=0.1)))


def fused_with_position_bias() -> nn.Module:
    return case(lambda m, t: m.join(t, attend(*m.heads(t), attn_mask=RAMP)))


def layer_norm_without_weights() -> nn.Module:
    return case(lambda m, t: functional.layer_norm(t, (32,), bias=torch.linspace(-1, 1, 32)))


def oblong_patches() -> nn.Module:
    model = Tokens()
    model.embed = nn.Conv2d(3, 32, (8, 4), (8, 4), bias=False)
    return models.randomize(model)


def rearranged() -> nn.Module:
    """chunk, split, slices, squeeze and a repeated token."""

    def middle(m: Tokens, t: torch.Tensor) -> torch.Tensor:
        first, second = t.chunk(2, 1)
        third, _, fourth = second.split([2, 1, 5], 1)
        one = t[:, -1].unsqueeze(1).expand(-1, 3, -1)
        return torch.cat([fourth[:, 1:-1], first[:, ::3], third, one], 1)

    return case(middle)


def numbers() -> nn.Module:
    return case(lambda m, t: t * 0.5 + (m.norm(t) * torch.tensor(3.0) / 7))


def gelu_by_tanh() -> nn.Module:
    return case(lambda m, t: functional.gelu(m.norm(t), approximate="tanh"))


def mean_of_tokens() -> nn.Module:
    return models.tiny(depth=1, class_token=False, global_pool="avg")


def layer_scale() -> nn.Module:
    return models.tiny(depth=1, init_values=0.5)


def pooled() -> nn.Module:
    """Means that keep their axes, over one axis and over two, of maps and of tokens."""

    def middle(m: Any, t: torch.Tensor) -> torch.Tensor:
        one = m.rows(functional.adaptive_avg_pool2d(m.maps(t), 1))
        two = functional.adaptive_avg_pool1d(t.transpose(1, 2), 1).transpose(1, 2)
        three = m.rows(m.maps(t).mean((3, -2), keepdim=True))
        channels = m.norm(t).mean(-1)[:, :4].unsqueeze(2)
        return torch.cat([one, two, three, t.mean(1, keepdim=True)], 1) + channels

    return case(middle)


def constants_of_images() -> nn.Module:
    """Made for every image, of fixed numbers: added, joined, in parts, and as a mask."""

    def middle(m: Any, t: torch.Tensor) -> torch.Tensor:
        count = t.shape[0]
        rows = torch.linspace(-1, 1, 64).reshape(1, 2, 32).repeat(count, 1, 1)
        first, second = (rows * 2).unbind(1)
        t = torch.cat([torch.zeros(count, 1, 32), t[:, 1:]], 1) + first.unsqueeze(1)
        t = t + second.unsqueeze(1).to(torch.float64).float()
        mask = RAMP.expand(count, 2, 16, 16).reshape(count, 2, 16, 16).clone()
        return m.join(t, attend(*m.heads(t), attn_mask=mask))

    return case(middle)


def other_types() -> nn.Module:
    """Conversions that change no value."""
    return case(lambda m, t: m.norm(t.float()).to(t.dtype) + t.double().float())


def unit_vectors() -> nn.Module:
    """functional.normalize, and the same written out."""

    def middle(m: Any, t: torch.Tensor) -> torch.Tensor:
        long = m.proj(m.norm(t))
        return functional.normalize(t, dim=-1) + long / long.norm(dim=-1, keepdim=True)

    return case(middle)


TAKEN = [
    models.tiny,
    models.distilled,
    qk_norm,
    register_tokens,
    pre_norm_without_class_token_position,
    attention_pooling,
    fused_with_scale,
    fused_with_position_bias,
    layer_norm_without_weights,
    oblong_patches,
    rearranged,
    numbers,
    gelu_by_tanh,
    mean_of_tokens,
    layer_scale,
    pooled,
    constants_of_images,
    other_types,
    unit_vectors,
]


@pytest.mark.parametrize("build", TAKEN, ids=lambda build: build.__name__)
def test_graph_computes_the_torch_model_at_every_batch_size(
    build: Callable[[], nn.Module], captured: Captured, normalized: torch.Tensor
) -> None:
    model, graph = build(), captured(build)
    for batch in (1, 2, 5):
        images = normalized[-batch:]
        with torch.no_grad():
            assert worst_error(evaluate(graph, images), model(images)) < FLOAT32_NOISE, batch


def test_unprepared_graph_computes_the_torch_model_too(
    model: nn.Module, normalized: torch.Tensor
) -> None:
    with torch.no_grad():
        found = evaluate(capture(model, EXAMPLE), normalized)
        assert worst_error(found, model(normalized)) < FLOAT32_NOISE


def test_sites_are_named_after_torch_modules(graph: Graph) -> None:
    block = [
        ("norm1", "layernorm"),
        ("attn.softmax", "softmax"),
        ("norm2", "layernorm"),
        ("mlp.act", "gelu"),
    ]
    expected = [(f"blocks.{i}.{site}", kind) for i in range(2) for site, kind in block]
    assert list(graph.sites().items()) == [*expected, ("norm", "layernorm")]


def test_layers_are_named_after_torch_modules(graph: Graph, model: nn.Module) -> None:
    layers = {n for n, m in model.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)}
    assert {node.name for node in graph if node.op == "linear"} == layers


def test_patch_embedding_is_a_reshape_and_a_linear_layer(captured: Captured) -> None:
    ops = [node.op for node in captured(models.tiny) if node.module == "patch_embed.proj"]
    assert ops == ["reshape", "transpose", "reshape", "linear"]


def test_capture_leaves_the_model_alone(model: nn.Module) -> None:
    before = {name: value.clone() for name, value in model.state_dict().items()}
    capture(model, EXAMPLE)
    after = model.state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert not model.training


def test_constant_of_every_image_is_one_constant(normalized: torch.Tensor) -> None:
    """As masks are made that are all true: of the batch size, and the same for every image."""

    def middle(m: Any, t: torch.Tensor) -> torch.Tensor:
        inside = torch.arange(t.shape[0])[:, None, None] >= 0
        mask = torch.where(inside.expand(-1, 16, 32), torch.full((16, 32), 0.5), -1.0)
        token = torch.full((1, 1, 32), 2.0).repeat(t.shape[0], 1, 1)
        return torch.cat([token, t + mask], 1)

    model = case(middle)
    graph = capture(model, EXAMPLE)
    shapes = [node.shape for node in graph if node.op == "constant"]
    assert shapes == [(1, 16, 32), (1, 1, 32)]
    with torch.no_grad():
        assert torch.equal(evaluate(graph, normalized), model(normalized))
