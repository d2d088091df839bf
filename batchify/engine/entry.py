"""The way in: what both drivers share until an item is in a batch.

A caller's way in is `append` and one compare: `len(intake) >= need`. `need` says how long the
intake must be for a caller to have anything to do: wake a worker, or wait for room. It is written
under the lock only. While the room may shrink it is 0, so that no caller passes unseen; who
writes it looks at the intake again afterwards, so that no item is left without a wake-up.

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
from collections import deque
from collections.abc import Callable
from threading import get_ident
from typing import Any
from weakref import ref

from .. import waits
from ..errors import Closed, Deadlock, QueueFull
from ..forming import Grouped, Plain, Route, Waiting
from ..future import CANCELLED, BatchFuture, Done, Refused
from ..loopfuture import LoopFuture, port_of
from ..options import Live
from ..stats import Counts
from ..terms import NO_TERMS, Terms
from . import lifecycle
from .mending import holding, mended
from .routing import Routing
from .seam import Seam

OPEN, CLOSING, CLOSED = "open", "closing", "closed"


class Entry(Routing):
    """The way in, and who looks when."""

    caller_runs = False  # may a thread that waits for a result run a batch?

    def __init__(self, live: Live, takes_more: bool, seam: Seam) -> None:
        super().__init__()
        self.live = live
        self.options = options = live.now
        self.takes_more = takes_more  # the function has more parameters than the list
        self.seam = seam
        self.intake: deque[Any] = deque()
        self.need = 1
        limits = (options.size, options.linger, options.capacity)
        self.has_kinds = takes_more or options.key is not None
        self.forming: Plain | Grouped
        if self.has_kinds or options.weight is not None:
            self.forming = Grouped(self.intake, *limits, options.max_weight)
        else:
            self.forming = Plain(self.intake, *limits)
        self._is_configured = True  # the forming knows the limits of the options
        self.counts = Counts()
        self.state = OPEN
        self.starts = 0  # how often it was opened again
        self.generation = 0  # grows with each fork
        # What came while this thread held the lock: items, what is to be done, None for a look.
        self._nested: deque[BatchFuture[Any] | Callable[[], object] | None] = deque()
        self._worker_idents: set[int] = set()
        self._roused = False  # somebody was woken, and has not looked yet
        self._is_ending = False  # the process or the loop ends
        self._is_held = False  # by `lifecycle`
        self._is_lent = False  # the main thread runs a batch, and may be broken off
        self._no_worker: str | None = None  # why nobody could be woken or started, at the last look
        self._next_deadline = math.inf  # when somebody calls `expire`

    # ---- the driver's part ----

    def _is_free(self) -> bool:
        """Could one more batch run at once?"""
        raise NotImplementedError

    def _rouse(self) -> None:
        """Have a free worker look, or note why there is none (under the lock)."""
        raise NotImplementedError

    def _has_alarm(self, when: float) -> bool:
        """Is somebody going to look at `when`, or earlier?"""
        raise NotImplementedError

    def _set_alarm(self, when: float) -> None:
        """Have somebody look at `when`."""
        raise NotImplementedError

    def _stand_by(self) -> None:
        """Have somebody there when what waits for company is to leave (under the lock)."""

    def _set_deadline(self, when: float) -> None:
        """Have somebody call `expire` at `when`, however busy the workers are (under the lock)."""
        raise NotImplementedError

    def _worker_count(self) -> int:
        raise NotImplementedError

    def _is_helped(self) -> bool:
        """Does the main thread run a batch, which a signal handler may break off?"""
        return False

    def _break_up(self) -> None:
        """See to chunks that are larger than `size` now (under the lock)."""

    def holders(self, me: Any) -> list[Any] | None:
        """Who must act before a pending item can start, see `waits`."""
        raise NotImplementedError

    # ---- in ----

    def submitter(
        self, function: Callable[..., Any], batched: Callable[[], Any]
    ) -> Callable[..., BatchFuture[Any]]:
        """The hot path: a closure that submits one item; extra arguments are not for it."""
        route = Route(self, function, batched=batched)
        intake = self.intake
        append = intake.append
        clock = self.seam.clock
        has_gil = self.has_gil

        def submit(item: Any, /, *args: Any, **kwargs: Any) -> BatchFuture[Any]:
            if args or kwargs:
                return batched()._call(item, args, kwargs)  # type: ignore[no-any-return]
            if not has_gil:
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
            return len(self.intake) >= self.need

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
                if self.state is not OPEN or type(future._v) is Refused:
                    return self._came_late(future)
                self._respect(future)
                self._look()
                if self._is_unserved() and self._take_back(future):
                    raise self._refused(future, RuntimeError(self._no_worker))
                if self.forming.is_waiting(future):
                    bell = self._have_wait(future, route, wait, admitted)
                self._end()
            if self._nested:
                self._look_again()
            if bell is not None:
                self._wait_for_room(future, bell, timeout)
            elif timeout is not None and isinstance(future, LoopFuture) and self._waits(future):
                future._port.loop.call_later(timeout, self._expire, ref(future))
            elif self._is_ending and not isinstance(future, LoopFuture):
                self._wait_at_the_end(future)
        except BaseException:
            self._mend()
            raise
        return future

    def _came_late(self, future: BatchFuture[Any]) -> BatchFuture[Any]:
        """Let in what came just before a close, and refuse the others (under the lock)."""
        if type(future._v) is Refused:  # the close turned it away, and counted it
            self._end()
            raise self._closed()  # not the future's, which would lead to this frame
        if self._take_back(future):
            raise self._refused(future, self._closed())
        self._end()
        return future

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
        self._look()
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
        try:
            waits.check(self)
            with waits.waiting(self, timeout):
                bell.wait(timeout)
            is_over = True
        finally:
            with self._lock:
                self._begin()
                was_waiting = self._waits(future) and self.forming.withdraw(future)
                if was_waiting:
                    self._refused(future, self._full())
                self._end()
            if self._nested:
                self._look_again()
        if is_over and was_waiting:
            raise self._full()
        if future._s is CANCELLED:
            raise self._closed()

    @mended
    def _expire(self, weak: ref[LoopFuture[Any]]) -> None:
        """A call on a loop waited too long for its room."""
        future = weak()
        if future is None:
            return
        with self._lock:
            self._begin()
            state = future._s
            if state.__class__ is not Waiting or not self.forming.withdraw(future):
                self._end()
                return
            future._s = state
            self.counts.rejected += 1
            self._end_with((future,), self._full, Refused)
            self._end()
        self._tell_admitted(state)
        self._after()

    def _wait_at_the_end(self, future: BatchFuture[Any]) -> None:
        """While the process ends, a thread stays until its item is done: it is being waited for."""
        if waits.serving_threads.get(get_ident()):
            return
        bell = self.seam.bell()
        if future._watch((bell.poke,)) and not bell.wait(self.options.exit_timeout):
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
        with self._lock:
            self.counts.rejected += 1
        self._after()

    @staticmethod
    def _tell_admitted(state: Any) -> None:
        """Wake who waits for room, to see what became of it."""
        if state.__class__ is Waiting and state.admitted is not None:
            state.admitted()

    def _closed(self) -> Closed:
        return Closed(f"{self.options.name} is closed (start() opens it again)")

    def _full(self) -> QueueFull:
        return QueueFull(f"{self.options.name} has {self.forming.capacity} unresolved items")

    def _own_queue_full(self) -> Deadlock:
        return Deadlock(
            f"a batch or a callback of {self.options.name} submitted to its own full queue: "
            "the room could only come from the worker that would wait for it"
        )

    # ---- who looks ----

    def _look(self) -> None:
        """Let in what has room, and wake whoever is needed (under the lock)."""
        forming = self.forming
        self._no_worker = None
        if not self._is_configured:
            self._is_configured = True
            self.options = self.live.now
            self.need = 0
            forming.settle_down()  # what has room now keeps it
            forming.configure(self.options.size, self.options.linger, self.options.capacity)
            self._break_up()
        while True:
            if forming.capacity is not None:
                self.need = 0
            told = forming.accept()
            if told:
                self._tell(told)
            if not self._roused and self._is_free():
                decision = forming.next(self.seam.clock())
                if decision.reason is not None:
                    self._rouse()
                elif decision.when is None:
                    self._stand_by()
                elif not self._has_alarm(decision.when):
                    self._set_alarm(decision.when)
            self._set_need()
            if not self.intake or self._has_seen_all():
                return

    def _is_unserved(self) -> bool:
        """Is there something to run, and nobody, nor anybody to be had?"""
        return self._no_worker is not None and not self._worker_count()

    @staticmethod
    def _tell(told: deque[Any]) -> None:
        """Wake those who got room; each stays noted until it is done."""
        while told:
            if told[0] is not None:
                told[0]()
            told.popleft()

    def _has_seen_all(self) -> bool:
        """Nothing came in between that nobody looks at (at need 0 every caller does)."""
        held = len(self.intake)
        return self.need == 0 or held < self.need or held == self.forming.seen

    def _set_need(self) -> None:
        forming = self.forming
        # No timer and no batch keeps what waits without a limit; its callers may have gone.
        is_to_hold = forming.linger is None and forming.pending > 0
        if is_to_hold is not self._is_held:
            (lifecycle.hold if is_to_hold else lifecycle.let_go)(self)
            self._is_held = is_to_hold  # last: an exception from a signal leaves it to the next
        if self._is_lent:
            self._is_lent = self._is_helped()
        is_watched = self.state is not OPEN or self._is_ending or self._is_lent
        if is_watched or (self._no_worker is not None and self._is_unserved()):
            self.need = 0
        else:
            self.need = forming.threshold(not self._roused and self._is_free())

    @mended
    def _look_again(self) -> None:
        """Look, also for those who came while this thread held the lock."""
        with self._lock:
            self._begin()
            later: list[Any] = []
            while self._nested:
                future = self._nested.popleft()
                if future is None:  # other limits
                    continue
                if not isinstance(future, BatchFuture):
                    later.append(future)  # to be called without the lock
                    continue
                route = future._s
                if route is CANCELLED:
                    self._take_out(future)
                elif self.state is OPEN:
                    self._respect(future)
                elif self.forming.withdraw(future):
                    future._s = route
                    self._end_with((future,), self._closed)
                    self.counts.rejected += 1
            self._look()
            self._end()
        for act in later:
            act()
        if self._ended:
            self._tell_ended()

    def _take_out(self, future: BatchFuture[Any]) -> None:
        """See to one that was cancelled in the middle of another change (under the lock)."""
        raise NotImplementedError

    def _after(self) -> None:
        """What is left to do when the lock is free: tell, forget, look again."""
        if self._ended:
            self._tell_ended()
        if self.has_kinds:
            self._forget_routes()
        if self._nested:
            self._look_again()
