"""The tables of qat_MODEL.json and qat_cost.json, from small ones."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
from result_data import cells, data


@pytest.fixture
def tables(result_module: Callable[[str], ModuleType]) -> ModuleType:
    return result_module("qat_tables")


def row(name: str, bits: int, epochs: int, agreement: float, **more: Any) -> dict[str, Any]:
    figures = {"top1": agreement - 5, "agreement": agreement, "logit_sqnr_db": agreement / 10}
    return {"map": name, "bits": bits, "epochs": epochs, **figures, **more}


def test_what_training_recovers_is_of_what_calibration_lost(tables: ModuleType) -> None:
    found = tables.judged(data(row("ivit", 6, 5, 90.0), row("ivit", 6, 0, 80.0))).splitlines()
    assert cells(found[2])[:2] == ["32", "float"]
    before, after = map(cells, found[3:5])
    assert before[2] == "0 (calibrated only)" and before[-1] == "-"
    assert after == ["6", "ivit", "5", "1", "85.0", "90.0", "9.0", "50 %"]


def test_seeds_are_one_row_with_their_spread(tables: ModuleType) -> None:
    rows = [row("ivit", 8, 5, a) for a in (96.0, 97.0, 98.0)]
    found = tables.judged(data(row("ivit", 8, 0, 94.0), *rows)).splitlines()
    assert len(found) == 7  # two of the head, the float model, two rows, and the source below
    assert cells(found[4])[3:] == ["3", "92.0 ± 1.0", "97.0 ± 1.0", "9.7 ± 0.1", "50 %"]


def test_a_row_without_its_calibrated_one_recovers_nothing_known(tables: ModuleType) -> None:
    found = tables.judged(data(row("mixed", 4, 1, 60.0))).splitlines()
    assert cells(found[3])[-1] == "-"


def test_wider_codes_come_first_and_maps_in_the_order_of_the_file(tables: ModuleType) -> None:
    rows = [row(name, bits, 0, 90.0) for bits in (4, 8) for name in ("b", "a")]
    lines = tables.judged(data(*rows)).splitlines()[3:7]
    assert [tuple(cells(line)[:2]) for line in lines] == [
        ("8", "b"),
        ("8", "a"),
        ("4", "b"),
        ("4", "a"),
    ]


def test_the_source_says_what_was_verified(tables: ModuleType) -> None:
    verified = {"images": 256, "tensors": 129, "differing_integers": 0}
    found = tables.judged(data(row("mixed", 8, 0, 90.0, verified=verified)))
    expected = "mixed, 8 bits, 0 epochs: 0 of the integers of 129 tensors on 256 images differ"
    assert expected in found
    assert "rate 1e-05 at 8 bits" in found and "500 images of others.zip" in found


def test_cost_is_time_times_float_and_memory(tables: ModuleType) -> None:
    cost = {
        **{"model": "tiny", "batch": 32, "threads": 2, "kernels": "amx"},
        "versions": {"torch": "2"},
        "machine": {"processor": "a CPU"},
        "rows": {"float": {"milliseconds_per_image": 50.2, "times_float": 1, "megabytes": 3000.4}},
        "products": {"float32": 8.76},
    }
    assert cells(tables.cost(cost).splitlines()[2]) == ["float", "50", "x1.00", "3000"]
    assert "batch 32, 2 threads, kernels by amx" in tables.cost(cost)
    assert cells(tables.products(cost).splitlines()[2]) == ["float32", "8.8"]
