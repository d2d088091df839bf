"""Measure `import batchify` against the modules that it cannot do without.

    python -m benchmarks.imports                 # interleaved; exits with 1 above the limit
    python -X importtime -c "import batchify"    # shows where the time goes

The reference is `import concurrent.futures, wrapt`. Each import runs in a new interpreter, in turn.
The ratio is computed for each pair, after subtracting the start of an interpreter without imports.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from statistics import median

REFERENCE = "import concurrent.futures, wrapt"
OURS = "import batchify"
LIMIT = 1.5


def seconds(code: str) -> float:
    """Return the seconds that a new interpreter takes for `code`."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True)
    return time.perf_counter() - start


def ratios(repetitions: int) -> list[float]:
    """Return the ratio of each repetition."""
    found = []
    for code in ("pass", REFERENCE, OURS):  # fill the file cache of the system
        seconds(code)
    for _ in range(repetitions):
        bare, reference, ours = seconds("pass"), seconds(REFERENCE), seconds(OURS)
        found.append((ours - bare) / max(reference - bare, 1e-9))
    return found


def loaded(code: str) -> set[str]:
    """Return the modules that are loaded after `code`."""
    done = subprocess.run(
        [sys.executable, "-c", f"{code}; import sys; print(*sys.modules)"],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    return set(done.stdout.split())


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.imports",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--repetitions", type=int, default=15, help="default: %(default)s")
    parser.add_argument(
        "--slack", type=float, default=1.0, help="fail above this many times the limit (default: 1)"
    )
    given = parser.parse_args()
    ratio = median(ratios(given.repetitions))
    more = sorted(loaded(OURS) - loaded(REFERENCE))
    print(f"import batchify takes {ratio:.2f}x of `{REFERENCE}`; the limit is {LIMIT}x")
    print(f"{len(more)} more modules: {' '.join(more)}")
    return 0 if ratio <= LIMIT * given.slack else 1


if __name__ == "__main__":
    sys.exit(main())
