"""Pack: one operator reads the qkv tensor, in windows too; what does not fit stays as it is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import toolchain_models as models
import torch
from toolchain_harness import FORMS, METHODS, Quantized, same_integers, step
from toolchain_models import Tokens, case
from torch import nn

from mnq.ops.registry import UNIFORM
from mnq.toolchain.map import Map
from mnq.toolchain.program import Program

Quantizations = Callable[[Callable[[], nn.Module]], Quantized]

ATTENTION = {
    models.registers: 2 * ["Packed"],
    models.relative_positions: 2 * ["Packed"],
    models.windows: ["Window", "Window", "Packed"],
    models.fused_windows: ["Window", "Window", "Packed"],
    models.padded_windows: 3 * ["Window"],
    models.cosine_windows: 3 * [""],
    models.torchvision_windows: ["Window", "Window", "Packed"],
    models.torchvision_plain: ["Packed"],
    models.pyramid: ["Window", "Window", "Packed"],
}
MOVED = ("transpose", "gather", "pad", "slice", "select", "concat")
MERGED = ["layers.1.downsample.transpose"]
CUT = [f"features.2.slice{number}" for number in ("", *(f"_{i}" for i in range(1, 8)))]
LEFT: dict[Any, list[str]] = {
    models.windows: MERGED,
    models.fused_windows: MERGED,
    models.torchvision_windows: [*CUT, "features.2.concat"],
    models.pyramid: ["transpose", f"net.{MERGED[0]}", "transpose_1"],
}
"""All moves of a program that change the order: patch merging, and channels first."""


def check_fused(quantized: Quantized, method: str | Map, *rest: Any) -> Program:
    """The fused program, which computes the integers of the one that is not."""
    build = quantized.program if isinstance(method, str) else quantized.build
    fused: Program = build(method, *rest)
    same_integers(fused, quantized.unfused(method, *rest))
    return fused


EACH = pytest.mark.parametrize("build", models.ARCHITECTURES, ids=lambda build: build.__name__)


def test_every_architecture_has_its_operators_here() -> None:
    assert set(ATTENTION) == set(models.ARCHITECTURES)


@EACH
def test_attention_reads_the_tensor_of_the_qkv_layer(
    build: Callable[[], nn.Module], quantizations: Quantizations
) -> None:
    program = quantizations(build).program("ivit")
    found = [s for s in program.steps if s.operator.endswith("Attention")]
    assert [s.operator for s in found] == [f"IVit{kind}Attention" for kind in ATTENTION[build]]
    for s in found:
        assert len(s.inputs) == (3 if s.operator == "IVitAttention" else 1)
    if build in LEFT:
        assert [s.output for s in program.steps if s.operator in MOVED] == LEFT[build]


def test_a_block_of_windows_is_two_reshapes_around_attention(
    quantizations: Quantizations,
) -> None:
    """Shift, partition, mask, and back: all inside, in both blocks."""
    steps = quantizations(models.windows).program("fqvit").steps
    for block in ("layers.0.blocks.0", "layers.0.blocks.1"):
        inside = [s for s in steps if s.output.startswith(block)]
        assert [s.operator for s in inside if s.operator != "reshape"] == [
            "FqVitLayerNorm", "QLinear", "FqVitWindowAttention", "QLinearAdd",
            "FqVitLayerNorm", "QLinear", "IVitGelu", "QLinearAdd",
        ]  # fmt: skip


def coordinates(order: Any) -> list[tuple[int, int]]:
    return [divmod(int(token), 8) for token in order]


def test_index_maps_are_the_windows_and_their_shift(quantizations: Quantizations) -> None:
    """Window (i, j) has the 4x4 tokens from (4 i, 4 j) on; the shifted ones are 2 further on."""
    program = quantizations(models.windows).program("lut")
    for block, shift in ((0, 0), (1, 2)):
        constants = step(program, f"layers.0.blocks.{block}.attn.context").constants
        for window, order in enumerate(np.asarray(constants["order"])):
            first = 4 * (window // 2) + shift, 4 * (window % 2) + shift
            expected = [
                ((first[0] + row) % 8, (first[1] + column) % 8)
                for row in range(4)
                for column in range(4)
            ]
            assert coordinates(order) == expected
        flat = np.asarray(constants["order"]).ravel()
        np.testing.assert_array_equal(flat[np.asarray(constants["inverse"])], np.arange(64))


def test_windows_of_one_mask_share_a_plane_of_the_bias(quantizations: Quantizations) -> None:
    """All without a shift; with one the last row and column of windows differ."""
    program = quantizations(models.windows).program("lut")
    kinds = []
    for block in (0, 1):
        constants = step(program, f"layers.0.blocks.{block}.attn.context").constants
        kinds.append(np.asarray(constants["kind"]).tolist())
        assert constants["bias"].shape == (len({*kinds[-1]}), 2, 16, 16)
    assert kinds[0] == [0] * 4 and len({*kinds[1]}) == 4


@EACH
@pytest.mark.parametrize("bits", [8, 4])
def test_packed_program_computes_the_same_integers(
    build: Callable[[], nn.Module], bits: int, quantizations: Quantizations
) -> None:
    """Every method and form in turn, so that each is in windows, and masked."""
    quantized = quantizations(build)
    for number in range(4) if build is models.windows else (models.ARCHITECTURES.index(build),):
        method = METHODS[(number + bits) % 4]
        form = FORMS[(number + bits // 4) % 2]
        check_fused(quantized, method, form, bits)


def test_mixed_methods_are_packed_each_at_its_site(quantizations: Quantizations) -> None:
    quantized = quantizations(models.windows)
    sites = [site for site, kind in quantized.graph.sites().items() if kind == "softmax"]
    entries = {
        site: {"method": method, "attention": form}
        for site, method, form in zip(
            sites, ("lut", "fqvit", "ibert"), ("normalized", "deferred", "deferred"), strict=True
        )
    }
    mapping = Map("tiny", defaults=UNIFORM["ivit"], sites=entries)
    fused = check_fused(quantized, mapping)
    found = [s.operator for s in fused.steps if s.operator.endswith("Attention")]
    assert found == [
        "LutNormalizedWindowAttention", "FqVitWindowAttention", "IBertPackedAttention",
    ]  # fmt: skip


# --- hand-written windows ---


def attend(m: Tokens, t: torch.Tensor) -> torch.Tensor:
    """Attention behind the norm, inside windows (B, N, 32)."""
    q, k, v = m.qkv(t).reshape(t.shape[0], -1, 3, 2, 16).permute(2, 0, 3, 1, 4).unbind(0)
    y = nn.functional.scaled_dot_product_attention(q, k, v)
    return m.proj(y.transpose(1, 2).flatten(2))


def strided(m: Tokens, t: torch.Tensor) -> torch.Tensor:
    """Every fourth token is in a window, as in dilated attention."""
    cut = m.norm(t).reshape(-1, 4, 4, 32).transpose(1, 2).reshape(-1, 4, 32)
    return t + attend(m, cut).reshape(-1, 4, 4, 32).transpose(1, 2).reshape(-1, 16, 32)


def in_another_order(m: Tokens, t: torch.Tensor) -> torch.Tensor:
    """One window, whose tokens are in another order than the image's."""
    return t + attend(m, m.norm(t).roll(5, 1)).roll(-5, 1)


@pytest.mark.parametrize("middle", [strided, in_another_order])
def test_any_partition_of_the_tokens_is_windows(middle: Any, normalized: torch.Tensor) -> None:
    fused = check_fused(Quantized(case(middle), normalized), "lut")
    operators = [s.operator for s in fused.steps]
    assert "LutWindowAttention" in operators
    assert not {"transpose", "gather"} & {*operators}


def windows_are_images(m: Tokens, t: torch.Tensor) -> torch.Tensor:
    """A norm inside the windows: to the qkv layer each of them is an image."""
    cut = t.reshape(-1, 4, 4, 32).transpose(1, 2).reshape(-1, 4, 32)
    cut = cut + attend(m, m.norm(cut))
    return cut.reshape(-1, 4, 4, 32).transpose(1, 2).reshape(-1, 16, 32)


def joined_behind(m: Tokens, t: torch.Tensor) -> torch.Tensor:
    """The same, and windows are put together before anything else reads them."""
    cut = t.reshape(-1, 4, 4, 32).transpose(1, 2).reshape(-1, 4, 32)
    y = m.norm(attend(m, m.norm(cut)).reshape(-1, 4, 4, 32).transpose(1, 2).reshape(-1, 16, 32))
    return t + y


def overlapping(m: Tokens, t: torch.Tensor) -> torch.Tensor:
    """A token in two windows."""
    cut = torch.cat([m.norm(t)[:, :12], m.norm(t)[:, 4:]], 1).reshape(-1, 12, 32)
    return t + attend(m, cut).reshape(-1, 24, 32)[:, 4:20]


@pytest.mark.parametrize("middle", [windows_are_images, joined_behind, overlapping])
def test_windows_that_are_images_to_the_layer_are_packed(
    middle: Any, normalized: torch.Tensor
) -> None:
    fused = check_fused(Quantized(case(middle), normalized), "lut")
    assert "LutPackedAttention" in {s.operator for s in fused.steps}


def not_put_back(m: Tokens, t: torch.Tensor) -> torch.Tensor:
    """Results stay in the windows' order."""
    cut = m.norm(t).reshape(-1, 4, 4, 32).transpose(1, 2).reshape(-1, 4, 32)
    return t + attend(m, cut).reshape(-1, 16, 32)


def other_queries(m: Tokens, t: torch.Tensor) -> torch.Tensor:
    """Queries of the next token, keys of this one."""
    y = m.qkv(m.norm(t)).reshape(-1, 16, 3, 2, 16).permute(2, 0, 3, 1, 4)
    y = nn.functional.scaled_dot_product_attention(y[0].roll(1, 2), y[1], y[2])
    return t + m.proj(y.transpose(1, 2).flatten(2))


def a_part_of_the_tokens(m: Tokens, t: torch.Tensor) -> torch.Tensor:
    """Half of the tokens attend."""
    y = m.qkv(m.norm(t)).reshape(-1, 16, 3, 2, 16)[:, :8].permute(2, 0, 3, 1, 4)
    y = nn.functional.scaled_dot_product_attention(y[0], y[1], y[2])
    return t[:, 8:] + m.proj(y.transpose(1, 2).flatten(2))


def windows_joined_before(m: Tokens, t: torch.Tensor) -> torch.Tensor:
    """A layer inside windows, and attention in all of them: more than one of its images."""
    y = m.qkv(m.norm(t.reshape(-1, 4, 32)))
    y = y.reshape(-1, 16, 3, 2, 16).permute(2, 0, 3, 1, 4)
    y = nn.functional.scaled_dot_product_attention(y[0], y[1], y[2])
    return t + m.proj(y.transpose(1, 2).flatten(2))


@pytest.mark.parametrize(
    "middle",
    [not_put_back, other_queries, a_part_of_the_tokens, windows_joined_before],
)
def test_other_windows_stay_views(middle: Any, normalized: torch.Tensor) -> None:
    fused = check_fused(Quantized(case(middle), normalized), "lut")
    assert "LutAttention" in {s.operator for s in fused.steps}


def test_attention_that_is_returned_keeps_its_layout(normalized: torch.Tensor) -> None:
    class Returned(Tokens):
        def forward(self, x: torch.Tensor) -> Any:
            t = self.tokens(x)
            context = nn.functional.scaled_dot_product_attention(*self.heads(t))
            return context, self.out(self.join(t, context))

    fused = check_fused(Quantized(models.randomize(Returned()), normalized), "lut")
    assert step(fused, next(iter(fused.features))).operator == "LutAttention"
