"""The way in: what both drivers share until an item is in a batch.

A caller's way in is `append` and one compare: `len(intake) >= need` (see `looking`).

The lock is re-entrant: a finalizer or a signal handler that comes while a thread holds it finds
it owned, leaves a note (`_nested`), and the holder looks again when it has let go. Who would have
to wait there gets a `Deadlock`: the holder is below it, on the same stack.

A handler may also raise, at any instant of what the main thread does:
- in the middle of a change, which leaves `_is_changing`: the thread mends it on its way out
  (`mended`), or whoever takes the lock next does (`_begin`): all is counted anew, from the states
  of the items. So nothing is taken out of one place before it is in the next;
- after items have ended, before their watchers are told: they stay in `_ended` until they are;
- with a batch in hand: `_lost` finds it. Its items wait again, or end in `BatchAborted` if it had
  begun.
No user code runs under the lock.
"""

from __future__ import annotations

import math
from asyncio import _get_running_loop as running_loop
from collections.abc import Callable
from threading import get_ident
from typing import Any
from weakref import ref

from .. import waits
from ..errors import Deadlock, QueueFull
from ..forming import Grouped, Plain, Room, Route, Waiting
from ..future import CANCELLED, BatchFuture, Done, Refused
from ..loopfuture import LoopFuture, port_of
from ..terms import NO_TERMS, Terms
from ..tracing import keep_origin, tracer_of, tracers
from . import lifecycle
from .looking import OPEN, Looking
from .mending import holding, mended


class Entry(Looking):
    """The way in."""

    has_stalled = False  # a stall was logged, see `progress`

    # ---- in ----

    def submitter(
        self, function: Callable[..., Any], batched: Callable[[], Any]
    ) -> Callable[..., BatchFuture[Any]]:
        """The hot path: a closure that submits one item; extra arguments are not for it."""
        route = Route(self, function, batched=batched)
        intake = self.intake
        append = intake.append
        clock = self.seam.clock
        is_simple = self.has_gil and tracer_of(self.options.name) is None

        def submit(item: Any, /, *args: Any, **kwargs: Any) -> BatchFuture[Any]:
            if args or kwargs:
                return batched()._call(item, args, kwargs)  # type: ignore[no-any-return]
            if not is_simple:
                return self.submit(route, item)
            future: BatchFuture[Any]
            loop = running_loop()
            if loop is None:
                future = BatchFuture()
            else:
                future = self._loop_future(loop)
            future._v = item
            future._t = clock()
            future._s = route
            append(future)
            if len(intake) >= self.need:
                return self.crowded(future, route)
            return future

        return submit

    @mended
    def submit(
        self,
        route: Route,
        item: Any,
        terms: Terms = NO_TERMS,
        *,
        wait: bool = True,
        timeout: float | None = None,
        admitted: Callable[[], object] | None = None,
    ) -> BatchFuture[Any]:
        """Submit one item, with options for the call."""
        future = self._future(item, route)
        if terms is not NO_TERMS:
            future._terms = terms
        is_special = terms.deadline is not None or bool(terms.priority)
        if is_special and not self._is_nested():
            with self._lock:  # before it is where a worker may take it
                self._begin()
                self._sort()
                self._end()
        if self.has_gil:
            self.intake.append(future)
            is_crowded = len(self.intake) >= self.need
        else:
            is_crowded = self._put_in(future)
        if is_crowded or is_special:
            return self.crowded(future, route, wait, timeout, admitted)
        return future

    @holding
    def _put_in(self, future: BatchFuture[Any]) -> bool:
        """The append and the compare as one step, where there is no GIL to make them one."""
        with self._lock:
            self.intake.append(future)
            is_crowded = len(self.intake) >= self.need
        if self._nested:
            self._look_again()
        return is_crowded

    @holding
    def pass_lock(self) -> None:
        with self._lock:
            return

    def _future(self, item: Any, state: Any) -> BatchFuture[Any]:
        """A future for who calls here."""
        loop = running_loop()
        future: BatchFuture[Any] = BatchFuture() if loop is None else self._loop_future(loop)
        future._v = item
        future._t = self.seam.clock()
        future._s = state
        if tracers:
            keep_origin(future, self.options.name)
        return future

    def _loop_future(self, loop: Any) -> LoopFuture[Any]:
        self.has_loop_callers = True
        future: LoopFuture[Any] = LoopFuture()
        future._port = port_of(loop)
        future._callback = None
        future._asyncio_future_blocking = False
        return future

    @holding
    def crowded(
        self,
        future: BatchFuture[Any],
        route: Route,
        wait: bool = True,
        timeout: float | None = None,
        admitted: Callable[[], object] | None = None,
    ) -> BatchFuture[Any]:
        """What a caller does who found the intake as long as `need`."""
        if self._is_nested():
            self._nested.append(future)
            return future
        bell = None
        try:  # as `mended`, without the frame that it costs
            with self._lock:
                self._begin()
                if self.state is not OPEN:
                    self._come_late(future)
                elif future._terms is not NO_TERMS:
                    self._respect(future)
                # Who comes behind those who wait for room changes nothing: no look (half of the
                # instructions of such a call).
                is_last = self.forming.is_pressed and self._is_configured
                if not is_last or self._no_worker is not None:
                    self._look()
                no_worker = self._no_worker
                if (
                    no_worker is not None
                    and self._is_unserved()
                    and not self._hire_caller()
                    and self._take_back(future)
                ):
                    raise self._refused(future, RuntimeError(no_worker))
                if self.forming.is_pressed and self.forming.holds(future):
                    bell = self._have_wait(future, route, wait, admitted)
                    if not is_last:
                        self._look()
                self._end()
            if self._nested:
                self._look_again()
            if bell is not None:
                self._wait_for_room(future, bell, timeout)
            elif timeout is not None and isinstance(future, LoopFuture) and self._waits(future):
                when = self.seam.clock() + timeout
                self.seam.call_at(future._port.loop, when, self._expire, ref(future))
            elif self._is_ending:
                self._wait_at_the_end(future)
        except BaseException:
            self._mend()
            raise
        return future

    def _come_late(self, future: BatchFuture[Any]) -> None:
        """Let in what came just before a close, and refuse the others (under the lock)."""
        if self._take_back(future):
            raise self._refused(future, self._closed())

    def _have_wait(
        self,
        future: BatchFuture[Any],
        route: Route,
        wait: bool,
        admitted: Callable[[], object] | None,
    ) -> Any:
        """See to one that has no room yet (under the lock); gives the bell, if its call waits."""
        bell = None
        on_loop = isinstance(future, LoopFuture)
        if not wait or (not on_loop and waits.serves(self)):
            self.forming.withdraw(future)
            # No name for the error here: it would be a cycle, through its traceback.
            why = self._full if not wait else self._own_queue_full
            raise self._refused(future, why())
        # A finalizer that runs in a worker, between two batches, must not hold it up.
        if not on_loop and get_ident() not in self._worker_idents:
            bell = self.seam.bell()
            admitted = bell.ring
        future._s = Waiting(route, admitted)
        self.forming.waiting += 1
        return bell

    def _respect(self, future: BatchFuture[Any]) -> None:
        """See to what a call asked for, if its item has not started (under the lock)."""
        terms = future._terms
        if terms.deadline is None and not terms.priority:
            return
        forming = self._sort()
        if terms.deadline is not None and not (future.done() or future.running()):
            forming.mind(future)
            self._mind(terms.deadline)

    def _mind(self, deadline: float) -> None:
        if deadline < self._next_deadline:
            self._next_deadline = deadline
            self._set_deadline(deadline)

    def _sort(self) -> Grouped:
        """The forming that knows everything, from now on (under the lock)."""
        if isinstance(self.forming, Plain):
            self.need = 0  # what is moved on leaves the intake, and keeps its room
            self.forming = Grouped.after(self.forming)
        return self.forming

    @staticmethod
    def _waits(future: BatchFuture[Any]) -> bool:
        return future._s.__class__ is Waiting

    @mended
    def _wait_for_room(self, future: BatchFuture[Any], bell: Any, timeout: float | None) -> None:
        is_over = False
        end = math.inf if timeout is None else self.seam.clock() + timeout
        try:
            room = Room(future)
            waits.check(room, "submit()")
            with waits.waiting(room, timeout):
                self._sleep_until_let_in(future, bell, end)
            is_over = True
        finally:
            with self._lock:
                self._begin()
                was_waiting = self._waits(future) and self.forming.withdraw(future)
                if was_waiting:
                    self._refused(future, self._full_too_long())
                self._end()
            if self._nested:
                self._look_again()
        if is_over and was_waiting:
            raise self._full_too_long()
        if future._s is CANCELLED:
            raise self._closed()

    def _sleep_until_let_in(self, future: BatchFuture[Any], bell: Any, end: float) -> None:
        # It may ring too early: whoever let this one in, or refused it, was broken off.
        while self._waits(future) and self.seam.clock() < end:
            if end == math.inf:
                bell.wait(None)
            else:
                self.seam.sleep_until(bell, end)

    @mended
    def _expire(self, weak: ref[LoopFuture[Any]]) -> None:
        """A call on a loop waited too long for its room."""
        future = weak()
        if future is None:
            return
        with self._lock:
            self._begin()
            state = future._s
            is_late = state.__class__ is not Waiting or not self.forming.withdraw(future)
            if not is_late:
                future._s = state
                self.counts.rejected += 1
                self._end_with((future,), self._full_too_long, Refused)
            self._end()
        if not is_late:
            self._tell_admitted(state)
        self._after()

    def _hire_caller(self) -> bool:
        """Make the calling thread a worker if no thread can start during exit (under the lock)."""
        return False

    def _serve_here(self, future: BatchFuture[Any]) -> None:
        """Run batches, that of `future` too, if no other thread can during exit."""

    def _wait_at_the_end(self, future: BatchFuture[Any]) -> None:
        """While the process ends, a thread stays until its item is done: it is being waited for."""
        self._serve_here(future)
        if isinstance(future, LoopFuture) or waits.serving_threads.get(get_ident()):
            return
        bell = self.seam.bell()
        if future._watch((bell.ring,)) and not bell.wait(self.options.exit_timeout):
            lifecycle.give_up(self)  # else the next call would wait as long again

    def _take_back(self, future: BatchFuture[Any]) -> bool:
        """Take an item out that was appended a moment ago; False when a batch has it."""
        if self.forming.withdraw(future):
            return True
        state = future._s
        if self.state is not OPEN or state.__class__ is Done or state.is_running:
            return False
        return bool(self.forming.end(future))  # it was moved on, and counts as never accepted

    def _refused(self, future: BatchFuture[Any], error: Exception) -> Exception:
        """Count a refused call; who watches all that is in the queue must hear of it."""
        self.counts.rejected += 1
        self._announce((future,))
        self._end()
        return error

    @holding
    def reject(self) -> None:
        """Count a call that was refused for its arguments."""
        is_nested = self._is_nested()
        with self._lock:
            self.counts.rejected += 1
        if not is_nested:
            self._after()

    def _full(self) -> QueueFull:
        return QueueFull(
            f"{self.options.name}: the queue is full (capacity={self.forming.capacity}); "
            "raise capacity, or wait with options(timeout=...)"
        )

    def _full_too_long(self) -> QueueFull:
        return QueueFull(
            f"{self.options.name}: the queue was still full (capacity={self.forming.capacity}) "
            "when options(timeout=...) expired; raise capacity, workers or the timeout"
        )

    def _own_queue_full(self) -> Deadlock:
        name = self.options.name
        return Deadlock(
            f"{name}: the queue is full, and a batch or a done-callback of {name} submitted to it: "
            f"raise capacity, or use {name}.submit_nowait(...) there"
        )
