"""The seam between the engine and the machine: clock, threads, wake-ups, timers of loops.

The engine asks nothing else of the outside, so that the same code runs on real threads, on a
manual clock and under a deterministic scheduler.

There are two times. What options tell (linger, deadlines, delays, the wait for room) goes by the
clock: `sleep_until` and `call_at`. How long a caller waits, for a result or a flush, is a matter of
its own patience, in real seconds: `Bell.wait`.
"""

from __future__ import annotations

import gc
import sys
import threading
from _thread import allocate_lock
from collections.abc import Callable
from contextvars import Context
from typing import TYPE_CHECKING, Any, Protocol

from ..interpreter import BEGAN_WITH_GREENLETS, has_greenlets, monotonic

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

LOOK = 0.05  # seconds, between two looks whether a loop still runs
YEAR = 365 * 24 * 3600.0  # the longest time that a timer of a loop is set to


class Bell(Protocol):
    """A binary wake-up for one sleeper."""

    cargo: Any  # what the ringer wants kept alive until the sleeper is awake

    def ring(self, _: object = None) -> None:  # as a callback it gets the future
        """Wake the sleeper, or let its next wait end at once. Never blocks, never fails."""

    def wait(self, timeout: float | None) -> bool:
        """Sleep until rung, at most `timeout` seconds; True when rung."""
        ...


class Handle(Protocol):
    """A timer of a loop."""

    def cancel(self) -> None:
        """Have nothing called any more."""


class Seam(Protocol):
    """What an engine needs of the machine."""

    def clock(self) -> float:
        """Seconds that never go back."""
        ...

    def bell(self) -> Bell:
        """A new bell, silent."""
        ...

    def spawn(self, target: Callable[..., None], args: tuple[Any, ...], name: str) -> Any:
        """Start a thread; gives something to `join(timeout)`."""
        ...

    def sleep_until(self, bell: Bell, when: float) -> None:
        """Sleep until `bell` is rung, or it is `when` by the clock."""
        bell.wait(when - self.clock())

    def call_at(
        self, loop: AbstractEventLoop, when: float, callback: Callable[..., object], *args: Any
    ) -> Handle:
        """Call `callback(*args)` on `loop`, which runs this, when it is `when` by the clock."""
        delay = min(max(0.0, when - self.clock()), YEAR)
        return loop.call_later(delay, callback, *args, context=Context())  # nobody's


class ThreadBell:
    """A bell made of one raw lock: ring and wait are single C calls.

    A signal handler or a finalizer may come at any instant: there is no state between two
    steps that they could find half done. (`SimpleQueue.get(timeout=)` can sleep for ever on
    CPython <= 3.12, and a `Condition` leaks its lock under signals.)
    """

    __slots__ = ("_lock", "cargo")

    def __init__(self) -> None:
        self._lock = allocate_lock()
        self._lock.acquire()
        self.cargo: Any = None

    def ring(self, _: object = None) -> None:
        try:
            self._lock.release()
        except RuntimeError:  # rung already
            return

    def wait(self, timeout: float | None) -> bool:
        if timeout is None:
            return self._lock.acquire()
        if not timeout > 0:  # also nan; -1 would wait for ever
            return self._lock.acquire(False)
        return self._lock.acquire(True, min(timeout, threading.TIMEOUT_MAX))


class _Started(threading.Event):
    """What `Thread.start` waits for: one C call.

    An `Event` waits in Python. A signal handler that raises there can let go of the event's own
    lock while the new thread holds it, which then dies of that (`release unlocked lock`).
    """

    def __init__(self) -> None:
        super().__init__()
        self._bell = ThreadBell()

    def set(self) -> None:
        super().set()
        self._bell.ring()

    def wait(self, timeout: float | None = None) -> bool:
        return self.is_set() or self._bell.wait(timeout)


class ThreadSeam(Seam):
    """The real machine."""

    # Static: a bound method more would be a call's.
    clock = staticmethod(monotonic)  # pyright: ignore[reportAssignmentType]
    bell = staticmethod(ThreadBell)  # pyright: ignore[reportAssignmentType]

    @staticmethod
    def spawn(  # pyright: ignore[reportIncompatibleMethodOverride]
        target: Callable[..., None], args: tuple[Any, ...], name: str
    ) -> Any:
        if has_greenlets() and not BEGAN_WITH_GREENLETS:
            # The new thread would be a greenlet that sleeps on a real lock, and all others with it.
            raise RuntimeError(
                "gevent has patched the threads after batchify was imported: "
                "call gevent.monkey.patch_all() before anything else is imported"
            )
        # A daemon: the exit hook waits for the work, and may give up a batch that hangs.
        # CPython 3.14 may have it inherit the context of who starts it, here of the first caller.
        nobodys: dict[str, Any] = {"context": Context()} if sys.version_info >= (3, 14) else {}
        thread = threading.Thread(target=target, args=args, name=name, daemon=True, **nobodys)
        thread._started = _Started()  # type: ignore[attr-defined]
        # `start` waits for the thread to run, with the engine's lock held: a finalizer that calls
        # the function must not come in the new thread before that (CPython 3.12 and later).
        if not (gc.isenabled() or _starting):  # the user switched it off
            _start(thread)
            return thread
        try:
            _starting.append(thread)
            gc.disable()
            _start(thread)
        finally:
            if thread in _starting:
                _starting.remove(thread)
            if not _starting:
                gc.enable()
        return thread


def _start(thread: threading.Thread) -> None:
    """Start it; what a signal handler raises meanwhile is raised.

    CPython raises a KeyError instead when the thread runs already: both take note that it started.
    """
    broken_off: BaseException | None = None
    try:
        thread.start()
    except KeyError as error:
        broken_off = error.__context__
        if broken_off is None:
            raise
    if broken_off is not None:
        try:
            raise broken_off
        finally:
            del broken_off  # no cycle through this frame


class Limit:
    """How long a caller waits for several things in a row, in real seconds."""

    __slots__ = ("_end",)

    def __init__(self, timeout: float | None) -> None:
        most = threading.TIMEOUT_MAX / 2
        self._end = None if timeout is None else THREADS.clock() + min(timeout, most)

    def left(self) -> float | None:
        """Return the seconds that are left; None without a limit."""
        return None if self._end is None else max(0.0, self._end - THREADS.clock())


_starting: list[threading.Thread] = []  # while they do, the collector is off


def collect_again() -> None:
    """In the child of a fork: who switched the collector off is not here to switch it on."""
    if _starting:
        _starting.clear()
        gc.enable()


THREADS = ThreadSeam()
