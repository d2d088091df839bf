"""Run `python -m tests.chaos`; the package describes it."""

from __future__ import annotations

import argparse
import random
import sys
from collections.abc import Sequence

from . import __doc__ as about
from .run import run_chaos
from .soak import Soak, use_plain_malloc


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.chaos",
        description=about,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--items", type=int, help="total number of items (default: 1000000)")
    parser.add_argument("--minutes", type=float, help="run for this long, with any number of items")
    parser.add_argument("--seed", type=int, help="determines the faults (default: random)")
    parser.add_argument("--threads", type=int, default=4, help="threads that submit (default: 4)")
    parser.add_argument("--loops", type=int, default=3, help="event loops that submit (default: 3)")
    parser.add_argument(
        "--stall", type=float, default=60, help="seconds without progress before giving up"
    )
    given = parser.parse_args(arguments)
    seed = random.SystemRandom().getrandbits(32) if given.seed is None else given.seed
    print(f"seed {seed}", flush=True)
    soak = Soak()
    report = run_chaos(
        1_000_000 if given.items is None and given.minutes is None else given.items,
        seed,
        threads=given.threads,
        loops=given.loops,
        seconds=float("inf") if given.minutes is None else given.minutes * 60,
        stall=given.stall,
        soak=soak,
    )
    report.memory = str(soak)
    print(report)
    is_growing = any(slope.is_growth for slope in soak.slopes)
    return 0 if report.is_clean and not is_growing else 1


if __name__ == "__main__":
    use_plain_malloc()
    sys.exit(main())
