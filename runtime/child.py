"""A module of mnq run in a process of its own: what must not disturb, or be disturbed by, ours."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from typing import Any


class ChildFailed(Exception):
    """The process gave no answer; the text says how it ended."""


def run(module: str, *arguments: object) -> dict[str, Any]:
    """The JSON object that `python -m module arguments` prints as its last line.

    Raises ChildFailed if there is none, with the last line of what it wrote to standard error.
    """
    command = [sys.executable, "-P", "-m", module, *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    try:
        answer = json.loads(done.stdout.splitlines()[-1])
        if done.returncode == 0 and isinstance(answer, dict):
            return answer
    except (IndexError, ValueError):
        pass
    if done.returncode < 0:
        raise ChildFailed(f"it ended with signal {signal.Signals(-done.returncode).name}")
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    raise ChildFailed(lines[-1].strip()[:300] if lines else f"status {done.returncode}")
