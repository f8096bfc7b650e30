"""The tables of speed.json, from a small one."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest


@pytest.fixture
def tables(result_module: Callable[[str], ModuleType]) -> ModuleType:
    return result_module("speed_tables")


def engine(name: str, ms: float, times: float | None, precision: str | None) -> dict[str, Any]:
    return {
        "name": name,
        "precision": precision,
        "milliseconds": {"median": ms, "low": ms, "high": ms},
        "times": None if times is None else {"median": times, "low": times, "high": times},
        "file_bytes": 6_200_000,
        "peak_bytes_above_empty": 25_000_000,
        "start_seconds": 0.05,
    }


def row(batch: int, doubts: list[str]) -> dict[str, Any]:
    return {
        "model": "deit_t",
        "batch": batch,
        "threads": 2,
        "doubts": doubts,
        "versions": {"mnq": "1.0", "numpy": "2.0"},
        "machine": {"processor": "Acme 9000", "cores": 2, "features": ["avx2"]},
        "engines": [engine("mnq mixed", 5.0, 1.0, None), engine("peer", 10.0, 2.104, "bf16")],
    }


def test_latency_has_ratios_to_the_first_engine_and_says_where(tables: ModuleType) -> None:
    data = {"rows": {"a": row(1, []), "b": row(8, ["busy"])}}
    assert tables.latency(data).splitlines() == [
        "| model | batch | threads | mnq mixed, ms | peer |",
        "|---|---|---|---|---|",
        "| deit_t | 1 | 2 | 5.00 | x2.10 |",
        "| deit_t | 8 | 2 | 5.00 | x2.10 |",
        "",
        "mnq 1.0, numpy 2.0; Acme 9000, 2 cores (avx2). The machine was noisy in 1 of 2 rows.",
    ]


def test_a_ratio_that_no_round_gave_is_a_dash(tables: ModuleType) -> None:
    data = {"rows": {"a": row(1, [])}}
    data["rows"]["a"]["engines"][1]["times"] = None
    assert "| deit_t | 1 | 2 | 5.00 | - |" in tables.latency(data)


def test_sizes_are_those_of_a_model_s_first_row(tables: ModuleType) -> None:
    data = {"rows": {"a": row(1, []), "b": row(8, [])}}
    assert tables.size(data).splitlines()[2:] == [
        "| deit_t | mnq mixed | 6.2 | 25 | 50 | none |",
        "| deit_t | peer | 6.2 | 25 | 50 | bf16 |",
    ]
