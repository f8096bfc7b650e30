"""Makes the helper modules `ops_*.py` of this folder importable for its tests.

Pytest's importlib mode puts no folder on the path; the prefix keeps these names apart from
those of other folders.
"""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))
