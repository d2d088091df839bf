"""The engine's life, the same for both drivers: flush, close, start, exit, fork, other limits.

open ──► closing ──► closed ──► (start) open
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from threading import RLock
from types import MappingProxyType
from typing import Any

from ..errors import Forked
from ..forming import Waiting
from ..future import CANCELLED, Alone, BatchFuture, Refused
from ..loopfuture import LoopFuture
from ..options import Options
from ..stats import REASONS, Counts, Limits, Stats
from .entry import CLOSED, CLOSING, OPEN
from .running import Running


class Engine(Running):
    """The queue and the workers of one decorated function (or of one instance's)."""

    # ---- the driver's part ----

    def _reset_workers(self) -> None:
        """Forget the workers, in a forked child."""
        raise NotImplementedError

    # ---- flush, close, exit, fork ----

    def unresolved(self) -> list[BatchFuture[Any]]:
        """The futures of all accepted items that are not done (under the lock)."""
        return self._running() + self.forming.entries()

    def _running(self) -> list[BatchFuture[Any]]:
        return [f for batch in self.batches for f in batch.futures if f._s is batch]

    def left(self) -> list[BatchFuture[Any]]:
        """`unresolved`, for who does not hold the lock."""
        with self._lock:
            self._begin()
            self._look()
            self._end()
            left = self.unresolved()
        self._after()
        return left

    def _recount(self) -> None:
        self.forming.recount(items_of(self._running()))
        self._roused = False  # the ring may not have come about

    def flush(self) -> list[BatchFuture[Any]]:
        """Let what was accepted leave now; gives the futures to wait for."""
        with self._lock:
            self._begin()
            self._look()
            left = self.unresolved()
            self._look()  # else what came in just before might not be forced
            self.forming.force()
            for batch in self.batches:
                batch.is_flushed = True
            for chunk in self.forming.chunks:
                chunk._s.is_flushed = True
            self._look()
            self._end()
            self._need_worker()
        self._after()
        return left

    def push(self) -> None:
        """Let what lingers leave now; no other delay is cut."""
        with self._lock:
            self._begin()
            self._look()
            self.forming.force(is_flush=False)
            self._look()
            self._end()
        self._after()

    def close(self, cancel: bool) -> list[BatchFuture[Any]]:
        """Refuse new items; gives the futures to wait for before `closed`."""
        with self._lock:
            if self.state is CLOSED:
                return []
            self._begin()
            self._look()
            self.state = CLOSING
            self.need = 0  # first: who has not seen it is in the intake, and is let in
            away = self.forming.seal()
            accepted: list[BatchFuture[Any]] = []
            if cancel:
                self._is_stopping = True
                accepted, later = self.forming.clear()
                away += later
                self.counts.failed += items_of(accepted)
            self.forming.hasten("close")
            items = [future._v for future in accepted + away]  # let go of without the lock
            ended = self._end_with(accepted, self._closed) + self._turn_away(away)
            self._look()
            why = self._no_worker if self._is_unserved() else None
            if why is not None:  # it stays open: what was accepted may have a thread later
                self.state = OPEN
                self.forming.hasten(None)
                self.forming.unseal()
                self._set_need()
            self._end()
            left = self.unresolved()
        del items
        self._announce(ended)
        self._after()
        if why is not None:
            raise RuntimeError(why)
        return left

    def _need_worker(self) -> None:
        """Raise where a wait would be in vain, as no thread is to be had for what was accepted."""
        if self._is_unserved():
            raise RuntimeError(self._no_worker)

    def _turn_away(self, away: list[BatchFuture[Any]]) -> list[BatchFuture[Any]]:
        """Refuse those who have no room: the calls that wait raise, the futures end."""
        for future in away:
            state = future._s
            if state.__class__ is not Waiting:
                # Its call is still on the way in, and raises when it sees this. It does not when
                # who closed has started again before it looks: then the future tells.
                self.counts.rejected += 1
                self._end_with((future,), self._closed, Refused)
                continue
            self.counts.rejected += 1
            if isinstance(future, LoopFuture) or state.admitted is None:
                self._end_with((future,), self._closed, Refused)
            else:
                future._s = CANCELLED
            self._tell_admitted(state)
        return away

    def closed(self, abandon: bool = True) -> int:
        """The end of a close: what is left ends in `Closed`. Gives how many those were.

        Args:
            abandon: end also the items of batches that run; else these end by themselves.
        """
        with self._lock:
            self._begin()
            self._look()
            self.need = 0
            accepted, away = self.forming.clear()
            running = self._running() if abandon else []
            self.forming.running -= items_of(running)
            left = items_of(accepted + running)
            self.counts.failed += left
            items = [future._v for future in accepted + running + away]
            ended = self._end_with(accepted + running, self._closed)
            ended += self._turn_away(away)
            if abandon:
                self.batches.clear()
            self.state = CLOSED
            self.forming.hasten(None)
            self._set_need()
            self.forming.is_sealed = True
            self._end()
        del items
        self._announce(ended)
        self._after()
        self._end_workers()
        return left

    def _end_workers(self) -> None:
        """Let the workers go: no batch will come."""
        raise NotImplementedError

    def join(self, timeout: float | None) -> None:
        """Wait for the workers to be gone, where that is possible from here."""

    def start(self) -> None:
        """Open again after a close."""
        with self._lock:
            if self.state is CLOSED:
                self.state = OPEN
                self.starts += 1
                self._is_stopping = False
                self.forming.unseal()
                self._roused = False
                self._begin()
                self._look()
                self.need = 1  # as at first: who comes next sees to a worker
                self._end()

    def hurry(self, is_ending: bool = True) -> list[BatchFuture[Any]]:
        """Nothing lingers any more. Gives the futures of what is unresolved."""
        with self._lock:
            self._is_ending = is_ending
            self._begin()
            self.forming.hasten("close")
            self._look()
            self._end()
            self._need_worker()
            left = self.unresolved()
        self._after()
        return left

    def configured(self) -> None:
        """Other limits count from now on, also for what waits."""
        self._is_configured = False  # whoever looks next sees to it
        if self._lock._is_owned():  # type: ignore[attr-defined]
            self._nested.append(None)
            return
        with self._lock:
            self._begin()
            self._look()
            self._end()
        self._after()

    def forked(self) -> None:
        """In the child of a fork: forget everything, and end the copied futures in `Forked`.

        No callback runs: those belong to the parent.
        """
        self._lock = RLock()  # another thread may have held the old one
        running = self._running()
        accepted, away = self.forming.clear()
        for future in self._end_with(running + accepted + away, self._forked):
            future.__dict__.pop("view", None)  # its condition may be held by a thread of the parent
        self.batches.clear()
        self.routes.clear()
        self.watched.clear()
        self.forming.running = 0
        self.forming.hasten(None)
        self._ended.clear()
        self._next_deadline = math.inf
        self.counts = Counts()
        self.generation += 1
        self._nested.clear()
        self._roused = self._is_ending = self._is_changing = self._is_held = False
        if self.state is CLOSING:
            self.state = CLOSED  # who closes it does so in the parent
        if self.state is OPEN:
            self.forming.unseal()
        self._reset_workers()
        self.need = 1 if self.state is OPEN else 0

    def _forked(self) -> Forked:
        return Forked(f"this item of {self.options.name} is run by the parent process only")

    # ---- what it did ----

    def stats(self) -> Stats:
        """A consistent snapshot."""
        is_nested = self._lock._is_owned()  # type: ignore[attr-defined]
        with self._lock:
            if not is_nested:
                self._begin()
                self._end()
            counts, forming = self.counts, self.forming
            pending, running = forming.pending, forming.running
            ended = counts.succeeded + counts.failed + counts.cancelled + counts.expired
            accepted = ended + pending + running
            options = self.options
            return Stats(
                submitted=accepted + counts.rejected + counts.gave_up + forming.waiting,
                accepted=accepted,
                rejected=counts.rejected,
                succeeded=counts.succeeded,
                failed=counts.failed,
                cancelled=counts.cancelled,
                expired=counts.expired,
                retried=counts.retried,
                deduplicated=counts.deduplicated,
                pending=pending,
                running=running,
                batches=counts.batches,
                workers=self._worker_count(),
                reasons=MappingProxyType({r: counts.reasons[r] for r in REASONS}),
                **counts.distributions(),
                observer_errors=counts.observer_errors,
                limits=limits_of(options),
            )


def limits_of(options: Options) -> Limits:
    """What `stats().explain()` needs to know of the options."""
    return Limits(options.size, options.linger, options.workers, options.capacity)


def items_of(futures: Sequence[BatchFuture[Any]]) -> int:
    """How many items they stand for."""
    return sum(future._count for future in futures)


def count_down(futures: Sequence[BatchFuture[Any]], done: Callable[[], object]) -> None:
    """Call `done()` once when all `futures` are done."""
    left: list[None] = [None] * (len(futures) + 1)

    def tick(future: BatchFuture[Any] | None) -> None:
        if future is not None and future._is_chunk and not future.cancelled():
            for alone in [one.future for one in future._v if type(one) is Alone]:
                left.append(None)
                if not alone._watch(tick):
                    tick(alone)
        left.pop()  # atomic, as the workers that tick are several
        if not left:
            done()

    for future in futures:
        if not future._watch(tick):
            tick(future)
    tick(None)
