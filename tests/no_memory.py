"""One allocation fails, the k-th after a worker's batch: the worker goes on all the same.

Every k in turn, with each kind of queue: `python -m tests.no_memory`.
"""

from __future__ import annotations

import _testcapi
import faulthandler
import logging
import sys
import threading
import time
from typing import Any

from batchify import batched
from tests.limits import LIMIT

LATEST = 60  # allocations after a batch; a worker needs some 30 until it sleeps
OPTIONS: list[dict[str, Any]] = [{}, {"size": 1, "capacity": 3}, {"key": len}, {"linger": 0.001}]


def end_of(future: Any) -> Any:
    return future.exception(LIMIT) or future.result(0)


def run(options: dict[str, Any], at: int) -> str | None:
    """Gives what went wrong."""
    gate, is_hit = threading.Event(), []

    def work(items: list[str]) -> list[str]:
        results = list(items)
        if not is_hit:
            assert gate.wait(LIMIT)
            time.sleep(0.002)  # else it might be the main thread that is hit
            is_hit.append(True)
            _testcapi.set_nomemory(at, at + 1)
        return results

    f: Any = batched(work, **options)
    futures = [f("first"), f("next")]
    gate.set()
    time.sleep(0.01)
    _testcapi.remove_mem_hooks()
    futures.append(f.options(timeout=5)("later"))
    ends = [end_of(future) for future in futures]
    f.close(LIMIT)
    stats = f.stats()
    ended = stats.succeeded + stats.failed
    if ends[-1] != "later" or not stats.accepted == ended == 3:
        return f"{options} {at}: {ends}, {stats}"
    return None


def main() -> int:
    faulthandler.dump_traceback_later(LIMIT, exit=True)
    logging.disable(logging.CRITICAL)  # the worker tells of it
    died: list[Any] = []
    threading.excepthook = died.append
    sys.unraisablehook = lambda _: None  # of a log, say
    wrong = [told for options in OPTIONS for at in range(LATEST) if (told := run(options, at))]
    print("\n".join(wrong), f"{len(wrong)} of {len(OPTIONS) * LATEST} went wrong")
    print(f"{len(died)} threads died: {[args.exc_type.__name__ for args in died]}")
    return bool(wrong or died)


if __name__ == "__main__":
    sys.exit(main())
