"""What `import batchify` costs, against what it is built on.

    python -m benchmarks.imports                 # interleaved; exit 1 above the limit
    python -X importtime -c "import batchify"    # where the time goes

The reference is `import concurrent.futures, wrapt`: what nobody can do without. Each import runs
in an interpreter of its own, in turn; the ratio is taken inside each pair, without what the bare
interpreter takes to start.
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
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True)
    return time.perf_counter() - start


def ratios(repetitions: int) -> list[float]:
    found = []
    for code in ("pass", REFERENCE, OURS):  # the files come into the cache of the system
        seconds(code)
    for _ in range(repetitions):
        bare, reference, ours = seconds("pass"), seconds(REFERENCE), seconds(OURS)
        found.append((ours - bare) / max(reference - bare, 1e-9))
    return found


def loaded(code: str) -> set[str]:
    """The modules that are there after `code`."""
    told = subprocess.run(
        [sys.executable, "-c", f"{code}; import sys; print(*sys.modules)"],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    return set(told.stdout.split())


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.imports",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--repetitions", type=int, default=15)
    parser.add_argument("--slack", type=float, default=1.0, help="times the limit, to fail")
    given = parser.parse_args()
    ratio = median(ratios(given.repetitions))
    more = sorted(loaded(OURS) - loaded(REFERENCE))
    print(f"import batchify takes {ratio:.2f}x of `{REFERENCE}`; the limit is {LIMIT}x")
    print(f"{len(more)} modules more: {' '.join(more)}")
    return 0 if ratio <= LIMIT * given.slack else 1


if __name__ == "__main__":
    sys.exit(main())
