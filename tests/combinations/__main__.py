"""Run `python -m tests.combinations`; the package describes it."""

from __future__ import annotations

import argparse
import logging
import random
import time

from hypothesis import Phase, settings
from hypothesis import seed as seeded

from tests.combinations import __doc__ as about
from tests.combinations.plan import Actor, Plan, Round  # noqa: F401 (for --replay)
from tests.combinations.run import make_test, run


def main() -> None:
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--examples", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 32))
    parser.add_argument("--replay", help="a plan, as a failed run prints it")
    parser.add_argument("--times", type=int, default=100, help="how often to replay it")
    parser.add_argument("--shrink", action="store_true", help="look for a smaller plan")
    given_ = parser.parse_args()
    logging.getLogger("batchify").addHandler(logging.NullHandler())
    if given_.replay:
        plan = eval(given_.replay)
        for _ in range(given_.times):
            run(plan)
        return
    print(f"seed {given_.seed}", flush=True)
    began = time.monotonic()
    test = make_test(settings(max_examples=given_.examples), *[Phase.shrink] * given_.shrink)
    seeded(given_.seed)(test)()
    print(f"{given_.examples} examples in {time.monotonic() - began:.0f} s", flush=True)


if __name__ == "__main__":
    main()
