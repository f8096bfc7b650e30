"""Makes the helper module `cli_runs.py` importable, and one small export for all tests."""

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))

from cli_runs import Digits, mnq


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Digits:
    """The bundled digits as image folders."""
    pytest.importorskip("sklearn")
    from mnq.models.digits import data

    root = tmp_path_factory.mktemp("digits")
    data.write_folder(root / "train", "train")
    data.write_folder(root / "test", "test")
    return Digits(root)


@pytest.fixture(scope="session")
def exported(digits: Digits) -> Digits:
    """The same with `digits.onnx`, calibrated on 16 images, and its `calib.safetensors`."""
    result = mnq(
        *("export", "--model", "digits", "--calib", digits.train, "--images", 16),
        *("--save-calib", digits.calib, "--output", digits.onnx, "--json"),
    )
    assert result.exit_code == 0, result.output
    return digits
