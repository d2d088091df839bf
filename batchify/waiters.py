"""Deadlock detection in `concurrent.futures.wait` and `as_completed`.

Both append a waiter to each future, and then wait for the waiter's event in the caller's thread.
So the event is replaced by one that checks the wait first. `future` makes the lists.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
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
            waiter.event = event  # both callers hold the condition of each future


class _CheckedEvent(Event):
    def __init__(self, waiter: Any) -> None:
        super().__init__()
        # FIRST_COMPLETED and FIRST_EXCEPTION may end with any future.
        self._needs_all = getattr(waiter, "stop_on_exception", True) is False

    def wait(self, timeout: float | None = None) -> bool:
        """Wait; raise `Deadlock` if that could never end."""
        futures = sys._getframe(1).f_locals.get("fs", ())
        pending = [future for future in futures if not future.done()]
        if timeout is not None or not pending or self.is_set():
            return super().wait(timeout)
        for target in map(_First, ([one] for one in pending) if self._needs_all else [pending]):
            waits.check(target, "wait()")
        with waits.waiting(_First(pending)):
            return super().wait()


class _First:
    """The target of a wait that ends with any of `futures`."""

    def __init__(self, futures: Iterable[Any]) -> None:
        self._futures = list(futures)

    def holders(self, me: Any) -> list[Any] | None:
        """Return what must act before any of them can end, see `waits`."""
        found: list[Any] = []
        states: set[Any] = {getattr(future, "_s", None) for future in self._futures}
        for state in states:
            holders = state.holders(me) if hasattr(state, "holders") else None
            if holders is None:
                return None
            found += holders
        return found

    def _function_name(self) -> str:
        names = (future._function_name() for future in self._futures if hasattr(future, "_s"))
        return next(names, "f")
