"""Models on the provider of GPUs; without one, on the CPU's, with kernels that are emulated.

`python ops_provider.py FOLDER...` prints how many outputs of those test cases differ, as JSON.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import onnx
from onnx import numpy_helper

from mnq.runtime import session


def main(folders: list[Path]) -> None:
    if session.PROVIDERS["cuda"] not in session.load_onnxruntime().get_available_providers():
        session.PROVIDERS["cuda"] = session.PROVIDERS["cpu"]
    differ = 0
    for folder in folders:
        proto = onnx.load(folder / "model.onnx")
        (given, wanted) = (
            numpy_helper.to_array(onnx.load_tensor(folder / "test_data_set_0" / f"{name}_0.pb"))
            for name in ("input", "output")
        )
        opened = session.open_session(proto, provider="cuda", kernels=True)
        (found,) = session.infer(opened, given)
        differ += int(found.dtype != wanted.dtype or not np.array_equal(found, wanted))
    print(json.dumps({"models": len(folders), "differ": differ}))


if __name__ == "__main__":
    main([Path(name) for name in sys.argv[1:]])
