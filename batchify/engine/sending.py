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
from .mending import holding
from .seam import Seam
from .threads import ThreadEngine

log = logging.getLogger("batchify")

AT_ONCE = 500  # items that are sent at a time
PAUSE = 0.05  # seconds, between two looks whether there is room, or a server
LONGEST_PAUSE = 1.0
LISTEN = 1.0  # seconds that a look for answers waits for the first


class SendingScope:
    """The one engine of a function with a broker, with the options that its user knows."""

    caller_runs = False

    def __init__(
        self, live: Live, takes_more: bool, seam: Seam, function: Callable[..., Any]
    ) -> None:
        self.live = live
        self.takes_more = takes_more
        self.seam = seam
        self.engine = SendingEngine(live, takes_more, seam, function)
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
        self._looked = 0.0  # when it was last asked for letters that are lost

    @property
    def outbox(self) -> Outbox:
        """The connection to the broker, made in each process."""
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

    @holding
    def execute(self, batch: Batch) -> BaseException | None:
        """Send one batch, and let go of it; its answers come later."""
        try:
            batch.has_begun = True
            letters = self._written(batch)
            self._send(letters, batch)
            if batch.is_flushed and not letters[0].is_flushed:  # meanwhile
                self.outbox.flush()
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
            if not self._ear:
                self._start_to_listen()
            self._end()
        is_flushed = batch.is_flushed or self.state is not OPEN
        return [
            self._letter(number, future, is_flushed)
            for number, future in zip(numbers, batch.futures, strict=True)
        ]

    def _start_to_listen(self) -> None:
        self._looked = self.seam.clock()
        self._ear = 1
        try:
            self.seam.spawn(_listen, (self._weak,), f"batchify:{self.options.name}:answers")
        except BaseException as error:
            self._ear = 0
            if not (isinstance(error, RuntimeError) and self._is_ending):
                raise  # else no thread starts any more, and nobody waits for answers

    def _letter(self, number: int, future: BatchFuture[Any], is_flushed: bool) -> Letter:
        terms = future._terms
        deadline = None
        if terms.deadline is not None:
            deadline = time.time() + terms.deadline - self.seam.clock()
        payload = future._v if isinstance(future._v, bytes) else b""  # detached, and let go
        return Letter(number, payload, deadline, terms.priority, is_flushed)

    def _send(self, letters: list[Letter], batch: Batch) -> None:
        """Hand them to the broker, as it has room, and as it can be reached."""
        left = letters
        began = self.seam.clock()
        pause = PAUSE
        while left and any(future._s is batch for future in batch.futures):
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
        if left:  # nobody waits for these any more
            found = [self._under_way.pop(letter.number, None) for letter in left]
            places = [one[1] for one in found if one is not None]
            self.settle(batch, Give(places, [None] * len(places), False))

    def _fail(self, batch: Batch, failure: Failure) -> None:
        numbers = [number for number, (one, _) in list(self._under_way.items()) if one is batch]
        found = [self._under_way.pop(number, None) for number in numbers]
        places = [one[1] for one in found if one is not None]
        if places:
            self.settle(batch, Give(places, copies(failure, len(places)), False))
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

    def hear(self) -> bool:
        """Hear what answers there are; False when nothing is under way any more."""
        self._ear = get_ident()
        self._worker_idents.add(self._ear)
        try:
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
            if self._under_way:
                return True
            self._ear = 0
            self._worker_idents.discard(get_ident())
            lifecycle.let_go(self)
        self._hang_up()
        return False

    def _hang_up(self) -> None:
        """Close the connections, if nobody calls or listens any more."""
        if self.state is CLOSED and not self._ear and self._box is not None:
            box, self._box = self._box, None
            box.stop()

    def _hear_answers(self, seconds: float) -> None:
        by_batch: dict[Batch, list[tuple[int, Any]]] = {}
        for number, payload in self.outbox.answers(seconds):
            known = self._under_way.pop(number, None)
            if known is not None:  # an item that ran twice is answered twice
                batch, place = known
                outcome = self.broker.wire.unpack_outcome(payload)
                by_batch.setdefault(batch, []).append((place, outcome))
        for batch, found in by_batch.items():
            places = [place for place, _ in found]
            values = [value for _, value in found]
            self._give(batch, places, values)

    def _give(self, batch: Batch, places: Sequence[int], values: Sequence[Any]) -> None:
        # For callbacks that wait, or submit. (Its sender may still have it in hand, too.)
        waits.serving_threads.setdefault(self._ear, []).append(batch)
        try:
            self.settle(batch, Give(places, values, False))
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
        self._hear_answers(0.0)
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

    def _flush_away(self) -> None:
        """Have workers let go of what lingers with them; nobody waits for that."""
        if self.away:
            with contextlib.suppress(RuntimeError):  # no thread is to be had: then they linger
                self.seam.spawn(_flush, (self.outbox,), f"batchify:{self.options.name}:flush")

    LOOK = 0.02

    def is_safe(self, future: BatchFuture[Any]) -> bool:
        return future._s in self.away

    def hurry(self, is_ending: bool = True) -> list[BatchFuture[Any]]:
        """The end of the process waits for what is not sent: the rest is safe where it is."""
        return [future for future in super().hurry(is_ending) if not self.is_safe(future)]

    def closed(self, abandon: bool = True) -> int:
        left = super().closed(abandon)
        if abandon:
            self._forget_away()
        self._hang_up()
        return left

    def forked(self) -> None:
        super().forked()
        self._forget_away()
        self._ear = 0
        self._box = None

    def _forget_away(self) -> None:
        self.away.clear()
        self._under_way.clear()
        lifecycle.let_go(self)


def _listen(weak: ref[SendingEngine]) -> None:
    """The life of the thread that hears the answers."""
    while True:
        engine = weak()
        try:
            if engine is None or not engine.hear():
                return
        except BaseException as error:  # no memory, or somebody kills threads: it must go on
            log.error("hearing answers was broken off by %s", kind(error))
        del engine


def _flush(outbox: Outbox) -> None:
    try:
        outbox.flush()
    except Unreachable:
        log.warning("a flush did not reach the broker")
