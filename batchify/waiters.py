"""Deadlock detection in `concurrent.futures.wait` and `as_completed`.

Both append a waiter to each future, and then wait for the event of the waiter in the caller's
thread. So that event is replaced by one that checks each wait first. `future` creates the lists.
"""

from __future__ import annotations

import sys
from threading import Event
from typing import Any

from . import waits


class Waiters(list[Any]):
    """The waiters of one future."""

    def append(self, waiter: Any) -> None:
        """Add `waiter`; if this thread can hold up a batch, its event checks each wait."""
        super().append(waiter)
        if waits.may_hold_up() and type(waiter.event) is Event:
            event = _CheckedEvent(waiter)
            if waiter.event.is_set():
                event.set()
            waiter.event = event  # safe, because both callers hold the condition of each future


class _CheckedEvent(Event):
    def __init__(self, waiter: Any) -> None:
        super().__init__()
        # Waits with FIRST_COMPLETED and FIRST_EXCEPTION may end with any future.
        self._needs_all = getattr(waiter, "stop_on_exception", True) is False

    def wait(self, timeout: float | None = None) -> bool:
        """Wait; raise `Deadlock` if that could never end."""
        futures = sys._getframe(1).f_locals.get("fs", ())
        pending = [future for future in futures if not future.done()]
        if timeout is not None or not pending or self.is_set():
            return super().wait(timeout)
        for target in pending if self._needs_all else ():
            waits.check(_Joined([target], needs_all=True), "wait()")
        target = _Joined(pending, self._needs_all)
        waits.check(target, "wait()")
        with waits.waiting(target):
            return super().wait()


class _Joined:
    """The target of a wait for several futures."""

    def __init__(self, futures: list[Any], needs_all: bool) -> None:
        self._futures = futures
        self._needs_all = needs_all

    def holders(self, me: Any) -> list[Any] | None:
        """Return the threads and batches that must act before the next of them can end."""
        futures = self._futures
        if self._needs_all:
            futures = [future for future in futures if not future.done()]
        states: set[Any] = {getattr(future, "_s", None) for future in futures}
        found: list[Any] = []
        for state in states:
            holders = state.holders(me) if hasattr(state, "holders") else None
            if holders is None:
                return None
            found += holders
        return found or None

    def _function_name(self) -> str:
        names = (future._function_name() for future in self._futures if hasattr(future, "_s"))
        return next(names, "f")
