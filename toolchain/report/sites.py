"""Sites and their names, as a report shows them."""

from __future__ import annotations

import re
from dataclasses import dataclass

KIND_NAMES = {"softmax": "Softmax", "gelu": "GELU", "layernorm": "LayerNorm"}

MEASURED = {"joint": "in whole quantized models", "isolated": "with one site quantized at a time"}
"""What the two measures are, for people."""

_BLOCK = re.compile(r"(?:\blayers\.(\d+)\.)?\bblocks\.(\d+)\b")


@dataclass(frozen=True)
class Site:
    """A non-linear site; `position` counts from 1 in execution order, as the paper does."""

    position: int
    name: str
    kind: str

    @property
    def label(self) -> str:
        """The paper's name of it, such as 22.softmax."""
        return f"{self.position}.{self.kind}"

    @property
    def block(self) -> str:
        """The number of its block (stage.block where there are stages); "" outside of blocks."""
        found = _BLOCK.search(self.name)
        return "" if found is None else ".".join(part for part in found.groups() if part)
