"""The k-th allocation after a worker's batch fails, and the worker must continue.

`python -m tests.no_memory` tries every k, with each type of queue.

The hook that makes an allocation fail applies to the whole process. So the main thread sleeps on a
raw lock, and allocates nothing, until the worker sleeps and has removed the hook.
"""

from __future__ import annotations

import _testcapi
import faulthandler
import logging
import sys
import threading
from _thread import allocate_lock
from collections.abc import Callable
from operator import call
from typing import Any

from batchify.engine.seam import ThreadBell, ThreadSeam
from tests.limits import LIMIT
from tests.manual import batched_with

LATEST = 100  # allocations after a batch; a worker needs some 60 until it has nothing to do
OPTIONS: list[dict[str, Any]] = [{}, {"size": 1, "capacity": 3}, {"key": len}, {"linger": 0.001}]


class Seam(ThreadSeam):
    """A seam with real threads; the engine's threads ring `rest` when they sleep or end."""

    def __init__(self) -> None:
        self.rest = allocate_lock()
        self.rest.acquire()
        self.last: Any = None  # a worker without this future has nothing to do

    def bell(self) -> ThreadBell:  # type: ignore[override]
        return Bell(self)

    def spawn(  # type: ignore[override]
        self, target: Callable[..., None], args: tuple[Any, ...], name: str
    ) -> Any:
        def life() -> None:
            try:
                target(*args)
            finally:
                self.end_hit()

        return ThreadSeam.spawn(life, (), name)

    def end_hit(self) -> None:
        """Remove the hook, so that allocations succeed, and wake the main thread."""
        _testcapi.remove_mem_hooks()
        if self.rest.locked():
            self.rest.release()


class Bell(ThreadBell):
    """The bell at which a worker sleeps."""

    def __init__(self, seam: Seam) -> None:
        super().__init__()
        self.seam = seam

    def wait(self, timeout: float | None) -> bool:
        # Not a generator: CPython 3.12 crashes if there is no memory for its frame.
        if self.seam.last is not None and self.seam.last.done():
            self.seam.end_hit()
        return super().wait(timeout)


def end_of(future: Any) -> Any:
    return future.exception(LIMIT) or future.result(0)


def run(options: dict[str, Any], at: int) -> str | None:
    """Return what went wrong."""
    seam, gate, is_hit = Seam(), allocate_lock(), []
    gate.acquire()

    def work(items: list[str]) -> list[str]:
        results = list(items)
        if not is_hit:
            gate.acquire()
            is_hit.append(True)
            _testcapi.set_nomemory(at, at + 1)
        return results

    f: Any = batched_with(seam, work, **options)
    futures = [f("first"), f("next")]
    seam.last = futures[-1]
    any(map(call, (gate.release, seam.rest.acquire)))  # one C call, which cannot be interrupted
    futures.append(f.options(timeout=LIMIT)("later"))
    ends = [end_of(future) for future in futures]
    f.close(LIMIT)
    stats = f.stats()
    ended = stats.succeeded + stats.failed
    if ends[-1] != "later" or not stats.accepted == ended == 3:
        return f"{options} {at}: {ends}, {stats}"
    return None


def main() -> int:
    faulthandler.dump_traceback_later(LIMIT, exit=True)
    logging.disable(logging.CRITICAL)  # the worker reports it
    died: list[Any] = []
    threading.excepthook = died.append
    sys.unraisablehook = lambda _: None  # such as a log handler's
    wrong = [told for options in OPTIONS for at in range(LATEST) if (told := run(options, at))]
    print("\n".join(wrong), f"{len(wrong)} of {len(OPTIONS) * LATEST} went wrong")
    print(f"{len(died)} threads died: {[args.exc_type.__name__ for args in died]}")
    return bool(wrong or died)


if __name__ == "__main__":
    sys.exit(main())
