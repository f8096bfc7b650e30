"""What a head costs: all of its bits fall together, and come back."""

from __future__ import annotations

from toolchain_harness import Quantized
from toolchain_learned import learned

from mnq.toolchain.head_sensitivity import FEW_BITS, head_sensitivity
from mnq.toolchain.program import Program


def test_one_head_at_a_time_has_few_bits(quantized: Quantized) -> None:
    model, quantizers = learned(quantized, bits=8)
    seen = []

    def judge(program: Program) -> float:
        bits = model.widths().bits
        seen.append({name: b.tolist() for name, b in bits.items() if FEW_BITS in b})
        return float(len(seen[-1]))

    rows = [*head_sensitivity(quantizers, quantized.graph, model.program, judge)]
    assert [(layer, head) for layer, head, _ in rows] == [
        (f"blocks.{block}.attn", head) for block in (0, 1) for head in (0, 1)
    ]
    assert seen[0] == {} and {lost for _, _, lost in rows} == {-5.0}
    name = "blocks.1.attn"
    assert seen[4] == {  # the second head of the second layer
        f"{name}.qkv": [8, 2, 8, 2, 8, 2],
        f"{name}.qkv:weight": [8, 2, 8, 2, 8, 2],
        f"{name}.context": [8, 2],
        f"{name}.context:softmax": [8, 2],
        f"{name}.proj:weight": [8, 2],
    }
    assert quantizers.bits is not None and bool((quantizers.bits == 8).all())
