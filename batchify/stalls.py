"""Watch the items that tasks of async batches wait for, and end those that can never start.

A batch that awaits an item directly is checked before it waits (`waits`). If it waits through
`gather`, `wait`, `shield`, `as_completed`, a `TaskGroup` or a task of its own, the wait is known
only when its task and those that it started are suspended. So the futures that such tasks wait for
are noted, and the loop checks them in its next step, and again while some are queued. An item
fails with `Deadlock` if two checks, one step apart, find the same endless wait.
"""

from __future__ import annotations

import asyncio
from contextvars import Context
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from . import progress, waits
from .errors import Deadlock
from .progress import Progress
from .taskgraph import awaited

if TYPE_CHECKING:
    from .future import BatchFuture

FIRST_PAUSE, LAST_PAUSE = 0.001, 1.0  # seconds between two checks; each pause doubles


class Watch:
    """The futures of one event loop that tasks of batches wait for."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._new: list[BatchFuture[Any]] = []  # since the last check
        self._futures: WeakKeyDictionary[BatchFuture[Any], Progress] = WeakKeyDictionary()
        self._timer: asyncio.TimerHandle | None = None
        self._is_next = False  # the loop checks in its next step
        self._pause = FIRST_PAUSE
        self._stuck: dict[Any, Any] = {}  # what the previous check found

    def add(self, future: BatchFuture[Any]) -> None:
        """Watch `future`, for which a task of a batch is about to wait."""
        self._new.append(future)
        if not self._is_next:
            self._pause = FIRST_PAUSE
            self._check_soon()

    def _check_soon(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._is_next = True
        self._loop.call_soon(self._check, context=Context())

    def _check(self) -> None:
        self._timer, self._is_next = None, False
        for future in [future for future in self._futures if future.done()]:
            del self._futures[future]
        queued = [future for future in self._futures if _is_queued(future)]
        for future in self._new:
            if _is_queued(future) and future not in self._futures:
                queued.append(future)
                self._futures[future] = Progress(future._engine())
        self._new.clear()
        before, self._stuck = self._stuck, self._endless(queued)
        if self._stuck:
            if self._stuck == before:  # else callbacks that are due may still end one of the waits
                for future in self._stuck:
                    _fail(future, self._stuck[future])
                self._stuck = {}
            self._check_soon()
        elif queued:
            for future in queued:
                self._futures[future].check()
            self._timer = self._loop.call_later(self._pause, self._check, context=Context())
            self._pause = min(2 * self._pause, LAST_PAUSE)

    def _endless(self, queued: list[BatchFuture[Any]]) -> dict[Any, dict[Any, Any]]:
        """Return the items that can never start and that batches wait for, with these batches."""
        found: dict[Any, dict[Any, Any]] = {}
        by_state: dict[Any, dict[Any, Any] | None] = {}
        for future in queued:
            state = future._s
            if state not in by_state:
                by_state[state] = waits.who_waits(future, None, self._indirect(queued))
            holders = by_state[state]
            if holders is not None and _is_awaited(future, holders):
                found[future] = holders
        return found

    def _indirect(self, queued: list[BatchFuture[Any]]) -> waits.Indirect:
        """Return a function that finds what an async batch of this loop waits for."""
        tasks = {batch: task for task, batch in list(waits.serving_tasks.items())}

        def find(holder: Any) -> tuple[Any, list[Any]] | None:
            task = tasks.get(holder)
            if task is None or task.get_loop() is not self._loop:
                return None
            futures = awaited(task, queued)
            return None if futures is None else (frozenset(futures), list(futures))

        return find


def watch_loop(loop: asyncio.AbstractEventLoop, engine: Any) -> None:
    """Watch a loop that a batch of `engine` runs in its thread, for example by `asyncio.run`."""
    watched = Progress(engine)

    def check() -> None:
        watched.check()
        if not engine.has_stalled:
            loop.call_later(progress.PATIENCE, check, context=Context())

    loop.call_later(progress.PATIENCE, check, context=Context())


def _is_queued(future: BatchFuture[Any]) -> bool:
    state = future._s
    return getattr(state, "is_running", None) is False  # a final state has none


def _is_awaited(future: Any, holders: dict[Any, Any]) -> bool:
    """Return True if one of `holders` waits for `future`."""
    return any(
        future in wait if isinstance(wait, frozenset) else getattr(wait, "target", None) is future
        for wait in holders.values()
    )


def _fail(future: BatchFuture[Any], holders: dict[Any, Any]) -> None:
    engine = future._engine()
    if engine is None:
        return
    name = engine.options.name
    names = {one.engine.options.name for one in holders if hasattr(one, "engine")}
    others = sorted(names - {name})

    def error() -> Deadlock:
        return Deadlock(waits.explain("await", name, others[0] if others else name))

    engine.fail_stuck(future, error)
