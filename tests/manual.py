"""A manual clock for the engine: time passes when the test advances it, and no test sleeps."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from threading import get_ident
from typing import Any

from batchify.decorator import Batched, default_name
from batchify.engine.seam import Seam, ThreadBell
from batchify.options import DEFAULT_EXIT_TIMEOUT, DEFAULT_SIZE, UNSET, Options
from tests.limits import LIMIT


class ManualSeam(Seam):
    """A seam with real threads, and a clock that stands still until `advance`."""

    def __init__(self) -> None:
        self.now = 0.0
        self.changed = threading.Condition()
        self.workers: set[int] = set()
        self.asleep: dict[int, tuple[ManualBell, float | None]] = {}
        self.wakeups = 0

    def clock(self) -> float:
        return self.now

    def bell(self) -> ManualBell:
        return ManualBell(self)

    def spawn(self, target: Callable[..., None], args: tuple[Any, ...], name: str) -> Any:
        def life() -> None:
            me = get_ident()
            with self.changed:
                self.workers.add(me)
                self.changed.notify_all()
            try:
                target(*args)
            finally:
                with self.changed:
                    self.workers.discard(me)
                    self.changed.notify_all()

        thread = threading.Thread(target=life, name=name, daemon=True)
        thread.start()
        with self.changed:
            assert self.changed.wait_for(
                lambda: thread.ident in self.workers or not thread.is_alive(), LIMIT
            )
        return thread

    def rest(self) -> None:
        """Wait until every worker sleeps."""
        with self.changed:
            assert self.changed.wait_for(lambda: self.workers <= set(self.asleep), LIMIT)

    def advance(self, seconds: float) -> None:
        """Advance the clock, wake the threads that are due, and wait until they sleep again."""
        self.rest()
        with self.changed:
            self.now += seconds
            due = [
                bell for bell, end in self.asleep.values() if end is not None and end <= self.now
            ]
        for bell in due:
            bell.ring()
        self.rest()


class ManualBell(ThreadBell):
    """A bell at which workers' timeouts use the manual clock."""

    def __init__(self, seam: ManualSeam) -> None:
        super().__init__()
        self.seam = seam

    def ring(self, _: object = None) -> None:
        with self.seam.changed:
            sleepers = [who for who, (bell, _) in self.seam.asleep.items() if bell is self]
            for who in sleepers:
                del self.seam.asleep[who]
        super().ring()

    def wait(self, timeout: float | None) -> bool:
        me, seam = get_ident(), self.seam
        if me not in seam.workers:
            return super().wait(timeout)
        if timeout is not None and timeout <= 0:
            return super().wait(0)
        with seam.changed:
            if not super().wait(0):  # else it was rung before the worker slept
                seam.asleep[me] = (self, None if timeout is None else seam.now + timeout)
                seam.changed.notify_all()
            else:
                return True
        super().wait(None)
        with seam.changed:
            seam.wakeups += 1
        return True


def batched_with(seam: Any, function: Any, **options: Any) -> Any:
    """Return `batched(function, **options)` with an engine on the test's own seam."""
    given: dict[str, Any] = {
        "size": DEFAULT_SIZE,
        "linger": 0.0,
        "workers": 1,
        "capacity": UNSET,
        "key": None,
        "weight": None,
        "max_weight": None,
        "dedupe": False,
        "isolate": False,
        "on_error": None,
        "executor": None,
        "broker": None,
        "exit_timeout": DEFAULT_EXIT_TIMEOUT,
        "name": None,
        **options,
    }
    return Batched(function, Options.checked(**given, default_name=default_name(function)), seam)


class Gated:
    """A batch function that records its batches, and blocks each until the test releases it."""

    def __init__(self, *, is_open: bool = False) -> None:
        self.batches: list[list[Any]] = []
        self.changed = threading.Condition()
        self.permits = 0
        self.is_open = is_open

    def __call__(self, items: list[Any]) -> list[Any]:
        with self.changed:
            self.batches.append(list(items))
            self.changed.notify_all()
            assert self.changed.wait_for(lambda: self.is_open or self.permits, LIMIT)
            if not self.is_open:
                self.permits -= 1
        return [("done", item) for item in items]

    def wait_started(self, count: int) -> None:
        """Wait until `count` batches have started in all."""
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.batches) >= count, LIMIT), self.batches

    def release(self, count: int = 1) -> None:
        """Release `count` batches."""
        with self.changed:
            self.permits += count
            self.changed.notify_all()

    def open(self) -> None:
        """Release all batches, including later ones."""
        with self.changed:
            self.is_open = True
            self.changed.notify_all()


def in_thread(function: Callable[..., Any], *args: Any) -> Call:
    """Run `function(*args)` in a new thread."""
    return Call(function, args)


class Call:
    """A call in another thread, with its result or error."""

    def __init__(self, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
        self._value: Any = None
        self._error: BaseException | None = None
        self.ident: int | None = None

        def run() -> None:
            try:
                self._value = function(*args)
            except BaseException as error:
                self._error = error

        self.thread = threading.Thread(target=run, daemon=True)
        self.thread.start()

    def result(self, timeout: float = LIMIT) -> Any:
        self.thread.join(timeout)
        assert not self.thread.is_alive(), "the call hangs"
        if self._error is not None:
            raise self._error
        return self._value

    def is_done(self) -> bool:
        return not self.thread.is_alive()


def batchify_threads() -> set[threading.Thread]:
    """Return batchify's threads; those of other tests may be about to end."""
    return {thread for thread in threading.enumerate() if thread.name.startswith("batchify:")}


def until(fact: Callable[[], Any]) -> None:
    """Wait until `fact()` is true, for facts that no event announces."""
    end = time.monotonic() + LIMIT
    while not fact():
        assert time.monotonic() < end, "it did not become true in time"
        time.sleep(0.001)
