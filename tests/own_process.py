"""Run a script, or a function of a test module, in a separate process.

Functions that count threads, descriptors or memory need this, because the process of pytest has
others, especially under pytest-xdist.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from textwrap import dedent

from tests.limits import LIMIT

ROOT = Path(__file__).parent.parent


def in_own_process(module: str, call: str) -> None:
    """Evaluate `call`, such as `"_grow(100)"`, in `tests.<module>`; fail with what it raises."""
    command = [sys.executable, "-c", f"import tests.{module} as module; module.{call}"]
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=LIMIT
    )
    assert done.returncode == 0, done.stderr


def run_script(
    where: Path, script: str, *arguments: str, options: tuple[str, ...] = ()
) -> subprocess.CompletedProcess[str]:
    """Write `script` to `app.py` in the directory `where`, and run it there to its end."""
    (where / "app.py").write_text(dedent(script))
    return subprocess.run(
        [sys.executable, *options, "app.py", *arguments],
        cwd=where,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )


def output_of_script(
    where: Path, script: str, *arguments: str, options: tuple[str, ...] = ()
) -> str:
    """Return what `script` printed; it must end well, and write nothing to stderr."""
    ended = run_script(where, script, *arguments, options=options)
    assert ended.stderr == ""
    assert ended.returncode == 0
    return ended.stdout
