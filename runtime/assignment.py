"""Which provider runs which node of a session: none may move to another one unnoticed."""

from __future__ import annotations

from typing import Any

from onnx import ModelProto, TensorProto, shape_inference

RECORDED = {"session.record_ep_graph_assignment_info": "1"}
"""What a session has to be started with, so that `moved` can tell."""

STRICT = {"session.disable_cpu_ep_fallback": "1"}
"""For an onnxruntime that records nothing: it refuses a model of which any node moves, also one
that computes a shape.
"""


def records(ort: Any) -> bool:
    """Whether this onnxruntime tells which provider runs a node (1.24 and newer do)."""
    return hasattr(ort.InferenceSession, "get_provider_graph_assignment_info")


def moved(session: Any, model: ModelProto, provider: str) -> list[str]:
    """Nodes that a session, started with RECORDED, does not run on a provider, by name or type.

    Shapes are the CPU's on every provider: nodes that only compute int64 numbers do not count.
    """
    elsewhere = [
        node.name or node.op_type
        for part in session.get_provider_graph_assignment_info()
        for node in part.get_nodes()
        if part.ep_name != provider
    ]
    if not elsewhere:
        return []
    graph = shape_inference.infer_shapes(model).graph
    values = [*graph.value_info, *graph.output]
    wide = {v.name for v in values if v.type.tensor_type.elem_type == TensorProto.INT64}
    shapes = {node.name for node in graph.node if node.name and wide.issuperset(node.output)}
    return [name for name in elsewhere if name not in shapes]
