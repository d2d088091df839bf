"""`python -m batchify worker app:insert`: runs what callers anywhere have sent to a broker.

A worker is a caller of the same function, without its broker: what it takes from there goes into an
engine of this process, so that sizes, lingers, keys, weights, `isolate`, `on_error` and all else
mean what they always do. What an item ends in is the answer, which settles it.

What was delivered before, and did not end, may be what killed its worker. Where that can be, it is
run with nothing else in the process, in pieces that shrink with each delivery, the last one alone:
so that the neighbours of such an item do not go where it goes.
"""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from .broker import Broker, Delivery, Inbox, Overdue, Unreachable
from .calls import Calls
from .decorator import Batched
from .errors import DeadLetter, late_error
from .future import BatchFuture
from .interpreter import monotonic
from .logs import error_text
from .options import kind, whole
from .view import Asked

log = logging.getLogger("batchify")

WAIT = 0.5  # seconds: how long a look for new items waits, and how late a stop may be noticed
PAUSE = 1.0  # seconds, before a server that could not be reached is tried again
AT_ONCE = 1000  # answers that are settled in one step, and overdue items that are looked at
LOOKS = 10  # times a lease: how often a worker looks for what is overdue
MANY = 10  # times what is usually held: the most, where items wait to run again
SHRINK = 3  # bits: a piece of what is delivered again has an eighth of the size, and so on


class _Local(Batched):
    """The same function, run in this process."""

    def __init__(self, function: Any, given: Any, options: Any) -> None:
        super().__init__(function, options)
        self._self_given = given
        self._self_scopes.observers = given._observers()

    def _gives_itself(self, scope: Any) -> Callable[[], Any]:  # noqa: ARG002
        given = self._self_given  # for `on_error`: what it submits is to be as safe as ever
        return lambda: given


def dead_letters(function: Any) -> Any:
    """The dead letters of a function with a broker; of Redis, a `redis.DeadLetters`.

    Raises:
        TypeError: it has no broker.
    """
    return broker_of(function).dead_letters(function._plain())


def broker_of(function: Any) -> Broker:
    """The broker of a decorated function.

    Raises:
        TypeError: it has none.
    """
    broker: Broker | None = None
    if isinstance(function, Calls):
        broker = function._options().broker
    if broker is None:
        raise TypeError(f"a function that is batched with a broker is needed, got {kind(function)}")
    return broker


class Worker:
    """Runs the items of one function with a broker, until it is stopped.

    Args:
        function: the decorated function.
        workers: how many batches may run at the same time; by default what the function says.

    Raises:
        TypeError: it has no broker, or `workers` is no int.
        ValueError: `workers` is less than 1, or the function has no name.
    """

    def __init__(self, function: Any, workers: int | None = None) -> None:
        self._broker = broker_of(function)
        options = function._options()
        self._name = options.name
        self._size: int = options.size
        self._workers = options.workers if workers is None else whole("workers", workers)
        # One batch more than can run, so that each worker finds its next one here.
        self._most = self._size * (self._workers + 1)
        local = replace(options, broker=None, workers=self._workers, capacity=None)
        self._local = _Local(function._plain(), function, local)
        self._inbox: Inbox = self._broker.inbox(function._plain())
        self._held: dict[str, Delivery] = {}  # what was taken, and is not settled
        self._answers: queue.SimpleQueue[tuple[Delivery, bytes, bool] | None] = queue.SimpleQueue()
        self._settled = threading.Event()  # something was, since somebody looked
        self._is_stopping = False
        self._is_over = threading.Event()
        self._flushed = ""  # up to which id nothing lingers
        self._next_look = 0.0  # when to look for what is overdue
        self._alone_by: float | None = None  # by when that is to run alone; None: nothing is
        self._is_pausing = False  # nothing new is taken, so that it comes to that

    # ---- life ----

    @property
    def is_stopping(self) -> bool:
        """Was it told to stop?"""
        return self._is_stopping

    def stop(self) -> None:
        """Take nothing more, finish what was taken, and have `run` return. From anywhere."""
        self._is_stopping = True

    def run(self) -> bool:
        """Take and run items until `stop`; then finish what was taken.

        Returns:
            True when nothing is left leased. After a stop without a server to answer to, for the
            function's `exit_timeout`, something is: it will be delivered again.
        """
        helpers = [
            self._helper(self._settle, "answers"),
            self._helper(self._renew, "leases"),
        ]
        self._helper(self._hear_flushes, "flushes")  # it ends by itself, a little later
        try:
            self._take_and_run()
            self._local.close()
            end = monotonic() + self._local._options().exit_timeout
            while self._held and monotonic() < end:
                self._wait_for_settled()
        finally:
            self._is_over.set()
            self._answers.put(None)
            for helper in helpers:
                helper.join(WAIT)
            self._inbox.stop()
        return not self._held

    def _take_and_run(self) -> None:
        was_there = False  # the broker
        while not self._is_stopping:
            try:
                if not was_there:
                    self._inbox.tidy()
                self._step()
                was_there = True
            except Unreachable as error:
                text = error_text(error.__cause__ or error)
                log.warning("%s: cannot reach the broker: %s", self._name, text)
                time.sleep(PAUSE)
            except Exception as error:
                if not was_there:  # a wrong password, say
                    raise
                log.error("%s: taking items failed with %s", self._name, error_text(error))
                time.sleep(PAUSE)

    def _helper(self, target: Callable[[], None], name: str) -> threading.Thread:
        thread = threading.Thread(target=target, name=f"batchify:{self._name}:{name}", daemon=True)
        thread.start()
        return thread

    def _step(self) -> None:
        self._recover()
        if self._is_pausing:  # for what is to run alone
            self._wait_for_settled()
            return
        room = self._most - len(self._held)
        if room < self._size:  # whole batches, not an item whenever one ends
            self._wait_for_settled()
            if self._local.stats().running:
                return
            self._local._push()  # lingering kinds hold up all the room
            if len(self._held) > MANY * self._most:
                return
            room = self._size  # it is items in a `Retry` that do
        taken = self._inbox.take(room, WAIT)
        for delivery in taken:
            self._run(delivery)
        self._push_flushed(taken)

    def _wait_for_settled(self) -> None:
        self._settled.wait(WAIT)
        self._settled.clear()

    # ---- one item ----

    def _run(self, delivery: Delivery) -> None:
        self._held[delivery.id] = delivery
        try:
            item, args, kwargs = self._broker.wire.unpack(delivery.letter.payload)
            asked = _asked(delivery, self._name)
            future = self._local._submit(item, args, kwargs, asked)
        except Exception as error:  # it cannot be read, or the call refuses it
            self._answer(delivery, self._broker.wire.pack_error(error, self._name))
            return
        future.add_done_callback(partial(self._ended, delivery))

    def _ended(self, delivery: Delivery, future: BatchFuture[Any]) -> None:
        wire = self._broker.wire
        if future.cancelled() or self._is_over.is_set():
            self._held.pop(delivery.id, None)  # the process ends: others will have it
            return
        error = future.exception()
        self._answer(
            delivery,
            wire.pack_result(future.result(), self._name)
            if error is None
            else wire.pack_error(error, self._name),
        )

    def _answer(self, delivery: Delivery, payload: bytes, is_dead: bool = False) -> None:
        self._answers.put((delivery, payload, is_dead))

    def _settle(self) -> None:
        """The life of the thread that sends the answers."""
        while True:
            first = self._answers.get()
            if first is None:
                return
            found = [first]
            while len(found) < AT_ONCE:
                try:
                    one = self._answers.get_nowait()
                except queue.Empty:
                    break
                if one is None:
                    self._answers.put(None)
                    break
                found.append(one)
            self._settle_all([one[:2] for one in found if not one[2]], self._inbox.settle)
            self._settle_all([one[:2] for one in found if one[2]], self._inbox.bury)
            self._settled.set()

    def _settle_all(
        self,
        answers: Sequence[tuple[Delivery, bytes]],
        settle: Callable[[Sequence[tuple[Delivery, bytes]]], None],
    ) -> None:
        while answers:
            try:
                settle(answers)
                break
            except Unreachable:
                if self._is_over.wait(PAUSE):
                    return
            except Exception as error:  # they stay leased, and are delivered again
                log.error("%s: sending answers failed with %s", self._name, error_text(error))
                break
        for delivery, _ in answers:
            self._held.pop(delivery.id, None)

    def _renew(self) -> None:
        """The life of the thread that keeps the leases."""
        while not self._is_over.wait(self._broker.lease / 3):
            try:
                self._inbox.renew(list(self._held))
            except Unreachable:
                continue
            except Exception as error:
                log.error("%s: renewing leases failed with %s", self._name, error_text(error))

    # ---- flushes ----

    def _hear_flushes(self) -> None:
        """The life of the thread that hears of callers' `flush`."""
        while not self._is_over.is_set():
            try:
                marks = self._inbox.flushes(WAIT)
            except Unreachable:
                self._is_over.wait(PAUSE)
                continue
            except Exception as error:
                if not self._is_over.wait(PAUSE):  # else it was closed
                    text = error_text(error)
                    log.error("%s: listening for flushes failed with %s", self._name, text)
                continue
            for last in marks:
                if not self._inbox.is_up_to(last, self._flushed):
                    self._flushed = last
            if marks:
                self._push_flushed(list(self._held.values()))

    def _push_flushed(self, deliveries: Sequence[Delivery]) -> None:
        """Let leave what lingers here, if somebody flushed any of these."""
        for delivery in deliveries:
            if delivery.letter.is_flushed or self._inbox.is_up_to(delivery.id, self._flushed):
                self._local._push()
                return

    # ---- what was delivered before ----

    def _recover(self) -> None:
        """Run what others left, if it is time to look.

        Alone in the process, if that comes about in a third of a lease, for which nothing new is
        taken. Then it runs beside what takes so long.
        """
        now = monotonic()
        if now < self._next_look:
            return
        found = self._inbox.overdue(AT_ONCE)
        if not found:
            self._next_look = now + self._broker.lease / LOOKS
            self._alone_by, self._is_pausing = None, False
            return
        if self._alone_by is None:
            self._alone_by = now + self._broker.lease / 3
        self._is_pausing = now < self._alone_by
        if self._is_pausing and self._held:
            self._local._push()
            return
        for delivery in self._claimed(found):
            self._run(delivery)
        self._local._push()

    def _claimed(self, found: Sequence[Overdue]) -> list[Delivery]:
        """The next piece of what is overdue; what was delivered too often is buried."""
        most = self._broker.max_deliveries
        dead = [one.id for one in found if one.deliveries >= most]
        for delivery in self._inbox.claim(dead) if dead else []:
            self._held[delivery.id] = delivery
            told = DeadLetter(f"{self._name}: the item was delivered {most} times, and never ended")
            self._answer(delivery, self._broker.wire.pack_error(told, self._name), is_dead=True)
        again = [one for one in found if one.deliveries < most]
        if not again:
            return []
        # Those that were delivered least are the least suspicious.
        deliveries = min(one.deliveries for one in again)
        alike = [one.id for one in again if one.deliveries == deliveries]
        is_last = deliveries + 1 >= most
        piece = 1 if is_last else max(1, self._size >> (SHRINK * deliveries))
        return self._inbox.claim(alike[:piece])


def _asked(delivery: Delivery, name: str) -> Asked:
    letter = delivery.letter
    deadline = None
    if letter.deadline is not None:
        deadline = letter.deadline - time.time()
        if deadline <= 0:
            raise late_error(name)
    return Asked(None, deadline, letter.priority)
