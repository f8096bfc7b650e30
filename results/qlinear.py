"""Measures QLinear alone against the machine's VNNI peak, in turn with a peak loop.

    python results/qlinear.py

Needs g++, the native library and a CPU with AVX-512 VNNI. Builds qlinear.cc, runs it and writes
results/qlinear.json: per path and DeiT-S layer the time and the fraction of the peak. With AMX a
layer can pass the peak of the vector unit; the fraction says by how much.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path

from mnq.ops.files import write_atomically
from mnq.ops.library import library_path, why_no_library
from mnq.runtime.machine import processor

RESULTS = Path(__file__).parent
OUTPUT = RESULTS / "qlinear.json"
LAYERS = {(384, 1152): "qkv", (384, 384): "proj", (384, 1536): "fc1", (1536, 384): "fc2"}


def main() -> None:
    """Build, measure and write results/qlinear.json."""
    library = library_path()
    if library is None:
        sys.exit(f"qlinear: expected the native library, found none: {why_no_library()}")
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder) / "qlinear"
        source = RESULTS / "qlinear.cc"
        command = ["g++", "-std=c++17", "-O2", "-mavx512vnni", f"-I{RESULTS.parent}", str(source)]
        command += [str(library), f"-Wl,-rpath,{library.parent}", "-o", str(program)]
        subprocess.run(command, check=True)
        done = subprocess.run([str(program)], check=True, capture_output=True, text=True)
    rows = []
    for line in done.stdout.splitlines():
        path, *shape, seconds, median, low, high = line.split()
        tokens, inner, outer = map(int, shape)
        rows.append(
            {
                "path": path,
                "layer": LAYERS[inner, outer],
                "shape": [tokens, inner, outer],
                "microseconds": round(float(seconds) * 1e6, 1),
                "gmac_per_second": round(tokens * inner * outer / float(seconds) / 1e9),
                "of_vnni_peak": float(median),
                "of_vnni_peak_percentiles_10_90": [float(low), float(high)],
            }
        )
        print(rows[-1])
    result = {
        "rows": rows,
        "threads": 1,
        "machine": {"processor": processor(), "cores": os.cpu_count()},
        "versions": {"mnq": metadata.version("mnq")},
    }
    write_atomically(OUTPUT, (json.dumps(result, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
