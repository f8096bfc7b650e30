"""Assign: which sites are searched, on the graph of a Swin transformer made by hand."""

from __future__ import annotations

import pytest
from toolchain_harness import Quantized

from mnq.toolchain.assign import SITE_SETS, searched
from mnq.toolchain.graph import Graph, Node

SWIN_T = (2, 2, 6, 2)


class Builder:
    """Nodes in execution order; every method returns the name of the tensor it adds."""

    def __init__(self) -> None:
        self.nodes: dict[str, Node] = {}

    def add(self, name: str, op: str, *inputs: str, site: str = "") -> str:
        self.nodes[name] = Node(name, op, inputs, (-1, 49, 96), name.rpartition(".")[0], site=site)
        return name

    def norm(self, name: str, read: str) -> str:
        return self.add(name, "layernorm", read, site=name)

    def block(self, name: str, x: str, shifted: bool) -> str:
        """A block: windows are views, a shift is a concatenation of slices."""
        t = self.norm(f"{name}.norm1", x)
        if shifted:
            halves = [self.add(f"{name}.roll.{side}", "slice", t) for side in ("end", "begin")]
            t = self.add(f"{name}.roll", "concat", *halves)
        t = self.add(f"{name}.windows", "reshape", t)
        t = self.add(f"{name}.attn.qkv", "linear", t)
        qkv = [self.add(f"{name}.attn.{part}", "select", t) for part in "qkv"]
        t = self.add(f"{name}.attn.context", "attention", *qkv, site=f"{name}.attn.softmax")
        t = self.add(f"{name}.attn.joined", "transpose", t)
        x = self.add(f"{name}.attn.proj", "linear", t, x)
        t = self.norm(f"{name}.norm2", x)
        t = self.add(f"{name}.mlp.scaled", "scale", self.add(f"{name}.mlp.fc1", "linear", t))
        t = self.add(f"{name}.mlp.act", "gelu", t, site=f"{name}.mlp.act")
        return self.add(f"{name}.mlp.fc2", "linear", t, x)

    def merge(self, name: str, x: str) -> str:
        """Four neighbours side by side, a norm, a reduction."""
        parts = [self.add(f"{name}.part{i}", "slice", x) for i in range(4)]
        t = self.norm(f"{name}.norm", self.add(f"{name}.beside", "concat", *parts))
        return self.add(f"{name}.reduction", "linear", t)

    def graph(self, output: str) -> Graph:
        return Graph(self.nodes, "input", output)


def swin(depths: tuple[int, ...], stem_norm: bool = True) -> Graph:
    """As timm's: the merging of patches begins stages 1 to 3."""
    b = Builder()
    x = b.add("patch_embed.proj", "linear", b.add("input", "input"))
    if stem_norm:
        x = b.norm("patch_embed.norm", x)
    for stage, depth in enumerate(depths):
        if stage:
            x = b.merge(f"layers.{stage}.downsample", x)
        for block in range(depth):
            x = b.block(f"layers.{stage}.blocks.{block}", x, shifted=block % 2 == 1)
    x = b.norm("norm", x)
    x = b.add("pooled", "matmul", b.add("mean", "constant"), x)
    return b.graph(b.add("head", "linear", x))


OUTSIDE = {"patch_embed.norm", *(f"layers.{stage}.downsample.norm" for stage in (1, 2, 3))}


@pytest.mark.parametrize(("depths", "norms"), [(SWIN_T, 25), ((2, 2, 18, 2), 49)])
def test_paper_leaves_out_the_norms_of_stem_and_merging(
    depths: tuple[int, ...], norms: int
) -> None:
    """Its table counts 25 LayerNorms of Swin-T and 49 of Swin-S: two per block and the last."""
    graph = swin(depths)
    kinds = graph.sites()
    found = searched(graph, "paper")
    assert found == [site for site in kinds if site not in OUTSIDE]
    assert sum(kinds[site] == "layernorm" for site in found) == norms == 2 * sum(depths) + 1
    assert "layers.1.blocks.0.norm1" in found and found[-1] == "norm"


def test_all_sites_are_all(quantized: Quantized) -> None:
    for graph in (swin(SWIN_T), quantized.graph):
        assert searched(graph, "all") == list(graph.sites())


def test_paper_searches_everything_in_a_vision_transformer(quantized: Quantized) -> None:
    assert searched(quantized.graph, "paper") == list(quantized.graph.sites())


def test_a_norm_before_the_first_block_is_outside_whatever_its_form() -> None:
    """A residual stream that begins behind a view, or an addition of its own."""
    b = Builder()
    x = b.add("embed", "linear", b.add("input", "input"))
    x = b.add("flat", "reshape", b.norm("norm_pre", x))
    x = b.add("embedded", "add", x, b.add("position", "constant"))
    x = b.block("blocks.0", x, shifted=False)
    graph = b.graph(b.add("head", "linear", b.norm("norm", x)))
    expected = ["blocks.0.norm1", "blocks.0.attn.softmax", "blocks.0.norm2", "blocks.0.mlp.act"]
    assert searched(graph, "paper") == [*expected, "norm"]


def test_an_addition_is_the_end_of_a_block_whatever_follows() -> None:
    """Fused into a linear layer, or not."""
    b = Builder()
    x = b.norm("norm_pre", b.add("embed", "linear", b.add("input", "input")))
    x = b.add("mixed", "linear", b.add("position", "constant"), x)
    x = b.add("act", "gelu", x, site="act")
    graph = b.graph(b.add("head", "linear", b.norm("norm", x)))
    assert searched(graph, "paper") == ["act", "norm"]


def test_a_graph_without_norms_has_its_other_sites_searched() -> None:
    b = Builder()
    x = b.add("embed", "linear", b.add("input", "input"))
    graph = b.graph(b.add("act", "gelu", x, site="act"))
    assert [searched(graph, which) for which in SITE_SETS] == [["act"], ["act"]]
