"""The table of qvit_MODEL.json, from a small one."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
from result_data import cells, data


@pytest.fixture
def tables(result_module: Callable[[str], ModuleType]) -> ModuleType:
    return result_module("qvit_tables")


def row(variant: str, bits: int, top1: float, **more: Any) -> dict[str, Any]:
    figures = {"top1": top1, "agreement": top1 + 5, "bitops": 0.99, "budget": 1.0}
    sizes = {"file": 80, "constants": 60, "constants_int8": 100}
    return {"variant": variant, "bits": bits, "map": "lut", **figures, "bytes": sizes, **more}


def test_more_bits_come_first_and_seeds_are_one_row(tables: ModuleType) -> None:
    rows = [row("Q-ViT", 3, 70.0), row("Q-ViT", 3, 72.0), row("LSQ+", 4, 71.0)]
    found = tables.learned(data(*rows)).splitlines()
    assert len(found) == 7  # two of the head, the float model, two rows, and the source below
    assert cells(found[3]) == ["4", "LSQ+", "lut", "1", "99.0", "71.0", "76.0", "0.60, 0.67"]
    assert cells(found[4])[:4] == ["3", "Q-ViT", "lut", "2"]
    assert cells(found[4])[5:7] == ["71.0 ± 1.4", "76.0 ± 1.4"]


def test_the_source_says_what_was_verified(tables: ModuleType) -> None:
    checked = {"images": 256, "tensors": 74, "differing_integers": 0}
    checked |= {"answers": 500, "differing_answers": 0}
    last = tables.learned(data(row("Q-ViT", 4, 70.0, verified=checked))).splitlines()[-1]
    assert "0 of the integers of 74 tensors on 256 images differ, and 0 of 500 answers" in last
    assert tables.learned(data(row("Q-ViT", 4, 70.0))).count("exported file: -. ") == 1
