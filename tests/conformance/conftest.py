"""Makes the kit, the helper modules `conformance_*.py` and those of `tests/ops` importable."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
for folder in (HERE.parents[1] / "conformance", HERE.parent / "ops", HERE):
    if str(folder) not in sys.path:
        sys.path.append(str(folder))
