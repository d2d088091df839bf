"""The background loop: one event loop in a thread, for async calls from threads without a loop.

The loop runs while a `Home` refers to it. Only the thread of the loop decides that the loop ends.
A caller registers first and then reads that decision, so no caller gets a loop that is ending.
Callers are the engines of `async def` functions (`loops`).

CPython runs `__del__` before it clears weak references: a weak reference to an object whose
`__del__` stops the loop would return that object while it is being finalized.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
from _thread import LockType, allocate_lock
from collections.abc import Callable
from contextvars import Context
from threading import get_ident
from typing import Any

from ..future import BatchFuture
from ..interpreter import has_greenlets, monotonic
from ..loopfuture import Port, port_of
from . import lifecycle
from .mending import live_on
from .seam import Seam


class Background:
    """One event loop in a thread. Both sides write first, then look.

    Attributes:
        port: the port of its loop.
        users: one token for each `Home`.
        ended: not empty once the loop ends. A list, as without a GIL its methods pass a lock, which
            keeps the order of the writes.
    """

    def __init__(self) -> None:
        self.users: set[object] = set()
        self.ended: list[None] = []
        self.port = port_of(_new_loop())
        self.turn: LockType | None = None  # of the callers that run the loop, if no thread does

    def start(self, seam: Seam) -> None:
        """Start the thread. The loop must have a user already, or the thread ends at once.

        If no thread can start during exit, the callers run the loop, see `Home.run_until`.

        Raises:
            RuntimeError: no thread can be started.
        """
        claim = allocate_lock()  # one C call decides who closes the loop
        try:
            seam.spawn(_run, (self, claim), "batchify:background")
        except BaseException as error:  # also a signal handler's: the thread may have started
            if isinstance(error, RuntimeError) and lifecycle.must_caller_work():
                self.turn = allocate_lock()
                return
            if claim.acquire(False):
                self.port.loop.close()
            raise  # else the thread closes it, when its user is gone

    def end_if_unused(self) -> None:
        """Stop the loop if it has no user. Runs on the loop's thread."""
        if self.users:
            return
        self.ended.append(None)
        if self.users:  # registered meanwhile: it may have looked before the append
            self.ended.clear()
            return
        self.port.loop.stop()


class Home:
    """Keeps the background loop running while it exists."""

    __slots__ = ("_background", "_token")

    def __init__(self, background: Background) -> None:
        self._token = object()
        self._background = background
        background.users.add(self._token)

    @property
    def port(self) -> Port:
        """The port of the loop."""
        return self._background.port

    def is_ended(self) -> bool:
        """Return True if the loop does not run any more."""
        return bool(self._background.ended)

    def run_until(self, future: BatchFuture[Any]) -> None:
        """Run the loop until `future` is done, if the loop has no thread."""
        port, turn = self.port, self._background.turn
        if turn is None:
            return

        def stop(_: object) -> None:
            port.call(port.loop.stop)

        with turn:
            port.thread = get_ident()
            if future._watch([stop]):
                port.loop.run_forever()
            port.thread = 0

    # A default: at the end of the process the names of a module may be gone by now. So may those
    # of asyncio; and then no thread runs any more.
    def __del__(self, is_finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        if hasattr(self, "_background") and not is_finalizing():
            background = self._background
            background.users.discard(self._token)
            background.port.call(background.end_if_unused)


def _new_loop() -> asyncio.AbstractEventLoop:
    loop = Context().run(asyncio.new_event_loop)  # its pipe keeps the context
    with contextlib.suppress(AttributeError):  # uvloop has a clock of its own
        loop.time = monotonic  # type: ignore[method-assign]
    return loop


_background: Background | None = None
_lock = threading.RLock()


def new_home(seam: Seam) -> Home:
    """Return a home on the background loop; start the loop if none runs."""
    global _background
    with _lock:
        found = home_of(None if _background is None else _background.port)
        if found is not None:
            return found
        if has_greenlets():
            # asyncio takes a greenlet for the thread that it is in: the callers would seem to be
            # on this loop.
            raise RuntimeError(
                "an async function is called without a running event loop: that needs a thread of "
                "its own, and gevent has patched the threads (call it on a loop, or use a def)"
            )
        made = Background()
        home = Home(made)
        made.start(seam)
        _background = made
        return home


def home_of(port: Port | None) -> Home | None:
    """Return a home on the background loop if `port` is the port of that loop and it runs."""
    background = _background
    if background is None or background.port is not port:
        return None
    home = Home(background)
    return None if home.is_ended() else home


def _forget() -> None:
    global _background, _lock
    _background, _lock = None, threading.RLock()


lifecycle.after_fork_in_child(_forget)


# ---- the thread ----


class _Mine(threading.local):
    """The background loop that this thread runs.

    Not in the frame of that thread: the tracebacks of all batches lead there by `f_back`.
    """

    background: Background


_mine = _Mine()


def _run(background: Background, claim: LockType) -> None:
    if not claim.acquire(False):  # `start` was interrupted, and has closed the loop
        return
    background.port.thread = get_ident()
    _mine.background = background
    del background, claim
    try:
        live_on(_run_forever, lambda: "the background loop")
        loop = _mine.background.port.loop
        if not loop.is_closed():
            loop.run_until_complete(loop.shutdown_asyncgens())
    finally:
        _end()


def _run_forever() -> None:
    """Run the loop until it is unused, also when a batch stops it."""
    while not (_mine.background.ended or _mine.background.port.loop.is_closed()):
        _mine.background.port.loop.run_forever()


def _end() -> None:
    """Close the loop, and fail the items that are left if user code closed it before."""
    global _background
    background = _mine.background
    background.ended.append(None)
    with _lock:
        if _background is background:
            _background = None
    background.port.loop.close()
    for engine in list(background.port.engines):
        engine.loop_closed()
