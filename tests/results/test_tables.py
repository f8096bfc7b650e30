"""The tables in the documents are those of the result files."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_documents_hold_the_tables_of_the_result_files() -> None:
    command = [sys.executable, str(ROOT / "results" / "tables.py"), "--check"]
    found = subprocess.run(command, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
