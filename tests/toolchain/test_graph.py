"""The graph's own questions: order, readers, sites."""

import torch

from mnq.toolchain.graph import SITE_KINDS, Graph, Node
from mnq.toolchain.views import VIEWS


def small() -> Graph:
    """input -> norm -> act, and the sum of both."""
    nodes = [
        Node("input", "input", (), (-1, 3, 4, 4), ""),
        Node("norm", "layernorm", ("input",), (-1, 3, 4, 4), "norm", site="norm"),
        Node("act", "gelu", ("norm",), (-1, 3, 4, 4), "mlp.act", site="mlp.act"),
        Node("add", "add", ("norm", "act"), (-1, 3, 4, 4), ""),
    ]
    return Graph({node.name: node for node in nodes}, "input", "add")


def test_iteration_is_in_execution_order() -> None:
    assert [node.name for node in small()] == ["input", "norm", "act", "add"]


def test_consumers_are_the_readers_of_a_tensor() -> None:
    assert [node.name for node in small().consumers("norm")] == ["act", "add"]
    assert small().consumers("add") == []


def test_sites_are_named_with_their_kind_in_execution_order() -> None:
    assert list(small().sites().items()) == [("norm", "layernorm"), ("mlp.act", "gelu")]


def test_scores_are_named_after_the_attention() -> None:
    assert Node("a.context", "attention", ("q", "k", "v"), (), "a").scores == "a.context.scores"


def test_nodes_do_not_share_their_parameters() -> None:
    first, second = (Node(name, "linear", (), (), "") for name in "ab")
    first.parameters["weight"] = torch.zeros(1)
    first.settings["factor"] = 1.0
    assert not second.parameters and not second.settings


def test_no_view_is_a_site() -> None:
    assert not set(VIEWS) & set(SITE_KINDS)
