"""Edits of a graph's nodes: who reads what, and what is returned follows every edit."""

import torch

from mnq.toolchain.graph import Graph, Node
from mnq.toolchain.rewrite import graph_of, insert, nodes_of, of, only_user, substitute, users


def small() -> Graph:
    """input -> a -> b -> c, of which a and c are returned; d is read by nothing."""
    shape = (-1, 4)
    nodes = [Node("input", "input", (), shape, "")]
    nodes += [
        Node(name, op, (read,), shape, "", settings={"factor": 2.0, "approximate": "none"})
        for name, op, read in (
            ("a", "gelu", "input"),
            ("b", "scale", "a"),
            ("c", "gelu", "b"),
            ("d", "gelu", "a"),
        )
    ]
    return Graph({node.name: node for node in nodes}, "input", "c", ("a",))


def test_what_is_returned_has_a_reader() -> None:
    nodes = nodes_of(small())
    assert [node.op for node in users(nodes, "a")] == ["scale", "gelu", "output"]
    assert [node.op for node in users(nodes, "c")] == ["output"]
    assert only_user(nodes, "b") is nodes["c"]
    assert only_user(nodes, "a") is None and only_user(nodes, "d") is None


def test_graph_has_what_is_needed_for_what_is_returned() -> None:
    graph = small()
    found = graph_of(nodes_of(graph), "input")
    assert list(found.nodes) == ["input", "a", "b", "c"]
    assert (found.input, found.outputs) == ("input", ("a", "c"))
    assert list(graph.nodes) == ["input", "a", "b", "c", "d"]  # and the given one is as it was


def test_a_substitute_is_read_and_returned_in_place_of_the_old_node() -> None:
    nodes = nodes_of(small())
    substitute(nodes, "a", Node("new", "gelu", ("input",), (-1, 4), ""))
    assert list(nodes)[:3] == ["input", "new", "b"]
    assert nodes["b"].inputs == ("new",)
    assert graph_of(nodes, "input").outputs == ("new", "c")


def test_a_node_is_inserted_behind_the_last_that_it_reads() -> None:
    nodes = nodes_of(small())
    insert(nodes, Node("sum", "add", ("input", "b"), (-1, 4), ""))
    assert list(nodes)[:5] == ["input", "a", "b", "sum", "c"]


def test_nodes_of_a_kind_are_given_as_they_are_when_their_turn_comes() -> None:
    nodes = nodes_of(small())
    seen = []
    for node in of(nodes, "gelu"):
        seen.append((node.name, node.inputs))
        nodes.pop("d", None)
        nodes["c"] = Node("c", "gelu", ("a",), (-1, 4), "", {"value": torch.zeros(1)})
    assert seen == [("a", ("input",)), ("c", ("a",))]
