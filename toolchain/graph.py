"""The graph between a captured float model and its integer program.

Every node makes one tensor, named after the torch module that made it. Arithmetic nodes
(`linear`, `attention`, `layernorm`, `gelu`, `softmax`, `matmul`, `add`, `normalize`, `mean`,
`requantize`) become operators of `mnq.ops`; view nodes move codes and keep their scale; `scale`
multiplies values by a number, which changes the scale and no code.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import torch

SITE_KINDS = {
    "attention": "softmax",
    "softmax": "softmax",
    "gelu": "gelu",
    "layernorm": "layernorm",
}


@dataclass
class Node:
    """One tensor and how it is made.

    name: unique; the torch module path, plus a suffix where a module makes several.
    op: one of views.VIEWS, `scale`, an arithmetic kind, `input` or `constant`.
    inputs: names of the tensors it reads.
    shape: with -1 for the axis that grows with the batch.
    parameters: float tensors: weight, bias, value.
    settings: what else defines the op: shape, perm, axis, index, factor, ...
    site: name of its non-linear site, "" if it has none.
    """

    name: str
    op: str
    inputs: tuple[str, ...]
    shape: tuple[int, ...]
    module: str
    parameters: dict[str, torch.Tensor] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    site: str = ""

    @property
    def scores(self) -> str:
        """Name of an attention node's inner tensor: the scores that its softmax reads."""
        return f"{self.name}.scores"


@dataclass
class Graph:
    """Nodes in execution order; `input` is (B, C, H, W), `output` the last tensor.

    features: other tensors that the model returns, before `output`.
    """

    nodes: dict[str, Node]
    input: str
    output: str
    features: tuple[str, ...] = ()

    @property
    def outputs(self) -> tuple[str, ...]:
        """All tensors that the model returns, in its order."""
        return (*self.features, self.output)

    def __iter__(self) -> Iterator[Node]:
        return iter(self.nodes.values())

    def to(self, device: torch.device) -> Graph:
        """The same graph with its parameters on `device`."""
        moved = {
            name: replace(node, parameters={k: v.to(device) for k, v in node.parameters.items()})
            for name, node in self.nodes.items()
        }
        return replace(self, nodes=moved)

    def consumers(self, name: str) -> list[Node]:
        """Nodes that read tensor `name`."""
        return [node for node in self if name in node.inputs]

    def sites(self) -> dict[str, str]:
        """Non-linear sites in execution order: name -> kind (softmax, gelu or layernorm)."""
        return {node.site: SITE_KINDS[node.op] for node in self if node.site}
