"""What both drivers share: the way in, the settling, cancelling, flushing and closing.

    open ──► closing ──► closed ──► (start) open

A caller's way in is `append` and one compare: `len(intake) >= need`. `need` says how long the
intake must be for a caller to have anything to do: wake a worker, or wait for room. It is written
under the lock only. While the room may shrink it is 0, so that no caller passes unseen; who
writes it looks at the intake again afterwards, so that no item is left without a wake-up.

The lock is re-entrant: a finalizer or a signal handler that comes while a thread holds it finds
it owned, leaves a note (`_again`), and the holder looks again when it has let go. No user code
runs under it.
"""

from __future__ import annotations

from asyncio import _get_running_loop as running_loop
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from threading import RLock, get_ident
from types import MappingProxyType
from typing import Any
from weakref import ref

from .. import waits
from ..errors import Closed, Deadlock, Forked, QueueFull
from ..forming import Group, Grouped, Plain, Route, Waiting
from ..future import CANCELLED, ERROR, RESULT, BatchFuture, Done, Failure, Refused, fire
from ..loopfuture import LoopFuture, port_of
from ..options import Options
from ..outcome import Give
from ..stats import REASONS, Counts, Stats
from .seam import Seam

OPEN, CLOSING, CLOSED = "open", "closing", "closed"


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


class Engine:
    """The queue and the workers of one decorated function (or of one instance's)."""

    def __init__(self, options: Options, is_grouped: bool, seam: Seam) -> None:
        self.options = options
        self.is_grouped = is_grouped
        self.seam = seam
        self.intake: deque[Any] = deque()
        self.need = 1
        self.watched: dict[BatchFuture[Any], deque[Callable[[Any], object]]] = {}
        self.batches: set[Batch] = set()
        self.has_loop_callers = False
        kind = Grouped if is_grouped else Plain
        self.forming: Plain | Grouped = kind(
            self.intake, options.size, options.linger, options.capacity
        )
        self.routes: dict[Any, Route] = {}  # of a Grouped forming, by extra arguments
        self.counts = Counts()
        self.state = OPEN
        self.generation = 0  # grows with each fork
        self._lock = RLock()
        self._again = False
        self._roused = False  # somebody was woken, and has not looked yet
        self._is_ending = False  # the process or the loop ends

    # ---- the driver's part ----

    def _is_free(self) -> bool:
        """Could one more batch run at once?"""
        raise NotImplementedError

    def _rouse(self) -> None:
        """Have a free worker look (under the lock)."""
        raise NotImplementedError

    def _has_alarm(self, when: float) -> bool:
        """Is somebody going to look at `when`, or earlier?"""
        raise NotImplementedError

    def _set_alarm(self, when: float) -> None:
        """Have somebody look at `when`."""
        raise NotImplementedError

    def _worker_count(self) -> int:
        raise NotImplementedError

    def _reset_workers(self) -> None:
        """Forget the workers, in a forked child."""
        raise NotImplementedError

    def holders(self, me: Any) -> list[Any] | None:
        """Who must act before a pending item can start, see `waits`."""
        raise NotImplementedError

    def holders_of(self, batch: Batch, me: Any) -> list[Any] | None:
        """Who must act before `batch` can end."""
        raise NotImplementedError

    # ---- in ----

    def route(
        self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any],
        batched: Callable[[], Any],
    ) -> Route:  # fmt: skip
        """Where a call with these extra arguments goes: equal ones go the same way.

        Raises:
            TypeError: an extra argument cannot be hashed.
        """
        if isinstance(self.forming, Plain):
            return Route(self, function, batched=batched)
        try:
            key = route_key(args, kwargs)
            found = self.routes.get(key)
        except TypeError as error:
            self.reject()
            raise TypeError(
                f"extra arguments of {self.options.name} must be hashable, as only calls with "
                f"equal ones share a batch: {error}"
            ) from None
        # One C call makes it exactly once; who hashes and compares is the caller, without a lock.
        return found or self.routes.setdefault(key, Route(self, function, args, kwargs, batched))

    def submitter(
        self, function: Callable[..., Any], batched: Callable[[], Any]
    ) -> Callable[[Any], BatchFuture[Any]]:
        """The hot path: a closure that submits one item without extra arguments."""
        route = Route(self, function, batched=batched)
        intake = self.intake
        append = intake.append
        clock = self.seam.clock

        def submit(item: Any) -> BatchFuture[Any]:
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

    def submit(
        self,
        route: Route,
        item: Any,
        *,
        wait: bool = True,
        timeout: float | None = None,
        admitted: Callable[[], object] | None = None,
    ) -> BatchFuture[Any]:
        """Submit one item, with options for the call."""
        loop = running_loop()
        future: BatchFuture[Any] = BatchFuture() if loop is None else self._loop_future(loop)
        future._v = item
        future._t = self.seam.clock()
        future._s = route
        self.intake.append(future)
        if len(self.intake) >= self.need:
            try:
                return self.crowded(future, route, wait, timeout, admitted)
            except BaseException:
                self._forget_routes(route)
                raise
        return future

    def _loop_future(self, loop: Any) -> LoopFuture[Any]:
        self.has_loop_callers = True
        future: LoopFuture[Any] = LoopFuture()
        future._port = port_of(loop)
        future._callbacks = None
        future._asyncio_future_blocking = False
        return future

    def crowded(
        self,
        future: BatchFuture[Any],
        route: Route,
        wait: bool = True,
        timeout: float | None = None,
        admitted: Callable[[], object] | None = None,
    ) -> BatchFuture[Any]:
        """What a caller does who found the intake as long as `need`."""
        if self._lock._is_owned():  # type: ignore[attr-defined]
            self._again = True
            return future
        bell = None
        with self._lock:
            if self.state is not OPEN:
                if not self._take_back(future):
                    return future  # it came just before the close
                raise self._refused(future, self._closed())
            try:
                self._look()
            except RuntimeError as error:  # no thread could be started
                if self._worker_count() or not self._take_back(future):
                    return future
                raise self._refused(future, error) from None
            if self.forming.is_waiting(future):
                on_loop = isinstance(future, LoopFuture)
                if not wait or (not on_loop and waits.serves(self)):
                    self.forming.withdraw(future)
                    why = self._full() if not wait else self._own_queue_full()
                    raise self._refused(future, why)
                if not on_loop:
                    bell = self.seam.bell()
                    admitted = bell.ring
                future._s = Waiting(route, admitted)
                self.forming.waiting += 1
                self._look()
        if self._again:
            self._look_again()
        if bell is not None:
            self._wait_for_room(future, bell, timeout)
        elif timeout is not None and isinstance(future, LoopFuture):
            future._port.loop.call_later(timeout, self._expire, ref(future))
        elif self._is_ending and not isinstance(future, LoopFuture):
            self._wait_at_the_end(future)
        return future

    def _wait_for_room(self, future: BatchFuture[Any], bell: Any, timeout: float | None) -> None:
        is_over = False
        try:
            waits.check(self)
            with waits.waiting(self, timeout):
                bell.wait(timeout)
            is_over = True
        finally:
            with self._lock:
                was_waiting = future._s.__class__ is Waiting and self.forming.withdraw(future)
                if was_waiting:
                    self._refused(future, self._full())
            if self._again:
                self._look_again()
        if is_over and was_waiting:
            raise self._full()
        if future._s is CANCELLED:
            raise self._closed()

    def _expire(self, weak: ref[LoopFuture[Any]]) -> None:
        """A call on a loop waited too long for its room."""
        future = weak()
        if future is None:
            return
        with self._lock:
            state = future._s
            if state.__class__ is not Waiting or not self.forming.withdraw(future):
                return
            future._s = state
            self.counts.rejected += 1
            self._end_with((future,), self._full, Refused)
        self._tell_admitted(state)
        self._announce((future,))

    def _wait_at_the_end(self, future: BatchFuture[Any]) -> None:
        """While the process ends, a thread stays until its item is done: it is being waited for."""
        if waits.serving_threads.get(get_ident()):
            return
        bell = self.seam.bell()
        if future._watch(bell.poke):
            bell.wait(self.options.exit_timeout)

    def _take_back(self, future: BatchFuture[Any]) -> bool:
        """Take an item out that was appended a moment ago; False when a batch has it."""
        return future._s is CANCELLED or self.forming.withdraw(future)

    def _refused(self, future: BatchFuture[Any], error: Exception) -> Exception:
        """Count a refused call; who watches all that is in the queue must hear of it."""
        self.counts.rejected += 1
        self._announce((future,))
        return error

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
        while True:
            if forming.capacity is not None:
                self.need = 0
            for admitted in forming.accept():
                if admitted is not None:
                    admitted()
            if not self._roused and self._is_free():
                decision = forming.next(self.seam.clock())
                if decision.reason is not None:
                    self._rouse()
                elif decision.when is not None and not self._has_alarm(decision.when):
                    self._set_alarm(decision.when)
            self._set_need()
            if self._has_seen_all():
                return

    def _has_seen_all(self) -> bool:
        """Nothing came in between that nobody looks at (at need 0 every caller does)."""
        held = len(self.intake)
        return self.need == 0 or held < self.need or held == self.forming.seen

    def _set_need(self) -> None:
        if self.state is not OPEN or self._is_ending:
            self.need = 0
        else:
            self.need = self.forming.threshold(not self._roused and self._is_free())

    def _look_again(self) -> None:
        with self._lock:
            self._again = False
            self._look()

    def _take(self) -> Batch | float | None:
        """The next batch for a free worker, or when to look again (under the lock)."""
        forming = self.forming
        if forming.capacity is not None:
            self.need = 0
        for admitted in forming.accept():
            if admitted is not None:
                admitted()
        decision = forming.next(self.seam.clock())
        if decision.group is None:
            return decision.when
        group: Group = decision.group
        reason = decision.reason or ""
        batch = Batch(self, group.route, reason)
        batch.futures = forming.take(group, batch)
        self.batches.add(batch)
        self.counts.batches += 1
        self.counts.reasons[reason] += 1
        return batch

    def _forget_routes(self, refused: Route | None = None) -> None:
        """Let go of the extra arguments that no pending item has (without the lock: hashes them)."""
        if not isinstance(self.forming, Grouped):
            return
        gone = self.forming.gone
        if refused is not None and refused not in self.forming.by_route:
            gone.append(refused)
        while gone:
            route = gone.pop()
            key = route_key(route.args, route.kwargs)
            if self.routes.get(key) is route:
                del self.routes[key]

    # ---- out ----

    def settle(self, batch: Batch, give: Give) -> None:
        """End futures of `batch` with their values, then tell everyone."""
        values = give.values
        futures: Sequence[BatchFuture[Any]] = batch.futures
        if len(values) != len(futures):
            futures = futures[give.start : give.start + len(values)]
        succeeded = failed = 0
        with self._lock:
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
        self._announce(futures)
        if self._again:
            self._look_again()

    def _announce(self, futures: Iterable[BatchFuture[Any]]) -> None:
        """Tell those who wait for `futures`, which are done: loops first, then callbacks."""
        if self.has_loop_callers:
            by_port: dict[Any, list[LoopFuture[Any]]] = {}
            for future in futures:
                if isinstance(future, LoopFuture):
                    by_port.setdefault(future._port, []).append(future)
            for port, ended in by_port.items():
                port.post(ended)
        watched = self.watched
        if watched:
            for future in futures:
                pokes = watched.pop(future, None)
                if pokes is not None:
                    fire(pokes, future)

    def _end_with(
        self,
        futures: Iterable[BatchFuture[Any]],
        error: Callable[[], Exception],
        kind: type[Failure] = Failure,
    ) -> list[BatchFuture[Any]]:
        """End futures with an error (under the lock); gives them, to be announced."""
        ended = []
        for future in futures:
            if future._s.__class__ is not Done:
                future._v = kind(error())
                future._s = ERROR
                ended.append(future)
        return ended

    def finish(self, batch: Batch) -> None:
        """`batch` is over; what it left unsettled (it never does) must not hang."""
        with self._lock:
            self.batches.discard(batch)

    def cancel(self, future: BatchFuture[Any]) -> bool:
        """Take out one item; see `BatchFuture.cancel`."""
        is_nested = self._lock._is_owned()  # type: ignore[attr-defined]
        with self._lock:
            state = future._s
            if state.__class__ is Done:
                return state is CANCELLED
            if state.is_running:
                if future.__class__ is not LoopFuture:
                    return False
                future._s = CANCELLED  # detached: the batch goes on without it
                self.counts.cancelled += 1
                self.forming.running -= 1
            elif self.forming.cancel(future):
                self.counts.cancelled += 1
            else:
                self.counts.gave_up += 1
            if is_nested:
                self._again = True
            else:
                self._look()
        self._announce((future,))
        self._forget_routes()
        if self._again and not is_nested:
            self._look_again()
        return True

    # ---- flush, close, exit, fork ----

    def unresolved(self) -> list[BatchFuture[Any]]:
        """The futures of all accepted items that are not done (under the lock)."""
        running = [f for batch in self.batches for f in batch.futures if f._s is batch]
        return running + self.forming.entries()

    def left(self) -> list[BatchFuture[Any]]:
        """`unresolved`, for who does not hold the lock."""
        with self._lock:
            self._look()
            return self.unresolved()

    def flush(self) -> list[BatchFuture[Any]]:
        """Let what was accepted leave now; gives the futures to wait for."""
        with self._lock:
            self._look()
            self.forming.force()
            self._look()
            return self.unresolved()

    def close(self, cancel: bool) -> list[BatchFuture[Any]]:
        """Refuse new items; gives the futures to wait for before `closed`."""
        with self._lock:
            if self.state is CLOSED:
                return []
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
            ended = self._end_with(accepted, self._closed) + self._turn_away(away)
            self._look()
            left = self.unresolved()
        self._announce(ended)
        return left

    def _turn_away(self, away: list[BatchFuture[Any]]) -> list[BatchFuture[Any]]:
        """Refuse those who waited for room: the calls that block raise, the futures end."""
        ended = []
        for future in away:
            state = future._s
            self.counts.rejected += 1
            if isinstance(future, LoopFuture):
                ended += self._end_with((future,), self._closed, Refused)
            else:
                self.counts.rejected -= state.__class__ is Route  # its caller counts itself
                future._s = CANCELLED
                ended.append(future)
            self._tell_admitted(state)
        return ended

    @staticmethod
    def _tell_admitted(state: Any) -> None:
        """Wake who waits for room, to see what became of it."""
        if state.__class__ is Waiting and state.admitted is not None:
            state.admitted()

    def closed(self, abandon: bool = True) -> int:
        """The end of a close: what is left ends in `Closed`. Gives how many those were.

        Args:
            abandon: end also the items of batches that run; else these end by themselves.
        """
        with self._lock:
            self._look()
            self.need = 0
            accepted, away = self.forming.clear()
            running = []
            if abandon:
                running = [f for batch in self.batches for f in batch.futures if f._s is batch]
            self.forming.running -= len(running)
            self.counts.failed += len(accepted) + len(running)
            ended = self._end_with(accepted + running, self._closed)
            left = len(ended)
            ended += self._turn_away(away)
            self.state = CLOSED
            self.forming.hurry = None
            self.need = 0
            self.forming.is_sealed = True
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
                self._look()

    def hurry(self, is_ending: bool = True) -> list[BatchFuture[Any]]:
        """Nothing lingers any more. Gives the futures of what is unresolved."""
        with self._lock:
            self._is_ending = is_ending
            self.forming.hurry = "close"
            self._look()
            return self.unresolved()

    def forked(self) -> None:
        """In the child of a fork: forget everything, and end the copied futures in `Forked`.

        No callback runs: those belong to the parent.
        """
        self._lock = RLock()  # another thread may have held the old one
        running = [f for batch in self.batches for f in batch.futures if f._s is batch]
        accepted, away = self.forming.clear()
        self._end_with(running + accepted + away, self._forked)
        self.batches.clear()
        self.watched.clear()
        self.forming.running = 0
        self.forming.hurry = None
        self.counts = Counts()
        self.generation += 1
        self._again = self._roused = self._is_ending = False
        if self.state is OPEN:
            self.forming.unseal()
        self._reset_workers()
        self.need = 1 if self.state is OPEN else 0

    def _forked(self) -> Forked:
        return Forked(f"this item of {self.options.name} is run by the parent process only")

    # ---- what it did ----

    def stats(self) -> Stats:
        """A consistent snapshot."""
        with self._lock:
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

    def reject(self) -> None:
        """Count a call that was refused for its arguments."""
        with self._lock:
            self.counts.rejected += 1


def route_key(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    """What must be equal for two calls to share a batch."""
    return (args, frozenset(kwargs.items())) if kwargs else args


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
