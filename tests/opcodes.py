"""Opcode-level schedules by frontrun, an independent scheduler: a second opinion.

    pip install --group reliability
    python -m tests.opcodes --attempts 1000 --seed 1

frontrun runs a fixed set of threads and replaces the locks of `threading`. The engine's own locks
therefore come from there, and functions for which the engine starts threads run in threads that
exist from the start.
"""

from __future__ import annotations

import argparse
import importlib
import queue
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from batchify import BatchFuture, Closed
from batchify.engine import seam
from tests.limits import LIMIT
from tests.manual import batched_with


class Thread:
    """Runs a function for which the engine starts a thread, in an existing thread."""

    def __init__(self, target: Callable[..., None], args: tuple[Any, ...]) -> None:
        self.call: Any = (target, args)
        self.over = threading.Event()

    def run(self) -> None:
        target, args = self.call
        self.call = None
        target(*args)
        del target, args
        self.over.set()

    def join(self, timeout: float | None = None) -> None:
        self.over.wait(timeout)


class Bell:
    """A bell made of a semaphore. The real bells use a lock that another thread releases, which
    frontrun takes for a thread that waits for itself.
    """

    def __init__(self) -> None:
        self.cargo: Any = None
        self.semaphore = threading.BoundedSemaphore(1)
        self.semaphore.acquire()

    def ring(self, _: object = None) -> None:
        try:
            self.semaphore.release()
        except ValueError:  # rung already
            return

    def wait(self, timeout: float | None) -> bool:
        if timeout is not None and not timeout > 0:
            return self.semaphore.acquire(False)
        return self.semaphore.acquire(True, timeout)


class Spawned(seam.Seam):
    """A seam whose bells and threads frontrun can handle."""

    def __init__(self) -> None:
        self.threads: queue.Queue[Thread | None] = queue.Queue()

    def clock(self) -> float:
        return time.monotonic()

    def bell(self) -> Bell:
        return Bell()

    def spawn(self, target: Callable[..., None], args: tuple[Any, ...], name: str) -> Thread:
        thread = Thread(target, args)
        self.threads.put(thread)
        return thread


CALLERS = 2


class World:
    """One function, two callers, one more thread, and two threads for workers."""

    def __init__(self) -> None:
        self.seam = Spawned()
        self.ran: Counter[str] = Counter()
        ran = self.ran

        def function(items: list[str]) -> list[str]:
            for item in items:
                ran[item] += 1
            return [f"done {item}" for item in items]

        f = batched_with(self.seam, function, size=2, workers=1)
        f._scope()
        self.held = [f] * (CALLERS + 1)
        self.results: dict[str, str] = {}
        self.refused: list[str] = []
        self.futures: list[tuple[str, BatchFuture[Any]]] = []
        self.left = [None] * (CALLERS + 1)

    def submit(self, f: Any, item: str) -> BatchFuture[Any] | None:
        try:
            future: BatchFuture[Any] = f(item)
        except Closed:
            self.refused.append(item)
            return None
        self.futures.append((item, future))
        return future

    def over(self, f: Any = None) -> None:
        """Note that a caller has finished; the last one stops the workers."""
        self.left.pop()
        if not self.left:
            if f is not None:
                f.close()
            self.seam.threads.put(None)

    def work(self) -> None:
        """Run the functions of workers in this thread."""
        while (thread := self.seam.threads.get()) is not None:
            thread.run()
            del thread

    def caller(self, *items: str, keep: bool = True) -> None:
        f = self.held.pop()
        for item in items:
            future = self.submit(f, item)
            if future is not None:
                try:
                    self.results[item] = future.result()
                except Exception as error:
                    self.results[item] = type(error).__name__
                except BaseException as error:
                    self.results[item] = type(error).__name__
        if keep:
            self.over(f)
        else:
            del f
            self.over()


def entry(w: World) -> None:
    """Run two callers; the third thread does nothing."""
    f = w.held.pop()
    f.stats()
    w.over(f)


def close(w: World) -> None:
    f = w.held.pop()
    f.close()
    w.over(f)


def cancel(w: World) -> None:
    f = w.held.pop()
    for item, future in list(w.futures):
        if future.cancel():
            assert not w.ran[item]
    w.over(f)


def drop(w: World) -> None:
    w.held.pop()
    w.over()


PATHS: dict[str, Callable[[World], None]] = {
    "entry": entry,
    "close-against-submit": close,
    "cancel-against-start": cancel,
    "drop-against-submit": drop,
}


def holds(w: World, path: str) -> bool:
    """Return True if the invariants hold at the end."""
    for item in "abc":
        result = w.results.get(item)
        if item in w.refused:
            assert path == "close-against-submit"
            assert result is None
            assert not w.ran[item]
        elif result == "CancelledError":
            assert path == "cancel-against-start"
            assert not w.ran[item]
        else:
            assert result == f"done {item}", w.results
            assert w.ran[item] == 1, w.ran
    return True


def explore(path: str, attempts: int, seed: int, seconds: float) -> Any:
    """Run random schedules of one path; return frontrun's findings."""
    import frontrun
    from frontrun._cooperative import patch_locks

    patch_locks()
    for name in ("entry", "base"):
        module = importlib.import_module(f"batchify.engine.{name}")
        vars(module)["RLock"] = threading.RLock
    is_dropped = path == "drop-against-submit"
    return frontrun.explore_random(
        World,
        [
            lambda w: w.caller("a", "b", keep=not is_dropped),
            lambda w: w.caller("c", keep=not is_dropped),
            PATHS[path],
            World.work,
        ],
        lambda w: holds(w, path),
        max_attempts=attempts,
        max_ops=4000,
        seed=seed,
        detect_io=False,
        timeout_per_run=LIMIT,
        deadlock_timeout=LIMIT,
        total_timeout=seconds,
    )


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.opcodes",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--attempts", type=int, default=100, help="schedules per path")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=600.0, help="maximum seconds per path")
    parser.add_argument("--path", choices=PATHS, action="append")
    asked = parser.parse_args()
    code = 0
    for path in asked.path or PATHS:
        began = time.monotonic()
        found = explore(path, asked.attempts, asked.seed, asked.seconds)
        took = time.monotonic() - began
        print(
            f"{path:24} {found.num_explored:6} schedules, "
            f"{found.unique_interleavings} different, {found.num_explored / took:.0f} a second: "
            f"{'holds' if found.property_holds else 'BROKEN'}",
            flush=True,
        )
        if not found.property_holds:
            print(found.explanation)
            code = 1
    return code


if __name__ == "__main__":
    sys.exit(main())
