"""The driver for `broker=`: a batch is what is sent at a time, and its items end as answers come.

The callers' side of the engine is the same as ever: the queue, its room, futures, flush and close.
A worker thread takes what is there, whatever it is called with, and hands it to the broker; then
the batch is *away*: it runs, and holds no permit. One thread hears the answers, as long as there
is something to hear.

Sizes, lingers, kinds of items and all the rest are the workers' affair, see `worker`.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from threading import get_ident
from typing import Any
from weakref import ref

from .. import waits
from ..broker import Broker, Letter, Outbox, Unreachable
from ..errors import DeadlineExceeded
from ..forming import Route
from ..future import BatchFuture, Failure
from ..observe import EVERYWHERE, Observers
from ..options import Live, Options, kind
from ..outcome import Give, caught
from ..outcome.faults import copies, failure_of
from ..stats import Stats
from ..terms import NO_TERMS, Terms, check_call
from . import lifecycle
from .base import Closer, limits_of
from .batch import Batch
from .looking import CLOSED, OPEN
from .mending import holding, mended
from .seam import THREADS, Bell, Seam
from .threads import Stop, ThreadEngine

log = logging.getLogger("batchify")

AT_ONCE = 500  # items that are sent at a time
PAUSE = 0.05  # seconds, between two looks whether there is room, or a server
LONGEST_PAUSE = 1.0
LISTEN = 1.0  # seconds that a look for answers waits for the first


class SendingScope:
    """The one engine of a function with a broker, with the options that its user knows."""

    caller_runs = False

    seam: Seam = THREADS  # a network has no other time

    def __init__(self, live: Live, takes_more: bool, function: Callable[..., Any]) -> None:
        self.live = live
        self.takes_more = takes_more
        self.engine = SendingEngine(live, takes_more, self.seam, function)
        self.observers = (EVERYWHERE, Observers(), Observers())

    @property
    def state(self) -> str:
        return self.engine.state

    @property
    def options(self) -> Options:
        return self.live.now

    def here(self) -> SendingEngine:
        return self.engine

    def engines(self) -> list[SendingEngine]:
        return [self.engine]

    def set_state(self, state: str) -> None:
        """`close`, `closed` and `start` of the engine do it."""

    def configure(self, option: str, value: object) -> None:
        self.live.change(option, value)
        self.engine.live = Live(_for_sending(self.options))
        self.engine.configured()

    def stats(self) -> Stats:
        return replace(self.engine.stats(), limits=limits_of(self.options))

    def submitter(
        self, function: Callable[..., Any], batched: Callable[[], Any]
    ) -> Callable[..., BatchFuture[Any]]:
        def submit(item: Any, /, *args: Any, **kwargs: Any) -> BatchFuture[Any]:
            return batched()._submit(item, args, kwargs)  # type: ignore[no-any-return]

        return submit


def _for_sending(options: Options) -> Options:
    """What the queue in front of the broker goes by."""
    size = AT_ONCE if options.capacity is None else min(AT_ONCE, options.capacity)
    return replace(
        options, size=size, linger=0.0, workers=1, key=None, weight=None, max_weight=None,
        dedupe=None, isolate=False, on_error=None, caller_runs=False,
    )  # fmt: skip


class SendingEngine(ThreadEngine):
    """An engine whose batches are sent to a broker, and answered one item at a time."""

    def __init__(
        self, live: Live, takes_extra: bool, seam: Seam, function: Callable[..., Any]
    ) -> None:
        super().__init__(Live(_for_sending(live.now)), False, seam)
        self.user = live  # the options of the function
        self.takes_extra = takes_extra
        self.broker: Broker = live.now.broker
        self._function = function
        self._box: Outbox | None = self.broker.outbox(function)
        self.away: dict[Batch, None] = {}
        self._under_way: dict[int, tuple[Batch, int]] = {}  # by number: whose answer is to come
        self._numbers = itertools.count(1)
        self._ear = 0  # the ident of the thread that hears the answers; 1 while it starts
        self._listener: object = None  # what that thread was started with
        self._is_flush_wanted = False  # what was sent is not to linger, and nobody has said so
        self._looked = 0.0  # when it was last asked for letters that are lost

    @property
    def outbox(self) -> Outbox:
        """The connection to the broker, made in each process."""
        with self._lock:  # one for the sender and the listener
            if self._box is None:
                self._box = self.broker.outbox(self._function)
            return self._box

    # ---- in ----

    def way(
        self, function: Callable[..., Any], item: Any, args: tuple[Any, ...],
        kwargs: dict[str, Any], batched: Callable[[], Any], priority: float = 0,
        deadline: float | None = None,
    ) -> tuple[Route, Terms]:  # fmt: skip
        """What a call asks for; its item is written here, where the caller hears of an error.

        Raises: as ever, and what the serializer raises.
        """
        try:
            check_call(self.user.now, self.takes_extra, item, args, kwargs)
            payload = self.broker.wire.pack(item, args, kwargs)
        except BaseException:
            self.reject()
            raise
        terms = NO_TERMS
        if priority or deadline is not None:
            end = None if deadline is None else self.seam.clock() + deadline
            terms = Terms(priority=priority, deadline=end)
        return Route(self, function, (payload,), batched=batched), terms

    def submit(
        self, route: Route, item: Any, terms: Terms = NO_TERMS, **how: Any
    ) -> BatchFuture[Any]:
        return super().submit(route, route.args[0], terms, **how)

    def submit_chunks(
        self, function: Callable[..., Any], chunks: list[list[Any]], batched: Callable[[], Any]
    ) -> list[BatchFuture[Any]]:
        return []  # each item has an answer of its own

    # ---- out ----

    def _rouse(self) -> None:
        super()._rouse()
        if not self._ear:
            with contextlib.suppress(RuntimeError):  # no thread is to be had: see `_written`
                self._listen()

    def _listen(self) -> None:
        """Start the thread that hears the answers (under the lock).

        By the caller, as the workers: at the end of the process no thread starts any more.
        """
        self._looked = self.seam.clock()
        self._listener = listener = object()
        self._ear = 1
        try:
            name = f"batchify:{self.options.name}:answers"
            self.seam.spawn(_listen, (self._weak, listener), name)
        except BaseException:
            self._ear, self._listener = 0, None  # if it did start, it sees that it is not the one
            raise

    def next(self, bell: Bell) -> Batch | float | Stop | None:
        if self._is_flush_wanted:
            self._tell_of_flush()
        return super().next(bell)

    def _tell_of_flush(self) -> None:
        self._is_flush_wanted = False  # first: who flushes now has it told once more
        try:
            self.outbox.flush()
        except Unreachable:
            self._is_flush_wanted = True  # the listener tries again
        except Exception as error:
            log.error("%s: a flush cannot be told of: %s", self.options.name, kind(error))

    @holding
    def execute(self, batch: Batch) -> BaseException | None:
        """Send one batch, and let go of it; its answers come later."""
        try:
            batch.has_begun = True
            self._send(self._written(batch), batch)
        except BaseException as error:
            self._fail(batch, failure_of(caught(error)))
        finally:
            waits.end_to_serve(batch, get_ident())
            self._let_go(batch)
            # A traceback reaches this frame by `f_back`: it must find, and keep, nothing here.
            del self, batch
        return None

    @holding
    def _written(self, batch: Batch) -> list[Letter]:
        """A letter for each item, whose answer is expected from now on."""
        with self._lock:
            self._begin()
            numbers = [next(self._numbers) for _ in batch.futures]
            for place, number in enumerate(numbers):
                self._under_way[number] = batch, place
            lifecycle.hold(self)
            if not self._ear and not self._is_ending:  # else nobody waits for answers
                self._listen()
            self._end()
        is_flushed = batch.is_flushed or self.state is not OPEN
        return [
            self._letter(number, future, is_flushed)
            for number, future in zip(numbers, batch.futures, strict=True)
        ]

    def _letter(self, number: int, future: BatchFuture[Any], is_flushed: bool) -> Letter:
        terms = future._terms
        deadline = None
        if terms.deadline is not None:
            deadline = time.time() + terms.deadline - self.seam.clock()
        payload = future._v if isinstance(future._v, bytes) else b""  # detached, and let go
        return Letter(number, payload, deadline, terms.priority, is_flushed)

    def _send(self, left: list[Letter], batch: Batch) -> None:
        """Hand them to the broker, as it has room, and as it can be reached."""
        began = self.seam.clock()
        pause = PAUSE
        while left and not self._is_stopping and any(f._s is batch for f in batch.futures):
            try:
                room = self.outbox.room()
                if room:
                    self.outbox.send(left[:room])
                    left = left[room:]
                else:
                    time.sleep(PAUSE)
                began, pause = self.seam.clock(), PAUSE
            except Unreachable as error:
                if self.seam.clock() - began > self.broker.send_timeout:
                    raise error.__cause__ or error from None
                log.warning("%s: the broker cannot be reached", self.options.name)
                time.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE)
            left = self._in_time(left, batch)
        if left:  # it is closed, or nobody waits for these any more
            self._give_up(batch, left, self._closed())

    def _in_time(self, letters: list[Letter], batch: Batch) -> list[Letter]:
        """Those whose deadline has not come; the others end."""
        now = time.time()
        late = [one for one in letters if one.deadline is not None and one.deadline <= now]
        if late:
            name = self.options.name
            self._give_up(batch, late, DeadlineExceeded(f"{name}: the item did not start in time"))
        return [one for one in letters if one not in late]

    def _give_up(self, batch: Batch, letters: list[Letter], error: Exception) -> None:
        found = [self._under_way.pop(letter.number, None) for letter in letters]
        places = [one[1] for one in found if one is not None]
        if places:
            self._settle(batch, places, copies(Failure(error), len(places)))

    def _settle(self, batch: Batch, places: Sequence[int], values: Sequence[Any]) -> None:
        """End items; who came too late is counted as that."""
        self.settle(batch, Give(places, values, False))
        late = sum(
            isinstance(value, Failure)
            and isinstance(value.error, DeadlineExceeded)
            and batch.futures[place]._v is value
            for place, value in zip(places, values, strict=True)
        )
        if late:
            with self._lock:
                self.counts.failed -= late
                self.counts.expired += late

    def _fail(self, batch: Batch, failure: Failure) -> None:
        numbers = [number for number, (one, _) in list(self._under_way.items()) if one is batch]
        found = [self._under_way.pop(number, None) for number in numbers]
        places = [one[1] for one in found if one is not None]
        if places:
            self._settle(batch, places, copies(failure, len(places)))
        elif not found:
            self.finish(batch, f"the batch could not be sent: {kind(failure.error)}")

    @holding
    def _let_go(self, batch: Batch) -> None:
        """The batch is in no thread's hand any more."""
        with self._lock:
            self._begin()
            if batch.left and batch in self.batches:  # else it was closed meanwhile
                self.away[batch] = None
            batch.thread = self._ear
            self.batches.discard(batch)
            self._look()
            self._end()
        self._after()

    # ---- back ----

    def hear(self, listener: object) -> bool:
        """Hear what answers there are; False when there is nothing to hear any more."""
        with self._lock:
            if self._listener is not listener:
                return False
            self._ear = get_ident()
            self._worker_idents.add(self._ear)
        try:
            if self._is_flush_wanted:
                self._tell_of_flush()
            self._hear_answers(LISTEN)
            if self.seam.clock() - self._looked > self.broker.lease:
                self._send_again()
        except Unreachable:
            time.sleep(LONGEST_PAUSE)
            self._looked = -math.inf  # what the server lost, if it was started anew
        except Exception as error:
            log.error("%s: answers cannot be read: %s", self.options.name, kind(error))
            time.sleep(LONGEST_PAUSE)
        with self._lock:
            if self._under_way or self.batches or self.forming.pending:
                return True
            self._ear, self._listener = 0, None
            self._worker_idents.discard(get_ident())
            lifecycle.let_go(self)
        self._hang_up()
        return False

    def _hang_up(self) -> None:
        """Close the connections, if nobody calls or listens any more."""
        if self.state is CLOSED and not self._ear and self._box is not None:
            box, self._box = self._box, None
            box.stop()

    def _hear_answers(self, seconds: float) -> bool:
        """Settle what has ended; were there any?"""
        answers = self.outbox.answers(seconds)
        by_batch: dict[Batch, list[tuple[int, Any]]] = {}
        for number, payload in answers:
            known = self._under_way.pop(number, None)
            if known is not None:  # an item that ran twice is answered twice
                batch, place = known
                outcome = self.broker.wire.unpack_outcome(payload)
                by_batch.setdefault(batch, []).append((place, outcome))
        for batch, found in by_batch.items():
            places = [place for place, _ in found]
            values = [value for _, value in found]
            self._give(batch, places, values)
        return bool(answers)

    def _give(self, batch: Batch, places: Sequence[int], values: Sequence[Any]) -> None:
        # For callbacks that wait, or submit. (Its sender may still have it in hand, too.)
        waits.serving_threads.setdefault(self._ear, []).append(batch)
        try:
            self._settle(batch, places, values)
        finally:
            waits.end_to_serve(batch, self._ear)
        if not batch.left:
            self.away.pop(batch, None)

    def _send_again(self) -> None:
        """Send what the broker has lost.

        Whoever settles an item answers in the same step. So what is missing was answered before,
        and the answer is there now; or it was lost.
        """
        self._looked = self.seam.clock()
        away = [number for number, (one, _) in list(self._under_way.items()) if one in self.away]
        missing = self.outbox.missing(away)
        if not missing:
            return
        while self._hear_answers(0.0):
            pass
        letters = []
        for number in missing:
            batch, place = self._under_way.get(number, (None, 0))
            if batch is None:
                continue
            future = batch.futures[place]
            if future._s is batch:
                letters.append(self._letter(number, future, is_flushed=True))
            elif self._under_way.pop(number, None) is not None:
                self._give(batch, [place], [None])  # detached: nobody waits for it
        if letters:
            log.warning("%s: %d lost items are sent again", self.options.name, len(letters))
            self.outbox.send(letters)

    # ---- who waits for whom ----

    def holders(self, me: Any) -> list[Any] | None:
        return [self._ear] if self._ear else None

    def holders_of(self, batch: Batch, me: Any) -> list[Any] | None:
        return [batch.thread if batch in self.batches else self._ear]

    # ---- life ----

    def _running(self) -> list[BatchFuture[Any]]:
        away = [f for batch in list(self.away) for f in batch.futures if f._s is batch]
        return super()._running() + away

    def flush(self) -> list[BatchFuture[Any]]:
        left = super().flush()
        self._flush_away()
        return left

    def close(self, cancel: bool, closer: Closer) -> list[BatchFuture[Any]]:
        left = super().close(cancel, closer)
        self._flush_away()
        return left

    @mended
    def _flush_away(self) -> None:
        """Have workers let go of what lingers with them: a thread of ours tells them."""
        with self._lock:
            self._begin()
            if self._under_way:
                self._is_flush_wanted = True
                if not self._roused and self._idle:
                    self._rouse()
            self._end()
        self._after()

    LOOK = 0.02

    def is_safe(self, future: BatchFuture[Any]) -> bool:
        return future._s in self.away

    def hurry(self, is_ending: bool = True) -> list[BatchFuture[Any]]:
        """The end of the process waits for what is not sent: the rest is safe where it is."""
        return [future for future in super().hurry(is_ending) if not self.is_safe(future)]

    def closed(self, abandon: bool = True) -> int:
        known = [*self.away, *self.batches] if abandon else []
        left = super().closed(abandon)
        for batch in known:  # not those of who has opened it again meanwhile
            self._forget(batch)
        self._hang_up()
        return left

    def _forget(self, batch: Batch) -> None:
        self.away.pop(batch, None)
        for number, (one, _) in list(self._under_way.items()):
            if one is batch:
                self._under_way.pop(number, None)

    def forked(self) -> None:
        super().forked()
        self.away.clear()
        self._under_way.clear()
        self._ear, self._listener, self._box = 0, None, None
        self._is_flush_wanted = False


def _listen(weak: ref[SendingEngine], listener: object) -> None:
    """The life of the thread that hears the answers."""
    while True:
        engine = weak()
        try:
            if engine is None or not engine.hear(listener):
                return
        except BaseException as error:  # no memory, or somebody kills threads: it must go on
            log.error("hearing answers was broken off by %s", kind(error))
        del engine
