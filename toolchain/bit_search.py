"""Bit search: QAT that learns bit-widths under a budget of BitOPs (Q-ViT, sections 3.3 and 4.1).

Until sigma of the steps the bits move with the weights and scales; then they are rounded so that
the budget holds, and the rest trains on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from mnq.toolchain.bitops import bitops, products, uniform
from mnq.toolchain.graph import Graph
from mnq.toolchain.heads import Parts
from mnq.toolchain.learned import LearnedQuantizers
from mnq.toolchain.qat import QuantizedModel
from mnq.toolchain.train import Recipe, Trainer
from mnq.toolchain.widths import SMALLEST

PAPER_ETA = 46.0
"""The paper's 0.1 for a square of BitOPs in G, for its smallest model: 0.1 * 21.455^2."""


@dataclass(frozen=True)
class SearchRecipe(Recipe):
    """A recipe of QAT, and what is learned of quantizers.

    quantizer: one of learned.QUANTIZERS; bits: of the uniform model whose BitOPs are the budget,
    or which is trained if no bits are learned; heads: one of heads.LAYOUTS; switchable: a scale
    for every width.
    eta: weight of (BitOPs / budget - 1)^2 where that is above 0, 0 for no budget; sigma: share of
    the steps in which bits move; bits_rate: their learning rate.
    """

    quantizer: str = "qvit"
    bits: int = 4
    heads: str = "paper"
    switchable: bool = True
    eta: float = PAPER_ETA
    sigma: float = 0.9
    bits_rate: float = 1e-2


class BitSearch(Trainer):
    """A model with `LearnedQuantizers` in training; budget: BitOPs of one image in G."""

    def __init__(
        self,
        model: QuantizedModel,
        quantizers: LearnedQuantizers,
        recipe: SearchRecipe,
        batches: int,
        teacher: Graph | None = None,
    ) -> None:
        self.search, self.quantizers = recipe, quantizers
        super().__init__(model, recipe, batches, teacher)
        self.products = products(model.graph, model.edges, quantizers.parts)
        whole = products(model.graph, model.edges, Parts())
        self.budget = uniform(whole, recipe.bits)

    def bitops(self) -> float:
        """BitOPs of one image in G, with the bits in use."""
        return float(bitops(self.products, self.quantizers.bits_of_products()).detach())

    def searching(self) -> bool:
        """Whether bits move in the present step."""
        total = self.recipe.epochs * self.batches
        return self.quantizers.bits is not None and self.step < int(self.search.sigma * total)

    def pace(self, name: str) -> dict[str, Any]:
        """As of other quantizers; bits have their own.

        The penalty's first gradients are a hundred times those of the loss. With AdamW's usual
        memory of a thousand steps nothing else would move a bit in a short run.
        """
        if name != "bits":
            return super().pace(name)
        return {"rate": self.search.bits_rate, "betas": (0.9, 0.9)}

    def train_step(self, images: torch.Tensor, targets: torch.Tensor) -> float:
        """As `Trainer.train_step`."""
        ends = self.quantizers.searching and not self.searching()
        self.quantizers.searching = self.searching()
        if ends and self.search.eta:
            self.settle()
        return super().train_step(images, targets)

    def settle(self) -> None:
        """Rounds the bits to whole numbers that cost the budget at most, and little less.

        The penalty fades near the budget, and rounding knows none: a search ends up to a few per
        cent beside it. Bits go down in the order in which they are least above the next lower
        number until the budget holds; then those go up that were rounded down most and fit. Settled
        bits stay as they are.
        """
        bits = self.quantizers.bits
        assert bits is not None
        raw = bits.detach().clone()
        with torch.no_grad():
            bits.round_()
            while self.bitops() > self.budget and bool((bits > SMALLEST).any()):
                bits[(raw - bits).where(bits > SMALLEST, torch.inf).argmin()] -= 1
        while True:
            total = bitops(self.products, self.quantizers.bits_of_products())
            (more,) = torch.autograd.grad(total, bits)  # what one bit more costs
            fits = (raw > bits) & (total.detach() + more <= self.budget)
            if not bool(fits.any()):
                return
            with torch.no_grad():
                bits[(raw - bits).where(fits, -torch.inf).argmax()] += 1

    def loss(self, images: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """The loss, and the penalty of Eq. 13 while bits move."""
        loss = super().loss(images, targets)
        if self.quantizers.bits is None:
            return loss
        found = bitops(self.products, self.quantizers.bits_of_products())
        excess = torch.relu(found / self.budget - 1).square()
        # Many processes wait for a gradient of everything, frozen or not.
        return loss + (self.search.eta if self.searching() else 0.0) * excess

    def frozen(self) -> list[torch.nn.Parameter]:
        """The bits, where they do not move."""
        bits = self.quantizers.bits
        return [] if bits is None or self.searching() else [bits]
