"""All loops of one `async def` function, and the background loop for callers without one."""

from __future__ import annotations

import asyncio
import sys
import threading
from _thread import LockType, allocate_lock
from asyncio import _get_running_loop as running_loop
from collections.abc import Callable
from contextvars import Context
from dataclasses import replace
from threading import get_ident
from typing import Any
from weakref import ref

from ..forming import Route
from ..future import BatchFuture
from ..interpreter import has_gil, has_greenlets
from ..loopfuture import LoopFuture, Port, port_of
from ..observe import EVERYWHERE, Observers
from ..options import Live, Options
from ..stats import Stats, added
from ..tracing import tracer_of
from . import lifecycle
from .base import limits_of
from .looking import CLOSED, CLOSING, OPEN
from .loop import LoopEngine, attend
from .mending import live_on
from .seam import Seam

# ---- callers without a loop ----


class Background:
    """One event loop in a thread, as long as somebody holds this object."""

    def __init__(self, seam: Seam) -> None:
        if has_greenlets():
            # asyncio takes a greenlet for the thread that it is in: the callers would seem to be
            # on this loop.
            raise RuntimeError(
                "an async function is called without a running event loop: that needs a thread of "
                "its own, and gevent has patched the threads (call it on a loop, or use a def)"
            )
        loop = None
        claim = allocate_lock()  # whose the end of the loop is: one C call decides
        try:
            self.loop = loop = Context().run(asyncio.new_event_loop)  # it keeps it for its pipe
            self.port = port_of(self.loop)
            seam.spawn(_run_background, (self.port, claim), "batchify:background")
        except BaseException:  # no thread to be had; or a signal handler's, and there may be one
            if loop is not None and claim.acquire(False):
                loop.close()
            raise  # else the thread has it, and `__del__` ends it

    # A default: at the end of the process the names of a module may be gone by now. So may those
    # of asyncio; and then no thread runs any more.
    def __del__(self, is_finalizing: Callable[[], bool] = sys.is_finalizing) -> None:
        if hasattr(self, "port") and not is_finalizing():
            self.port.is_ending = True  # asyncio may forget the stop, when an exception comes, too
            self.port.call(self.loop.stop)


class _Mine(threading.local):
    """What the thread of a background loop works with.

    Not in the frame of that thread: the tracebacks of all batches lead there by `f_back`.
    """

    port: Port


_mine = _Mine()


def _run_background(port: Port, claim: LockType) -> None:
    if not claim.acquire(False):  # who started this thread was interrupted, and has closed it
        return
    port.thread = get_ident()
    _mine.port = port
    del port, claim
    try:
        live_on(_run_forever, lambda: "the background loop")
        loop = _mine.port.loop
        loop.run_until_complete(loop.shutdown_asyncgens())
    finally:
        _mine.port.loop.close()


def _run_forever() -> None:
    if not _mine.port.is_ending:
        _mine.port.loop.run_forever()


_background: ref[Background] | None = None
_background_lock = threading.RLock()


def background(seam: Seam) -> Background:
    """The background loop, started when nobody has it."""
    global _background
    with _background_lock:
        found = None if _background is None else _background()
        if found is None:
            found = Background(seam)
            made = None if _background is None else _background()
            if made is not None:  # by a handler or a finalizer, meanwhile
                return made
            _background = ref(found)
        return found


def _background_of(port: Port) -> Background | None:
    """Whose port this is, if it is that of the background loop."""
    found = None if _background is None else _background()
    return found if found is not None and found.port is port else None


def _forget_background() -> None:
    global _background, _background_lock
    _background, _background_lock = None, threading.RLock()


lifecycle.after_fork_in_child(_forget_background)


# ---- all loops of one decorated function ----


class AsyncEngine:
    """The loop engines of one decorated function (or of one instance's)."""

    caller_runs = False  # a loop runs its batches itself

    def __init__(self, live: Live, takes_more: bool, seam: Seam) -> None:
        self.live = live
        self.takes_more = takes_more
        self.seam = seam
        self._engines: dict[Port, LoopEngine] = {}
        self._ways: dict[Port, tuple[Any, ...]] = {}  # what the hot path needs of each loop
        self._home: Background | None = None
        self._gone = Stats()  # what the engines of closed loops did
        self._lock = threading.RLock()
        self.state = OPEN
        self.observers = (EVERYWHERE, Observers(), Observers())
        lifecycle.register(self)

    def here(self) -> LoopEngine:
        """The engine for who calls: of the running loop, or of the background loop."""
        loop = running_loop()
        if loop is None:
            port = self._background_port()
        else:
            port = port_of(loop)
        try:  # not `get`, which takes a lock of the dict without a GIL: see `Engine.forked`
            engine = self._engines[port]
        except KeyError:
            engine = None
        return self._new_engine(port) if engine is None else engine

    def _background_port(self) -> Port:
        if self._home is None:
            with self._lock:
                if self._home is None:
                    self._home = background(self.seam)
        return self._home.port

    def _new_engine(self, port: Port) -> LoopEngine:
        with self._lock:
            engine = self._engines.get(port)
            if engine is not None:
                return engine
            home = _background_of(port)
            if home is not None:  # perhaps called by a batch that runs on it
                self._home = home
            weak = ref(self)

            def on_loop_closed(closed: Port) -> None:
                engines = weak()
                if engines is not None:
                    engines.forget(closed)

            engine = LoopEngine(self.live, self.takes_more, self.seam, port, home, on_loop_closed)
            engine.observers = self.observers
            # First all that looks after it: a signal handler may raise at any instant.
            lifecycle.register(engine)
            try:
                if home is None:
                    port.engines.add(engine)
                    if port.guard is None:
                        attend(port)
                    if port.is_ending:
                        engine.hurry()  # made by a batch that runs at the end of the loop
                if self.state is not OPEN:  # by a handler or a finalizer just now, perhaps
                    engine.closed()
                made = self._engines.setdefault(port, engine)  # or they have made one
            finally:
                if self._engines.get(port) is not engine:
                    port.engines.discard(engine)
            return made

    def forget(self, port: Port) -> None:
        """A loop was closed: keep its counts only."""
        with self._lock:
            engine = self._engines.pop(port, None)
            self._ways.pop(port, None)
            if engine is not None:
                self._gone = added((self._gone, replace(engine.stats(), workers=0)))

    def engines(self) -> list[LoopEngine]:
        with self._lock:
            return list(self._engines.values())

    def submitter(
        self, function: Callable[..., Any], batched: Callable[[], Any]
    ) -> Callable[..., BatchFuture[Any]]:
        """The hot path: a closure that submits one item, on the loop it is called on.

        It does what `Entry.submitter` does, with the parts of each loop at hand: one frame and
        the look-up of a port less are 0.1 of 0.9 us.
        """
        ways = self._ways
        clock = self.seam.clock

        def submit_anywhere(item: Any) -> BatchFuture[Any]:
            engine = self.here()
            return engine.submit(Route(engine, function, batched=batched), item)

        is_simple = has_gil() and tracer_of(self.options.name) is None

        def submit(item: Any, /, *args: Any, **kwargs: Any) -> BatchFuture[Any]:
            if args or kwargs:
                return batched()._call(item, args, kwargs)  # type: ignore[no-any-return]
            loop = running_loop()
            if loop is None or not is_simple:
                return submit_anywhere(item)
            try:
                engine, route, port, intake, append = ways[loop._batchify_port]  # type: ignore[attr-defined]
            except (AttributeError, KeyError):  # the first call on this loop
                new = self.here()
                way = new.submit_here(Route(new, function, batched=batched))
                # Not by a call of itself: a closure that knows itself is a cycle.
                engine, route, port, intake, append = ways[new.port] = way
            future: LoopFuture[Any] = LoopFuture()
            future._v = item
            future._t = clock()
            future._s = route
            future._port = port
            future._callback = None
            future._asyncio_future_blocking = False
            append(future)
            if len(intake) >= engine.need:
                found: BatchFuture[Any] = engine.crowded(future, route)
                return found
            return future

        return submit

    def forked(self) -> None:
        """In the child of a fork: no thread runs the background loop any more."""
        self._lock = threading.RLock()
        self._gone = Stats()
        if self.state is CLOSING:
            self.state = CLOSED
        if self._home is not None:
            engine = self._engines.pop(self._home.port, None)
            if engine is not None:
                engine.home = None
            self._ways.pop(self._home.port, None)
            self._home = None

    @property
    def options(self) -> Options:
        return self.live.now

    def configure(self, option: str, value: object) -> None:
        self.live.change(option, value)
        for engine in self.engines():
            engine.configured()

    def stats(self) -> Stats:
        with self._lock:  # none goes in between
            gone, engines = self._gone, list(self._engines.values())
        parts = (gone, *(engine.stats() for engine in engines))
        return added(parts, limits_of(self.options))

    def set_state(self, state: str) -> None:
        self.state = state
