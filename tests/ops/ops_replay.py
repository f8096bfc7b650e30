"""Runs recorded cases on the native library in a process that torch could not live in: under an
emulator or a sanitizer.

`record` writes cases to a folder; `python ops_replay.py FOLDER PATH...` runs them on paths of the
library, and prints the names of paths and cases that gave other integers, as JSON.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mnq.ops.kernels import Kernel

if TYPE_CHECKING:
    from ops_harness import Case


def record(cases: Iterable[tuple[str, Case]], folder: Path) -> int:
    """Write cases with their expected output; returns how many."""
    index: list[dict[str, Any]] = []
    for name, case in cases:
        arrays = {**case.activations, **case.constants}
        inputs = {key: np.asarray(arrays[key]) for key in case.operator.inputs}
        np.savez(folder / f"{len(index)}.npz", expected=case.expected, **inputs)
        index.append(
            {
                "name": name,
                "operator": case.operator.name,
                "inputs": list(inputs),
                "activations": list(case.activations),
                "to": case.attributes.get("to", 0),
            }
        )
    (folder / "index.json").write_text(json.dumps(index))
    return len(index)


def replay(folder: Path, paths: list[str]) -> dict[str, Any]:
    """How many comparisons were made, and "path: case" of each that failed."""
    count, different = 0, []
    for number, entry in enumerate(json.loads((folder / "index.json").read_text())):
        arrays = dict(np.load(folder / f"{number}.npz", allow_pickle=False))
        inputs = {name: arrays[name] for name in entry["inputs"]}
        activations = set(entry["activations"])
        for path in paths:
            kernel = Kernel(entry["operator"], inputs, activations, entry["to"], path)
            for threads in (1, 2):
                y = kernel.run({name: inputs[name] for name in activations}, threads)
                count += 1
                if y.dtype != arrays["expected"].dtype or (y != arrays["expected"]).any():
                    different.append(f"{path}: {entry['name']}")
    return {"comparisons": count, "different": different}


if __name__ == "__main__":
    print(json.dumps(replay(Path(sys.argv[1]), sys.argv[2:])))
