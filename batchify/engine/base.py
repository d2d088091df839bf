"""What both drivers share from the batch on: taking, settling, cancelling, flushing, closing.

open ──► closing ──► closed ──► (start) open
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from threading import RLock
from types import MappingProxyType
from typing import Any

from ..errors import Forked
from ..forming import Group, Route, Waiting
from ..future import CANCELLED, ERROR, RESULT, BatchFuture, Done, Failure, Refused
from ..loopfuture import LoopFuture
from ..options import Options
from ..outcome import Give
from ..stats import REASONS, Counts, Stats
from .entry import CLOSED, CLOSING, OPEN, Entry
from .seam import Seam


class Batch:
    """A batch that runs. Its futures have it as their state."""

    __slots__ = ("engine", "futures", "reason", "route", "thread")
    is_running = True

    def __init__(self, engine: Engine, route: Route, reason: str) -> None:
        self.engine = engine
        self.route = route
        self.reason = reason
        self.futures: list[BatchFuture[Any]] = []
        self.thread = 0  # the ident of the thread that runs it

    def items(self) -> list[Any]:
        return [future._v for future in self.futures]

    def holders(self, me: Any) -> list[Any] | None:
        return self.engine.holders_of(self, me)


class Engine(Entry):
    """The queue and the workers of one decorated function (or of one instance's)."""

    def __init__(self, options: Options, is_grouped: bool, seam: Seam) -> None:
        super().__init__(options, is_grouped, seam)
        self.batches: set[Batch] = set()

    # ---- the driver's part ----

    def holders_of(self, batch: Batch, me: Any) -> list[Any] | None:
        """Who must act before `batch` can end."""
        raise NotImplementedError

    def _reset_workers(self) -> None:
        """Forget the workers, in a forked child."""
        raise NotImplementedError

    # ---- out ----

    def _take(self) -> Batch | float | None:
        """The next batch for a free worker, or when to look again (under the lock)."""
        forming = self.forming
        if forming.capacity is not None:
            self.need = 0
        self._tell(forming.accept())
        decision = forming.next(self.seam.clock())
        if decision.group is None:
            return decision.when
        group: Group = decision.group
        reason = decision.reason or ""
        batch = Batch(self, group.route, reason)
        batch.futures = forming.take(group, batch)
        if not batch.futures:  # cancelled meanwhile, by a finalizer that ran in this thread
            return self._take()
        self.batches.add(batch)
        self.counts.batches += 1
        self.counts.reasons[reason] += 1
        return batch

    def settle(self, batch: Batch, give: Give) -> None:
        """End futures of `batch` with their values, then tell everyone."""
        values = give.values
        futures: Sequence[BatchFuture[Any]] = batch.futures
        if len(values) != len(futures):
            futures = futures[give.start : give.start + len(values)]
        succeeded = failed = 0
        with self._lock:
            self._begin()
            if give.is_clean:
                for future, value in zip(futures, values, strict=True):
                    if future._s is batch:
                        future._v = value
                        future._s = RESULT
                        succeeded += 1
                    elif future._s is CANCELLED:  # detached: it kept its item until here
                        future._v = None
            else:
                for future, value in zip(futures, values, strict=True):
                    if future._s is not batch:
                        if future._s is CANCELLED:
                            future._v = None
                        continue
                    future._v = value
                    if value.__class__ is Failure:
                        future._s = ERROR
                        failed += 1
                    else:
                        future._s = RESULT
                        succeeded += 1
            self.counts.succeeded += succeeded
            self.counts.failed += failed
            self.forming.running -= succeeded + failed
            if self.forming.is_pressed:
                self._look()
            self._end()
        self._announce(futures)
        if self._nested:
            self._look_again()

    def finish(self, batch: Batch) -> None:
        """`batch` is over; what it left unsettled (it never does) must not hang."""
        with self._lock:
            self.batches.discard(batch)

    def cancel(self, future: BatchFuture[Any]) -> bool:
        """Take out one item; see `BatchFuture.cancel`."""
        item = future._v  # let go of without the lock: that may run a finalizer
        is_nested = self._lock._is_owned()  # type: ignore[attr-defined]
        with self._lock:
            if not is_nested:
                self._begin()
            state = future._s
            if state.__class__ is Done or (state.is_running and future.__class__ is not LoopFuture):
                if not is_nested:
                    self._end()
                return state is CANCELLED
            if state.is_running:
                future._s = CANCELLED  # detached: the batch goes on without it
                self.counts.cancelled += 1
                self.forming.running -= 1
            elif self.forming.cancel(future):
                self.counts.cancelled += 1
            else:
                self.counts.gave_up += 1
            if is_nested:
                self._nested.append(future)
            else:
                self._look()
                self._end()
        self._announce((future,))
        self._forget_routes()
        if self._nested and not is_nested:
            self._look_again()
        del item
        return True

    # ---- flush, close, exit, fork ----

    def unresolved(self) -> list[BatchFuture[Any]]:
        """The futures of all accepted items that are not done (under the lock)."""
        running = [f for batch in self.batches for f in batch.futures if f._s is batch]
        return running + self.forming.entries()

    def left(self) -> list[BatchFuture[Any]]:
        """`unresolved`, for who does not hold the lock."""
        with self._lock:
            self._begin()
            self._look()
            self._end()
            return self.unresolved()

    def _recount(self) -> None:
        running = [f for batch in self.batches for f in batch.futures if f._s is batch]
        self.forming.recount(len(running))
        self._roused = False  # the ring may not have come about

    def flush(self) -> list[BatchFuture[Any]]:
        """Let what was accepted leave now; gives the futures to wait for."""
        with self._lock:
            self._begin()
            self._look()
            self.forming.force()
            self._look()
            self._end()
            return self.unresolved()

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
                accepted, later = self.forming.clear()
                away += later
                self.counts.failed += len(accepted)
            self.forming.hurry = "close"
            items = [future._v for future in accepted + away]  # let go of without the lock
            ended = self._end_with(accepted, self._closed) + self._turn_away(away)
            self._look()
            self._end()
            left = self.unresolved()
        del items
        self._announce(ended)
        return left

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
            running = []
            if abandon:
                running = [f for batch in self.batches for f in batch.futures if f._s is batch]
            self.forming.running -= len(running)
            self.counts.failed += len(accepted) + len(running)
            items = [future._v for future in accepted + running + away]
            ended = self._end_with(accepted + running, self._closed)
            left = len(ended)
            ended += self._turn_away(away)
            self.state = CLOSED
            self.forming.hurry = None
            self.need = 0
            self.forming.is_sealed = True
            self._end()
        del items
        self._announce(ended)
        self._forget_routes()
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
                self.forming.unseal()
                self._roused = False
                self._begin()
                self._look()
                self._end()

    def hurry(self, is_ending: bool = True) -> list[BatchFuture[Any]]:
        """Nothing lingers any more. Gives the futures of what is unresolved."""
        with self._lock:
            self._is_ending = is_ending
            self.forming.hurry = "close"
            self._begin()
            self._look()
            self._end()
            return self.unresolved()

    def forked(self) -> None:
        """In the child of a fork: forget everything, and end the copied futures in `Forked`.

        No callback runs: those belong to the parent.
        """
        self._lock = RLock()  # another thread may have held the old one
        running = [f for batch in self.batches for f in batch.futures if f._s is batch]
        accepted, away = self.forming.clear()
        for future in self._end_with(running + accepted + away, self._forked):
            future.__dict__.pop("view", None)  # its condition may be held by a thread of the parent
        self.batches.clear()
        self.watched.clear()
        self.forming.running = 0
        self.forming.hurry = None
        self.counts = Counts()
        self.generation += 1
        self._nested.clear()
        self._roused = self._is_ending = self._is_changing = False
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
            accepted = counts.succeeded + counts.failed + counts.cancelled + pending + running
            return Stats(
                submitted=accepted + counts.rejected + counts.gave_up + forming.waiting,
                accepted=accepted,
                rejected=counts.rejected,
                succeeded=counts.succeeded,
                failed=counts.failed,
                cancelled=counts.cancelled,
                pending=pending,
                running=running,
                batches=counts.batches,
                workers=self._worker_count(),
                reasons=MappingProxyType({r: counts.reasons[r] for r in REASONS}),
            )


def count_down(futures: Sequence[BatchFuture[Any]], done: Callable[[], object]) -> None:
    """Call `done()` once when all `futures` are done."""
    left: list[None] = [None] * (len(futures) + 1)

    def tick(_: object) -> None:
        left.pop()  # atomic, as the workers that tick are several
        if not left:
            done()

    for future in futures:
        if not future._watch(tick):
            tick(future)
    tick(None)
