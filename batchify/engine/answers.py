"""What was sent to a broker, and is to be answered: the other half of `sending`.

A batch that was sent is *away*: it runs, in no thread's hand, until each of its items has an
answer. One thread hears them, as long as there is something to hear.
"""

from __future__ import annotations

import itertools
import logging
import math
import time
from collections.abc import Callable, Sequence
from threading import get_ident
from typing import Any
from weakref import ref

from .. import waits
from ..broker import Broker, Message, Producer, Unreachable
from ..errors import DeadlineExceeded
from ..future import BatchFuture, Failure
from ..logs import error_text, items
from ..options import Live
from ..outcome import Settle
from . import lifecycle
from .base import Closer
from .batch import Batch
from .looking import CLOSED
from .mending import LONGEST_PAUSE, live_on
from .seam import Seam
from .threads import ThreadEngine, recover_engine

log = logging.getLogger("batchify")

LISTEN = 1.0  # seconds that a look for answers waits for the first


class Answered(ThreadEngine):
    """An engine whose batches end by answers, one item at a time."""

    def __init__(
        self, live: Live, seam: Seam, broker: Broker, function: Callable[..., Any]
    ) -> None:
        self.broker = broker
        self._function = function
        self._box: Producer | None = broker.producer(function)
        self.away: dict[Batch, None] = {}
        self._under_way: dict[int, tuple[Batch, int]] = {}  # by number: whose answer is to come
        self._heard: list[tuple[Batch, list[tuple[int, Any]]]] = []  # answers to be given
        self._numbers = itertools.count(1)
        self._ear = 0  # the ident of the thread that hears the answers; 1 while it starts
        self._listener: object = None  # what that thread was started with
        self._is_flush_wanted = False  # what was sent is not to linger, and nobody has said so
        self._looked = 0.0  # when it was last asked for messages that are lost
        super().__init__(live, False, seam)  # last: a fork may come as soon as it is registered

    @property
    def producer(self) -> Producer:
        """The connection to the broker, made in each process."""
        with self._lock:  # one for the sender and the listener
            if self._box is None:
                self._box = self.broker.producer(self._function)
            return self._box

    # ---- messages ----

    def _message(self, number: int, future: BatchFuture[Any], is_flushed: bool) -> Message:
        terms = future._terms
        deadline = None
        if terms.deadline is not None:
            deadline = time.time() + terms.deadline - self.seam.clock()
        payload = future._v if isinstance(future._v, bytes) else b""  # detached, and let go
        return Message(number, payload, deadline, terms.priority, is_flushed)

    def _settle(self, batch: Batch, places: Sequence[int], values: Sequence[Any]) -> None:
        """End items; who came too late is counted as that."""
        self.settle(batch, Settle(places, values, False))
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
            self._after()

    def _tell_of_flush(self) -> None:
        self._is_flush_wanted = False  # first: who flushes now has it told once more
        is_sending = bool(self.batches)  # what is being sent may come behind that
        try:
            self.producer.flush()
            if is_sending:
                self._is_flush_wanted = True
        except Unreachable:
            self._is_flush_wanted = True  # the listener tries again
        except Exception as error:
            name, text = self.options.name, error_text(error)
            log.error("%s: sending a flush to the workers failed with %s", name, text)

    def _listen(self) -> None:
        """Start the thread that hears the answers (under the lock).

        By the caller, as the workers: at the end of the process no thread starts any more.
        """
        self._looked = self.seam.clock()
        self._listener = listener = object()
        self._ear = 1
        try:
            name = f"batchify:{self.options.name}:answers"
            self.seam.spawn(live_on, (_listen, recover_engine, self._weak, listener), name)
        except BaseException:
            self._ear, self._listener = 0, None  # if it did start, it sees that it is not the one
            raise

    # ---- back ----

    def hear(self, listener: object) -> bool:
        """Hear what answers there are; False when there is nothing to hear any more."""
        with self._lock:
            if self._listener is not listener:
                return False
            self._ear = get_ident()
            self._worker_idents.add(self._ear)
        self._after()
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
            log.error("%s: reading answers failed with %s", self.options.name, error_text(error))
            time.sleep(LONGEST_PAUSE)
        with self._lock:
            if self._under_way or self._heard or self.batches or self.forming.pending:
                return True
            self._ear, self._listener = 0, None
            self._worker_idents.discard(get_ident())
            lifecycle.let_go(self)
        self._hang_up()
        return False

    def _hang_up(self) -> None:
        """Close the connections, if nobody sends or listens any more."""
        with self._lock:  # it may be opened again just now: all use one box, which hears its own
            is_used = self.state is not CLOSED or self._ear or self.batches or self._under_way
            box = None if is_used else self._box
            if box is not None:
                self._box = None
        if box is not None:
            box.stop()
        self._after()

    def _hear_answers(self, seconds: float) -> bool:
        """Settle what has ended; were there any?"""
        self._give_heard()  # what was broken off
        answers = self.producer.answers(seconds)
        by_batch: dict[Batch, list[tuple[int, Any]]] = {}
        for number, payload in answers:
            known = self._under_way.pop(number, None)
            if known is not None:  # an item that ran twice is answered twice
                batch, place = known
                outcome = self.broker.codec.unpack_outcome(payload, self.options.name)
                by_batch.setdefault(batch, []).append((place, outcome))
        self._heard += by_batch.items()
        self._give_heard()
        return bool(answers)

    def _give_heard(self) -> None:
        while self._heard:
            batch, found = self._heard[0]
            self._give(batch, [place for place, _ in found], [value for _, value in found])
            del self._heard[0]

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
        missing = self.producer.missing(away)
        if not missing:
            return
        while self._hear_answers(0.0):
            pass
        messages = []
        for number in missing:
            batch, place = self._under_way.get(number, (None, 0))
            if batch is None:
                continue
            future = batch.futures[place]
            if future._s is batch:
                messages.append(self._message(number, future, is_flushed=True))
            elif self._under_way.pop(number, None) is not None:
                self._give(batch, [place], [None])  # detached: nobody waits for it
        if messages:
            lost = items(len(messages))
            log.warning("%s: the broker lost %s, sending again", self.options.name, lost)
            while messages:
                messages = messages[self.producer.send(messages) :]

    # ---- who waits for whom ----

    def holders(self, me: Any) -> list[Any] | None:
        return [self._ear] if self._ear else None

    def holders_of(self, batch: Batch, me: Any) -> list[Any] | None:
        return [batch.thread if batch in self.batches else self._ear]

    # ---- life ----

    def _begun(self) -> list[Batch]:
        return [*super()._begun(), *self.away]

    LOOK = 0.02

    def is_safe(self, future: BatchFuture[Any]) -> bool:
        return future._s in self.away

    def hurry(self, is_ending: bool = True) -> list[BatchFuture[Any]]:
        """The end of the process waits for what is not sent: the rest is safe where it is."""
        return [future for future in super().hurry(is_ending) if not self.is_safe(future)]

    def _abandon(self) -> None:
        self.away.clear()
        self._under_way.clear()
        super()._abandon()

    def closed(self, abandon: bool = True, closer: Closer | None = None) -> int:
        left = super().closed(abandon, closer)
        self._hang_up()
        return left

    def forked(self) -> None:
        super().forked()
        self.away.clear()
        self._under_way.clear()
        self._heard.clear()
        self._ear, self._listener, self._box = 0, None, None
        self._is_flush_wanted = False


def _listen(weak: ref[Answered], listener: object) -> None:
    """The life of the thread that hears the answers."""
    while True:
        engine = weak()
        if engine is None or not engine.hear(listener):
            return
        del engine
