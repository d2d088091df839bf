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
from ..forming import Chunk, Route, Waiting
from ..future import CANCELLED, RESULT, Alone, BatchFuture, Refused
from ..loopfuture import LoopFuture
from ..options import Live, Options
from ..stats import REASONS, Counts, Limits, Stats
from .batch import Batch
from .ending import Ending
from .looking import CLOSED, CLOSING, OPEN
from .mending import mended
from .seam import Seam


class Closer:
    """A close that goes on, until it is over: it may be interrupted."""

    is_over = False


class Engine(Ending):
    """The queue and the workers of one decorated function (or of one instance's)."""

    def __init__(self, live: Live, takes_more: bool, seam: Seam) -> None:
        super().__init__(live, takes_more, seam)
        self._closers: list[Closer] = []  # of those who close it

    # ---- the driver's part ----

    LOOK = math.inf  # seconds between two looks at `is_safe`, at the end of the process

    def is_safe(self, future: BatchFuture[Any]) -> bool:
        """Is its item run, though this process ends?"""
        return False

    def _reset_workers(self) -> None:
        """Forget the workers, in a forked child."""
        raise NotImplementedError

    # ---- flush, close, exit, fork ----

    def unresolved(self) -> list[BatchFuture[Any]]:
        """The futures of all accepted items that are not done (under the lock)."""
        return self._running() + self.forming.entries()

    def _running(self) -> list[BatchFuture[Any]]:
        return [f for batch in self._begun() for f in batch.futures if f._s is batch]

    def _begun(self) -> list[Batch]:
        """The batches whose items are not all done, as far as that is known."""
        return list(self.batches)

    @mended
    def left(self) -> list[BatchFuture[Any]]:
        """`unresolved`, for who does not hold the lock."""
        self.refuse_to_wait()
        with self._lock:
            self._begin()
            self._look()
            self._end()
            left = self.unresolved()
        self._after()
        return left

    def _recount(self) -> None:
        for batch in self._lost():
            self._put_back(batch)
        for future in list(self._ended):
            if not (future.done() or future.running()):
                self._ended.pop(future, None)
        self.forming.recount(items_of(self._running()))
        for future in list(self._ended):
            if strays := _strays_of(future):
                self.forming.grouped += len(strays)
                self.forming._bring_in(strays, strays[0]._s)
        self._is_configured = False  # it may have come half way
        if self.state is OPEN:
            self.forming.unseal()  # so may a start
        elif self.state is CLOSED:
            self._end_workers()
        self._roused = False  # the ring may not have come about

    @mended
    def flush(self) -> list[BatchFuture[Any]]:
        """Let what was accepted leave now; gives the futures to wait for."""
        self.refuse_to_wait()
        with self._lock:
            self._begin()
            self._look()
            left = self.unresolved()
            self._look()  # else what came in just before might not be forced
            self.forming.force()
            for batch in self.batches:
                batch.is_flushed = True
            for chunk in self.forming.chunks:
                state = chunk._s
                if state.__class__ is Chunk:  # else a finalizer has cancelled it
                    state.is_flushed = True
            self._look()
            self._end()
            self._need_worker()
        self._after()
        return left

    @mended
    def push(self) -> None:
        """Let what lingers leave now; no other delay is cut."""
        if self._is_nested():
            self._nested.append(self.push)
            return
        with self._lock:
            self._begin()
            self._look()
            self.forming.force(is_flush=False)
            self._look()
            self._end()
        self._after()

    @mended
    def close(self, cancel: bool, closer: Closer) -> list[BatchFuture[Any]]:
        """Refuse new items; gives the futures to wait for before `closed`."""
        self.refuse_to_wait()
        why = None
        left = []
        with self._lock:
            if self.state is not CLOSED:
                self._closers.append(closer)
                self._begin()
                why = self._begin_close(cancel)
                self._end()
                left = self.unresolved()
        self._after()
        if why is not None:
            raise RuntimeError(why)
        return left

    def _begin_close(self, cancel: bool) -> str | None:
        """Refuse new items; gives why it cannot be closed, if so (under the lock)."""
        self._look()
        self.state = CLOSING
        self.need = 0  # first: who has not seen it is in the intake, and is let in
        self.forming.seal(self._turn_away)
        if cancel:
            self._is_stopping = True
            self.forming.clear(self._drop)
        self.forming.hasten("close")
        self._look()
        why = self._no_worker if self._is_unserved() else None
        if why is not None:  # it stays open: what was accepted may have a thread later
            self.state = OPEN
            self.forming.hasten(None)
            self.forming.unseal()
            self._set_need()
        return why

    def _need_worker(self) -> None:
        """Raise where a wait would be in vain, as no thread is to be had for what was accepted."""
        if self._is_unserved():
            raise RuntimeError(self._no_worker)

    def _drop(self, future: BatchFuture[Any]) -> None:
        """End an accepted item that does not run any more."""
        count = future._count
        self._end_with((future,), self._closed)
        if future._s is not CANCELLED:  # by a handler
            self.counts.failed += count

    def _turn_away(self, future: BatchFuture[Any]) -> None:
        """Refuse one that waits for room: its call raises, or its future ends."""
        on_loop = isinstance(future, LoopFuture)
        state = future._s
        if state.__class__ is not Waiting:  # a handler or a finalizer has cancelled it just now
            return
        self._ended[future] = future._v
        # Before it ends: whoever was broken off tells it later, see `_look`.
        self.forming.told.append(state.admitted)
        if state.admitted is not None and not on_loop:
            future._s = CANCELLED
        else:
            self._end_with((future,), self._closed, Refused)
            if future._s is CANCELLED:
                return
        self.counts.rejected += 1

    @mended
    def closed(self, abandon: bool = True, closer: Closer | None = None) -> int:
        """The end of a close: what is left ends in `Closed`. Gives how many those were.

        Args:
            abandon: end also the items of batches that run; else these end by themselves.
            closer: do this only if the close that this one began is still on.
        """
        self.refuse_to_wait()
        left = 0
        with self._lock:
            if closer is None or closer in self._closers:
                self._begin()
                left = self._end_close(abandon)
                self._end()
        self._after()
        return left

    def _end_close(self, abandon: bool) -> int:
        """End what is left (under the lock)."""
        self._look()
        self.need = 0
        self.forming.seal(self._turn_away)
        self._tell(self.forming.told)
        running = self._running() if abandon else []
        left = items_of(running) + items_of(self.forming.entries())
        self.forming.clear(self._drop)
        for future in running:
            self.forming.running -= future._count
            self._drop(future)
        if abandon:
            self._abandon()
        self.state = CLOSED
        self._closers.clear()
        self.forming.hasten(None)
        self._set_need()
        self._end_workers()
        return left

    def _abandon(self) -> None:
        """Let go of the batches that run (under the lock)."""
        self.batches.clear()

    def _end_workers(self) -> None:
        """Let the workers go, as no batch will come (under the lock, perhaps more than once)."""
        raise NotImplementedError

    def join(self, timeout: float | None) -> None:
        """Wait until the workers of a closed engine have ended, with all events and spans.

        At most `timeout` seconds, and only where it would not be a wait for the caller itself.
        """
        raise NotImplementedError

    def call_when_ended(self, done: Callable[[], object]) -> None:
        """Call `done()`, in any thread, when the workers of a closed engine have ended."""
        raise NotImplementedError

    def can_end(self) -> bool:
        """Return False if nothing runs that could end the workers."""
        return True

    @mended
    def start(self) -> None:
        """Open again after a close, also after one that was interrupted."""
        if self._is_nested():
            if self.state is not OPEN:
                self._nested.append(self.start)
            return
        with self._lock:
            is_left = self.state is CLOSING and all(closer.is_over for closer in self._closers)
            if self.state is CLOSED or is_left:
                self._begin()
                self._closers.clear()
                self.forming.hasten(None)
                self.state = OPEN
                self._is_stopping = False
                self.forming.unseal()
                self._roused = False
                self._look()
                self.need = 1  # as at first: who comes next sees to a worker
                self._end()
        self._after()

    @mended
    def hurry(self, is_ending: bool = True) -> list[BatchFuture[Any]]:
        """Nothing lingers any more. Gives the futures of what is unresolved."""
        self.refuse_to_wait()
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

    @mended
    def configured(self) -> None:
        """Other limits count from now on, also for what waits."""
        self._is_configured = False  # whoever looks next sees to it
        if self._is_nested():
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
        # Without a GIL a dict has a lock, too, which is still taken here if one thread was just
        # handing it to another. So what they write to without our lock is not written to here.
        self.watched, self.routes = {}, {}
        before, self._ended = self._ended, {}
        # All that may be found anywhere: another thread may have been in the middle of a change.
        futures = [future for batch in self._begun() for future in batch.futures]
        futures += [stray for batch in self._begun() for stray in _strays_among(batch.chunk or ())]
        futures += self.forming.everyone()
        futures += [stray for future in before for stray in _strays_of(future)]
        self.intake.clear()
        self.options = self.live.now
        self._is_configured = True
        self.forming = self._new_forming()
        self.batches.clear()
        self._end_with(futures, self._forked, is_reported=False)  # the parent's items
        for future in (*futures, *before):
            future.__dict__.pop("view", None)  # its condition may be held in the parent
        self._ended = {}
        self._next_deadline = math.inf
        self.counts = Counts()
        self._nested.clear()
        self._closers.clear()
        self._roused = self._is_ending = self._is_changing = self._is_held = False
        self._is_stopping = False
        if self.state is CLOSING:
            self.state = CLOSED  # who closes it does so in the parent
        if self.state is not OPEN:
            self.forming.seal(self._turn_away)
        self._reset_workers()
        self.need = 1 if self.state is OPEN else 0

    def _forked(self) -> Forked:
        return Forked(
            f"{self.options.name}: this future was copied by a fork; only the parent process runs "
            "its item, so submit the item again in this process"
        )

    # ---- what it did ----

    @mended
    def stats(self, is_whole: bool = True) -> Stats:
        """A consistent snapshot; without the distributions, unless `is_whole`."""
        is_nested = self._is_nested()
        with self._lock:
            if not is_nested:
                self._begin()
                self._end()
            counts, forming = self.counts, self.forming
            pending, running = forming.pending, forming.running
            ended = counts.succeeded + counts.failed + counts.cancelled + counts.expired
            accepted = ended + pending + running
            options = self.options
            stats = Stats(
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
                batches=counts.reasons.total(),
                workers=self._worker_count(),
                reasons=MappingProxyType({r: counts.reasons[r] for r in REASONS}),
                **(counts.distributions() if is_whole else {}),
                observer_errors=counts.observer_errors,
                limits=limits_of(options),
            )
        if not is_nested:
            self._after()
        return stats


def limits_of(options: Options) -> Limits:
    """What `stats().explain()` needs to know of the options."""
    return Limits(
        options.size,
        options.linger,
        options.workers,
        options.capacity,
        has_broker=options.broker is not None,
    )


def _strays_of(future: BatchFuture[Any]) -> list[BatchFuture[Any]]:
    """Who is in no place yet of the items of a chunk that was broken up."""
    return _strays_among(future._v) if future._is_chunk and future._s is RESULT else []


def _strays_among(outcomes: Sequence[Any]) -> list[BatchFuture[Any]]:
    alone = [one.future for one in outcomes if type(one) is Alone]
    return [one for one in alone if one._s.__class__ is Route]


def items_of(futures: Sequence[BatchFuture[Any]]) -> int:
    """How many items they stand for."""
    return sum(future._count for future in futures)


class Countdown:
    """Calls `done()` once when all `futures` are done, unless it is given up before."""

    def __init__(self, futures: Sequence[BatchFuture[Any]], done: Callable[[], object]) -> None:
        self._done = done
        # Single C calls add to it and take from it, as the workers that tick are several.
        self._left: set[BatchFuture[Any] | None] = {None}
        self._watch(futures)
        self._tick(None)

    def _watch(self, futures: Sequence[BatchFuture[Any]]) -> None:
        self._left.update(futures)
        for future in futures:
            if not future._watch(self._poke()):
                self._tick(future)

    def _poke(self) -> tuple[Callable[[Any], None]]:
        return (self._tick,)  # equal, and new each time: one that is kept would be a cycle

    def _tick(self, future: BatchFuture[Any] | None) -> None:
        if future is not None and future._is_chunk and not future.cancelled():
            self._watch([one.future for one in future._v if type(one) is Alone])
        self._left.discard(future)
        if not self._left:
            self._done()

    def give_up(self) -> None:
        """Have nothing told any more."""
        for future in self._left.copy():
            engine = None if future is None else future._engine()
            if future is not None and engine is not None:
                future._unwatch(engine, self._poke())
