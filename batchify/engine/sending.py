"""The driver for `broker=`: a batch is what is sent at a time, and its items end as answers come.

The callers' side of the engine is the same as ever: the queue, its room, futures, flush and close.
A worker thread takes what is there, whatever it is called with, and hands it to the broker; then
the batch is *away*: it runs, and holds no permit (see `answers`).

Sizes, lingers, kinds of items and all the rest are the workers' affair, see `worker`.
"""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Callable
from dataclasses import replace
from threading import get_ident
from typing import Any

from .. import waits
from ..broker import Message, Unreachable
from ..errors import late_error
from ..forming import Route
from ..future import BatchFuture, Failure
from ..logs import error_text
from ..observe import EVERYWHERE, Observers
from ..options import Live, Options, kind
from ..outcome import Raised, to_raised
from ..outcome.exceptions import copies, failure_of
from ..stats import Stats
from ..terms import NO_TERMS, Terms, check_call
from . import lifecycle
from .answers import Answered
from .base import Closer, limits_of
from .batch import Batch
from .looking import OPEN
from .mending import LONGEST_PAUSE, holding, mended
from .seam import THREADS, Bell, Seam
from .threads import Stop

log = logging.getLogger("batchify")

AT_ONCE = 500  # items that are sent at a time
PAUSE = 0.05  # seconds, between two looks whether there is room, or a server


class SendingScope:
    """The one engine of a function with a broker, with the options that its user knows."""

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
        dedupe=None, isolate=False, on_error=None,
    )  # fmt: skip


class SendingEngine(Answered):
    """An engine whose batches are sent to a broker, and answered one item at a time."""

    def __init__(
        self, live: Live, takes_extra: bool, seam: Seam, function: Callable[..., Any]
    ) -> None:
        super().__init__(Live(_for_sending(live.now)), seam, live.now.broker, function)
        self.user = live  # the options of the function
        self.takes_extra = takes_extra

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
            payload = self.broker.codec.pack(item, args, kwargs)
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

    def next(self, bell: Bell) -> Batch | float | Stop | None:
        if self._is_flush_wanted:
            self._tell_of_flush()
        return super().next(bell)

    @holding
    def execute(self, batch: Batch) -> None:
        """Send one batch, and let go of it; its answers come later."""
        try:
            batch.has_begun = True
            self._send(self._written(batch), batch)
        except BaseException as error:
            self._fail(batch, failure_of(to_raised(error), self.options.name))
        finally:
            self._free_lock()  # as a worker does
            waits.end_to_serve(batch, get_ident())
            self._let_go(batch)
            # A traceback reaches this frame by `f_back`: it must find, and keep, nothing here.
            del self, batch

    @holding
    def _written(self, batch: Batch) -> list[Message]:
        """A message for each item, whose answer is expected from now on."""
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
            self._message(number, future, is_flushed)
            for number, future in zip(numbers, batch.futures, strict=True)
        ]

    def _send(self, left: list[Message], batch: Batch) -> None:
        """Hand them to the broker, as it has room, and as it can be reached."""
        began = self.seam.clock()
        pause = PAUSE
        why: BaseException = self._closed()  # or nobody waits for these any more
        while left and not self._is_stopping and any(f._s is batch for f in batch.futures):
            try:
                room = self.producer.capacity()
                if room:
                    left = left[self.producer.send(left[:room]) :]
                else:
                    time.sleep(PAUSE)
                began, pause = self.seam.clock(), PAUSE
            except Unreachable as error:
                if self.seam.clock() - began > self.broker.send_timeout:
                    why = error.__cause__ or error
                    break
                text = error_text(error.__cause__ or error)
                log.warning("%s: cannot reach the broker: %s", self.options.name, text)
                time.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE)
            except Exception as error:  # it is refused
                why = error
                break
            left = self._in_time(left, batch)
        self._give_up(batch, left, why)

    def _in_time(self, messages: list[Message], batch: Batch) -> list[Message]:
        """Those whose deadline has not come; the others end."""
        now = time.time()
        late = [one for one in messages if one.deadline is not None and one.deadline <= now]
        if late:
            self._give_up(batch, late, late_error(self.options.name))
        return [one for one in messages if one.deadline is None or one.deadline > now]

    def _give_up(self, batch: Batch, messages: list[Message], error: BaseException) -> None:
        """End those that are not sent."""
        numbers = [message.number for message in messages]
        failure = failure_of(Raised(error, None), self.options.name)
        self._end_letters(batch, numbers, failure)

    def _fail(self, batch: Batch, failure: Failure) -> None:
        """End all that has no answer yet."""
        numbers = [number for number, (one, _) in list(self._under_way.items()) if one is batch]
        self._end_letters(batch, numbers, failure)
        if not numbers:
            self.finish(batch, f"the batch could not be sent ({kind(failure.error)})")

    def _end_letters(self, batch: Batch, numbers: list[int], failure: Failure) -> None:
        found = [self._under_way.pop(number, None) for number in numbers]
        places = [one[1] for one in found if one is not None]
        if places:
            self._settle(batch, places, copies(failure, len(places)))

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

    # ---- life ----

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
