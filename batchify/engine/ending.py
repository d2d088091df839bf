"""What ends before its batch: items that are cancelled, and those whose deadline comes."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from ..errors import late_error
from ..forming import Waiting
from ..future import CANCELLED, ERROR, RESULT, BatchFuture, Done, Failure, Refused
from ..loopfuture import LoopFuture
from .mending import mended
from .running import Running


class Ending(Running):
    """An engine as far as its items go, with a batch or without."""

    @mended
    def cancel(self, future: BatchFuture[Any]) -> bool:
        """Take out one item; see `BatchFuture.cancel`."""
        if self._is_nested():
            return self._cancel_in_between(future)
        with self._lock:
            self._begin()
            is_late = self._is_too_late(future)
            if not is_late:
                self._cancel(future)
                self._look()
            self._end()
        self._after()
        return future._s is CANCELLED if is_late else True

    @staticmethod
    def _is_too_late(future: BatchFuture[Any]) -> bool:
        state = future._s
        return state.__class__ is Done or (state.is_running and future.__class__ is not LoopFuture)

    def _cancel(self, future: BatchFuture[Any]) -> None:
        state, count = future._s, future._count
        if state.__class__ is Done:  # a finalizer has cancelled it just now
            return
        self._ended[future] = future._v
        if state.is_running:
            future._s = CANCELLED  # detached: the batch goes on without it
            self.counts.cancelled += count
            self.forming.running -= count
        else:
            was_accepted = self.forming.end(future)
            if was_accepted:
                self.counts.cancelled += count
            elif was_accepted is not None:
                self.counts.gave_up += 1

    def _cancel_in_between(self, future: BatchFuture[Any]) -> bool:
        """`cancel`, in a handler or a finalizer: who holds the lock takes it out (`_take_out`).

        Until then it may be where it was; so whoever takes something looks whether it is done.
        """
        if self._is_too_late(future):
            return future._s is CANCELLED
        state, count = future._s, future._count
        self._ended[future] = future._v
        future._s = CANCELLED
        if state.__class__ is Waiting:
            self.counts.gave_up += 1
        else:
            self.counts.cancelled += count
        self._nested.append(future)
        return True

    def _take_out(self, future: BatchFuture[Any]) -> None:
        if not any(future in batch.futures for batch in self.batches):
            future._v = None
        self._recount()

    @mended
    def fail_stuck(self, future: BatchFuture[Any], error: Callable[[], Exception]) -> None:
        """Fail an item that can never start, so that its waiter can continue."""
        with self._lock:
            self._begin()
            state, count = future._s, future._count
            if not (state.__class__ is Done or state.is_running):
                self._ended[future] = future._v
                kind = Refused if state.__class__ is Waiting else Failure
                value: Any = kind(error())
                is_chunk = future._is_chunk  # the result of which is a list of outcomes
                was_accepted = self.forming.end(
                    future, RESULT if is_chunk else ERROR, [value] * count if is_chunk else value
                )
                if was_accepted:
                    self.counts.failed += count
                elif was_accepted is not None:
                    self.counts.rejected += 1
            self._look()
            self._end()
        self._tell_admitted(state)
        self._after()

    @mended
    def expire(self) -> float | None:
        """End what is overdue; gives the next deadline."""
        with self._lock:
            self._begin()
            self._end_overdue(self.seam.clock())
            when = self.forming.deadline
            self._next_deadline = math.inf if when is None else when
            self._look()
            self._end()
        self._after()
        return when

    def _end_overdue(self, now: float) -> None:
        for future in self.forming.overdue(now):
            state = future._s
            if state.__class__ is Done or state.is_running:
                continue
            self._ended[future] = future._v
            late = late_error(self.options.name)
            failure = Failure(late)
            self._report_errors([failure])
            if self.forming.end(future, ERROR, failure) is None:
                failure.note_asked()  # no caller has it
                continue
            self.counts.expired += 1
            self._tell_admitted(state)
