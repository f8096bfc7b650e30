"""Makes the helper modules `ops_*.py` of this folder importable for its tests.

Pytest's importlib mode puts no folder on the path; the prefix keeps these names apart from
those of other folders.
"""

import sys
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parent))


@pytest.fixture(scope="session")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """A folder with every case of the tests that compare back ends, and how many there are."""
    from ops_cases import CASES
    from ops_head_widths import CASES as OF_HEADS
    from ops_replay import record

    folder = tmp_path_factory.mktemp("cases")
    every = {**CASES, **{f"by head, {name}": build for name, build in OF_HEADS.items()}}
    return folder, record(((name, build()) for name, build in every.items()), folder)
