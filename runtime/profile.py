"""Profile: where the time of a model goes, by operator."""

from __future__ import annotations

import json
import tempfile
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mnq.runtime.engines import session_feed
from mnq.runtime.session import open_session

RUNS = 5


@dataclass(frozen=True)
class Share:
    """An operator: how many nodes, their milliseconds in one run, and their share of all."""

    operator: str
    nodes: int
    milliseconds: float
    share: float


def profile(path: Path, batch: int, threads: int) -> list[Share]:
    """Operators of an exported model, the most expensive first: means of RUNS runs.

    onnxruntime's own profile of a session that nothing else uses; profiling itself takes time.
    """
    with tempfile.TemporaryDirectory(prefix="mnq-") as folder:
        session = open_session(path, threads=threads, profile=Path(folder) / "profile")
        feed = session_feed(session, batch)
        for _ in range(RUNS + 1):
            session.run(None, feed)
        events = json.loads(Path(session.end_profiling()).read_text())
    return shares(events)


def shares(events: list[dict[str, Any]]) -> list[Share]:
    """The operators in onnxruntime's events of RUNS + 1 runs, the first of which is left out."""
    starts = sorted(event["ts"] for event in events if event["name"] == "model_run")
    spent: dict[str, float] = defaultdict(float)
    nodes: dict[str, set[str]] = defaultdict(set)
    for event in events:
        kernel = event.get("cat") == "Node" and event["name"].endswith("_kernel_time")
        if kernel and event["ts"] >= starts[1]:
            operator = event["args"]["op_name"]
            spent[operator] += event["dur"] / 1e3 / RUNS
            nodes[operator].add(event["name"])
    total = sum(spent.values())
    found = [Share(name, len(nodes[name]), ms, ms / total) for name, ms in spent.items()]
    return sorted(found, key=lambda share: -share.milliseconds)
