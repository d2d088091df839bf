"""Run a function of a test module in a process of its own.

For what counts things of the whole process, such as threads, descriptors and memory: the process
of pytest has others, above all under pytest-xdist.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.limits import LIMIT

ROOT = Path(__file__).parent.parent


def in_own_process(module: str, call: str) -> None:
    """Evaluate `call`, such as `"_grow(100)"`, in `tests.<module>`; fail with what it raises."""
    command = [sys.executable, "-c", f"from tests import {module}; {module}.{call}"]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=LIMIT
    )
    assert done.returncode == 0, done.stderr
