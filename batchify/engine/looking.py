"""Who looks: letting in what has room, waking whoever is needed, and what callers must know.

`need` says how long the intake must be for a caller to have anything to do: wake a worker, or wait
for room. It is written under the lock only. While the room may shrink it is 0, so that no caller
passes unseen; who writes it looks at the intake again afterwards, so that no item is left without
a wake-up.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from typing import Any

from ..errors import Closed
from ..forming import Decision, Grouped, Plain, Route, Waiting
from ..future import CANCELLED, BatchFuture, Done
from ..options import Live
from ..stats import Counts
from . import lifecycle
from .mending import mended
from .routing import Routing
from .seam import Seam

OPEN, CLOSING, CLOSED = "open", "closing", "closed"


def closed_error(name: str) -> Closed:
    """What a call of a closed function raises, and what its abandoned items end in."""
    return Closed(f"{name} is closed (start() opens it again)")


class Looking(Routing):
    """The queue, and who looks at it when."""

    def __init__(self, live: Live, takes_more: bool, seam: Seam) -> None:
        super().__init__()
        self.live = live
        self.options = live.now
        self.takes_more = takes_more  # the function has more parameters than the list
        self.seam = seam
        self.intake: deque[Any] = deque()
        self.need = 1
        self.has_kinds = takes_more or self.options.key is not None
        self.forming: Plain | Grouped = self._new_forming()
        self._is_configured = True  # the forming knows the limits of the options
        self.counts = Counts()
        self.state = OPEN
        # What came while this thread held the lock: items, what is to be done, None for a look.
        self._nested: deque[BatchFuture[Any] | Callable[[], object] | None] = deque()
        self._worker_idents: set[int] = set()
        self._roused = False  # somebody was woken, and has not looked yet
        self._is_ending = False  # the process or the loop ends
        self._is_held = False  # by `lifecycle`
        self._no_worker: str | None = None  # why nobody could be woken or started, at the last look
        self._next_deadline = math.inf  # when somebody calls `expire`

    def _new_forming(self) -> Plain | Grouped:
        options = self.options
        limits = (options.size, options.linger, options.capacity)
        if self.has_kinds or options.weight is not None:
            return Grouped(self.intake, *limits, options.max_weight)
        return Plain(self.intake, *limits)

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

    def _break_up(self) -> None:
        """See to chunks that are larger than `size` now (under the lock)."""

    def holders(self, me: Any) -> list[Any] | None:
        """Who must act before a pending item can start, see `waits`."""
        raise NotImplementedError

    def _respect(self, future: BatchFuture[Any]) -> None:
        """See to what a call asked for, if its item has not started (under the lock)."""
        raise NotImplementedError

    def _closed(self) -> Closed:
        return closed_error(self.options.name)

    @staticmethod
    def _tell_admitted(state: Any) -> None:
        """Wake who waits for room, to see what became of it."""
        if state.__class__ is Waiting and state.admitted is not None:
            state.admitted()

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
            if not forming.is_idle():
                if forming.capacity is not None:
                    self.need = 0
                told = forming.accept()
                if told:
                    self._tell(told)
                if not self._roused and self._is_free():
                    self._wake(forming.next(self.seam.clock()))
            self._set_need()
            if not self.intake or self._has_seen_all():
                return

    def _wake(self, decision: Decision) -> None:
        """Have somebody there for what is to leave (under the lock)."""
        if decision.reason is not None:
            self._rouse()
        elif decision.when is None:
            self._stand_by()
        elif not self._has_alarm(decision.when):
            self._set_alarm(decision.when)

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
        return held < self.need or held == self.forming.seen or self.need == 0

    def _set_need(self) -> None:
        forming = self.forming
        if forming.linger is None or self._is_held:
            self._hold()
        if (
            self.state is not OPEN
            or self._is_ending
            or (self._no_worker is not None and self._is_unserved())
        ):
            self.need = 0
        else:
            self.need = forming.threshold(not self._roused and self._is_free())

    def _hold(self) -> None:
        """No timer and no batch keeps what waits without a limit; its callers may have gone."""
        is_to_hold = self.forming.linger is None and self.forming.pending > 0
        if is_to_hold is not self._is_held:
            (lifecycle.hold if is_to_hold else lifecycle.let_go)(self)
            self._is_held = is_to_hold  # last: an exception from a signal leaves it to the next

    @mended
    def _look_again(self) -> None:
        """Look, also for those who came while this thread held the lock."""
        if self._is_nested():  # one of them was refused, or has gone in by itself: not yet
            return
        while True:
            later: list[Any] = []
            with self._lock:
                self._begin()
                came = list(self._nested)
                for one in came:
                    if isinstance(one, BatchFuture):
                        self._let_in(one)
                    elif one is not None:  # None: other limits
                        later.append(one)  # to be called without the lock
                self._look()
                for one in came:
                    if isinstance(one, BatchFuture):
                        self._have_future_wait(one)
                    self._nested.popleft()  # last: an exception from a handler leaves them here
                self._end()
            for act in later:
                act()
            if not self._nested:
                break
        if self._ended:
            self._tell_ended()

    def _let_in(self, future: BatchFuture[Any]) -> None:
        """See to one that came, or was cancelled, in the middle of another change."""
        route = future._s
        if route is CANCELLED:
            self._take_out(future)
        elif self.state is OPEN:
            self._respect(future)
        elif self.forming.holds(future):
            if route.__class__ is not Done:  # else this was broken off
                self._end_with((future,), self._closed)
                self.counts.rejected += 1
            self.forming.drop(future)

    def _have_future_wait(self, future: BatchFuture[Any]) -> None:
        """Note that it waits for room, if it does, though its call is over (under the lock)."""
        route = future._s
        forming = self.forming
        if forming.is_pressed and route.__class__ is Route and forming.holds(future):
            future._s = Waiting(route, None)
            forming.waiting += 1

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
