"""`python -m batchify worker app:insert`: run the items that callers sent to a function's broker.

A worker is a caller of the same function without its broker: it submits what it takes from the
broker to an engine in its own process, so all options mean what they always do. The outcome of an
item is its answer, and the broker removes the item when it stores the answer.

An item that was delivered before without an outcome may have killed its worker. Such items run with
nothing else in the process, in pieces that shrink with each delivery, the last time alone, so that
other items do not share their fate.
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

from .broker import Broker, Consumer, Delivery, Overdue, Unreachable
from .calls import Calls
from .decorator import Batched
from .errors import DeadLetter, late_error
from .failure_log import FailureLog
from .future import BatchFuture
from .interpreter import monotonic
from .logs import error_text, items, plural
from .naming import name_of
from .options import kind, whole
from .view import CallSettings

log = logging.getLogger("batchify")

WAIT = 0.5  # seconds that a request for new items waits; a stop may be noticed this late
RETRY_PAUSE = 1.0  # seconds before the next attempt to reach the broker
WARNING_PAUSE = 30.0  # seconds between two warnings that the broker cannot be reached
MAX_AT_ONCE = 1000  # answers that are settled in one step, and overdue items that are looked at
CHECKS_PER_LEASE = 10  # how often a worker looks for overdue items
RETRYING_FACTOR = 10  # items held at most while others wait for a retry, times the usual number
SHRINK_BITS = 3  # a piece of redelivered items has an eighth of the size, then an eighth of that


class _Local(Batched):
    """The same function, run in this process."""

    def __init__(self, function: Any, given: Any, options: Any) -> None:
        super().__init__(function, options)
        self._self_given = given
        self._self_scopes.observers = given._observers()

    def _make_getter(self, scope: Any) -> Callable[[], Any]:  # noqa: ARG002
        # `on_error` gets the function with the broker, so items that it submits survive a crash.
        given = self._self_given
        return lambda: given


def dead_letters(function: Any) -> Any:
    """Return the dead letters of a function with a broker; for Redis, a `redis.DeadLetters`.

    Raises:
        TypeError: the function has no broker.
    """
    return broker_of(function).dead_letters(function._plain())


def broker_of(function: Any) -> Broker:
    """Return the broker of a decorated function.

    Raises:
        TypeError: the function has no broker.
    """
    if isinstance(function, Calls):
        options = function._options()
        if options.broker is None:
            raise TypeError(f"{options.name} has no broker; decorate it with @batched(broker=...)")
        broker: Broker = options.broker
        return broker
    name = getattr(function, "__qualname__", None)
    if callable(function) and isinstance(name, str):
        raise TypeError(f"{name} is not batched; decorate it with @batched(broker=...)")
    raise TypeError(
        f"expected a function decorated with @batched(broker=...), got {kind(function)}"
    )


class Worker:
    """Runs the items of one function with a broker until it is stopped.

    It logs its options at the start, the connection to the broker, each batch with failures, and
    the totals at the end; never the content of an item.

    Args:
        function: the decorated function.
        workers: maximum number of batches that run at the same time; by default the function's
            own.

    Raises:
        TypeError: the function has no broker, or `workers` is not an integer.
        ValueError: `workers` is less than 1, or workers cannot import the function by its name.
    """

    def __init__(self, function: Any, workers: int | None = None) -> None:
        self._broker = broker_of(function)
        options = function._options()
        self._name = options.name
        self._size: int = options.size
        self._workers = options.workers if workers is None else whole("workers", workers)
        # One batch more than can run, so that each worker finds its next one here.
        self._max_held = self._size * (self._workers + 1)
        local = replace(options, broker=None, workers=self._workers, capacity=None)
        self._local = _Local(function._plain(), function, local)
        self._failures = FailureLog(f"worker of {self._name}")
        self._consumer: Consumer = self._broker.consumer(function._plain())
        self._held: dict[str, Delivery] = {}  # taken and not settled
        self._answers: queue.SimpleQueue[tuple[Delivery, bytes, bool] | None] = queue.SimpleQueue()
        self._settled = threading.Event()  # set when answers were settled
        self._is_stopping = False
        self._is_over = threading.Event()
        self._flushed = ""  # the id up to which nothing lingers
        self._next_check = 0.0  # when to look for overdue items
        self._alone_by: float | None = None  # when to stop waiting for an otherwise empty process
        self._is_pausing = False  # no new items are taken until overdue ones ran alone
        self._is_ready = False
        self._refused = 0
        self._dead = 0

    # ---- life ----

    @property
    def is_stopping(self) -> bool:
        """Whether `stop` was called."""
        return self._is_stopping

    @property
    def is_ready(self) -> bool:
        """Whether the broker has been reached."""
        return self._is_ready

    def stop(self) -> None:
        """Make `run` finish the items in hand and return. Any thread or signal handler may call it.

        The worker takes no more items.
        """
        self._is_stopping = True

    def run(self) -> bool:
        """Take and run items until `stop`, then finish those in hand.

        Returns:
            True if no item is left leased. If the broker cannot be reached after a stop, the worker
            waits for the function's `exit_timeout`; then the items are left, and the broker
            delivers them again.

        Raises:
            Exception: the broker refuses the first connection, for example its password.
        """
        log.info("%s: %s", self._failures.prefix, self._description())
        began = monotonic()
        helpers = [
            self._start_thread(self._settle, "answers"),
            self._start_thread(self._renew, "leases"),
        ]
        self._start_thread(self._receive_flushes, "flushes")  # ends a little later than `run`
        end_observation = self._local.observe(self._failures.log_batch)
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
            self._consumer.stop()
            end_observation()
        self._failures.log_others()
        log.info(
            "%s: stopped after %.0f s; %s", self._failures.prefix, monotonic() - began,
            self._totals(),
        )  # fmt: skip
        return not self._held

    def _description(self) -> str:
        options = self._local._options()
        module, name = name_of(self._local._plain())
        return (
            f"connecting; function={module}.{name}, broker={self._broker!r}, "
            f"size={options.size}, linger={options.linger}, workers={self._workers}"
        )

    def _totals(self) -> str:
        stats = self._local.stats()
        counts = {
            "succeeded": stats.succeeded,
            "failed": stats.failed,
            "expired": stats.expired,
            "refused": self._refused,
            plural(self._dead, "dead letter"): self._dead,
            "left for other workers": len(self._held),
        }
        text = ", ".join(f"{count:,} {what}" for what, count in counts.items() if count)
        batches = f"{stats.batches:,} {plural(stats.batches, 'batch')}"
        return f"{batches}, {text}" if text else "no items received"

    def _take_and_run(self) -> None:
        next_warning = 0.0
        while not self._is_stopping:
            try:
                if not self._is_ready or next_warning:
                    self._consumer.remove_idle_workers()
                    log.info(
                        "%s: %s", self._failures.prefix,
                        "connected again" if self._is_ready else "ready",
                    )  # fmt: skip
                    self._is_ready, next_warning = True, 0.0
                self._step()
            except Unreachable as error:
                if monotonic() >= next_warning:
                    log.warning(
                        "%s: cannot reach the broker (%s); trying again every %g s",
                        self._failures.prefix, kind(error.__cause__ or error), RETRY_PAUSE,
                    )  # fmt: skip
                    next_warning = monotonic() + WARNING_PAUSE
                time.sleep(RETRY_PAUSE)
            except Exception as error:
                if not self._is_ready:  # such as a wrong password
                    raise
                log.error(
                    "%s: taking items failed with %s", self._failures.prefix, error_text(error)
                )
                time.sleep(RETRY_PAUSE)

    def _start_thread(self, target: Callable[[], None], name: str) -> threading.Thread:
        thread = threading.Thread(target=target, name=f"batchify:{self._name}:{name}", daemon=True)
        thread.start()
        return thread

    def _step(self) -> None:
        self._failures.log_others()
        self._recover()
        if self._is_pausing:
            self._wait_for_settled()
            return
        free = self._max_held - len(self._held)
        if free < self._size:  # take whole batches, not one item whenever one ends
            self._wait_for_settled()
            if self._local.stats().running:
                return
            self._local._dispatch_now()  # lingering items use up what may be held
            if len(self._held) > RETRYING_FACTOR * self._max_held:
                return
            free = self._size  # items that wait for a retry use it up
        taken = self._consumer.take(free, WAIT)
        for delivery in taken:
            self._run(delivery)
        self._dispatch_flushed(taken)

    def _wait_for_settled(self) -> None:
        self._settled.wait(WAIT)
        self._settled.clear()

    # ---- one item ----

    def _run(self, delivery: Delivery) -> None:
        self._held[delivery.id] = delivery
        try:
            item, args, kwargs = self._broker.codec.unpack(delivery.message.payload)
            settings = _call_settings(delivery, self._name)
            future = self._local._submit(item, args, kwargs, settings)
        except Exception as error:  # the item cannot be decoded, or the call refuses it
            self._refused += 1
            self._failures.add_other(error)
            self._answer(delivery, self._broker.codec.pack_error(error, self._name))
            return
        future.add_done_callback(partial(self._finish, delivery))

    def _finish(self, delivery: Delivery, future: BatchFuture[Any]) -> None:
        codec = self._broker.codec
        if future.cancelled() or self._is_over.is_set():
            self._held.pop(delivery.id, None)  # the process ends: another worker gets it
            return
        error = future.exception()
        if error is None:
            self._answer(delivery, codec.pack_result(future.result(), self._name))
        else:
            self._failures.add(error)
            self._answer(delivery, codec.pack_error(error, self._name))

    def _answer(self, delivery: Delivery, payload: bytes, is_dead: bool = False) -> None:
        self._answers.put((delivery, payload, is_dead))

    def _settle(self) -> None:
        """Send answers until None comes, as many as there are at a time. A thread runs this."""
        while True:
            first = self._answers.get()
            if first is None:
                return
            found = [first]
            while len(found) < MAX_AT_ONCE:
                try:
                    answer = self._answers.get_nowait()
                except queue.Empty:
                    break
                if answer is None:
                    self._answers.put(None)
                    break
                found.append(answer)
            self._settle_all([one[:2] for one in found if not one[2]], self._consumer.settle)
            self._settle_all([one[:2] for one in found if one[2]], self._consumer.dead_letter)
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
                if self._is_over.wait(RETRY_PAUSE):
                    return
            except Exception as error:  # the items stay leased, and are delivered again
                log.error(
                    "%s: sending answers failed with %s", self._failures.prefix, error_text(error)
                )
                break
        for delivery, _ in answers:
            self._held.pop(delivery.id, None)

    def _renew(self) -> None:
        """Renew the leases of the items in hand until `run` returns. A thread runs this."""
        while not self._is_over.wait(self._broker.lease / 3):
            try:
                self._consumer.renew(list(self._held))
            except Unreachable:
                continue
            except Exception as error:
                log.error(
                    "%s: renewing leases failed with %s", self._failures.prefix, error_text(error)
                )

    # ---- flushes ----

    def _receive_flushes(self) -> None:
        """Dispatch items that lingered when a caller flushes them. A thread runs this."""
        while not self._is_over.is_set():
            try:
                marks = self._consumer.flushes(WAIT)
            except Unreachable:
                self._is_over.wait(RETRY_PAUSE)
                continue
            except Exception as error:
                if not self._is_over.wait(RETRY_PAUSE):  # else `run` closed the connection
                    log.error(
                        "%s: receiving flushes failed with %s",
                        self._failures.prefix,
                        error_text(error),
                    )
                continue
            for last in marks:
                if not self._consumer.is_up_to(last, self._flushed):
                    self._flushed = last
            if marks:
                self._dispatch_flushed(list(self._held.values()))

    def _dispatch_flushed(self, deliveries: Sequence[Delivery]) -> None:
        """Dispatch everything that lingers here if a caller flushed one of these items."""
        for delivery in deliveries:
            if delivery.message.is_flushed or self._consumer.is_up_to(delivery.id, self._flushed):
                self._local._dispatch_now()
                return

    # ---- items that were delivered before ----

    def _recover(self) -> None:
        """Run items that other workers left, if it is time to look for them.

        They run alone in the process. To empty it, the worker takes no new items for up to a third
        of a lease; after that they run together with the items that take so long.
        """
        now = monotonic()
        if now < self._next_check:
            return
        found = self._consumer.overdue(MAX_AT_ONCE)
        if not found:
            self._next_check = now + self._broker.lease / CHECKS_PER_LEASE
            self._alone_by, self._is_pausing = None, False
            return
        if self._alone_by is None:
            self._alone_by = now + self._broker.lease / 3
        self._is_pausing = now < self._alone_by
        if self._is_pausing and self._held:
            self._local._dispatch_now()
            return
        for delivery in self._claim_next(found):
            self._run(delivery)
        self._local._dispatch_now()

    def _claim_next(self, found: Sequence[Overdue]) -> list[Delivery]:
        """Claim the next piece of the overdue items; make dead letters of hopeless ones."""
        max_deliveries = self._broker.max_deliveries
        self._make_dead_letters([one.id for one in found if one.deliveries >= max_deliveries])
        again = [one for one in found if one.deliveries < max_deliveries]
        if not again:
            return []
        # First those that were delivered least: they are the least suspicious.
        deliveries = min(one.deliveries for one in again)
        alike = [one.id for one in again if one.deliveries == deliveries]
        is_last = deliveries + 1 >= max_deliveries
        piece = 1 if is_last else max(1, self._size >> (SHRINK_BITS * deliveries))
        return self._consumer.claim(alike[:piece])

    def _make_dead_letters(self, ids: Sequence[str]) -> None:
        if not ids:
            return
        max_deliveries = self._broker.max_deliveries
        claimed = self._consumer.claim(ids)
        for delivery in claimed:
            self._held[delivery.id] = delivery
            error = DeadLetter(
                f"{self._name}: the item was delivered {max_deliveries} times and never finished; "
                "it is a dead letter now"
            )
            payload = self._broker.codec.pack_error(error, self._name)
            self._answer(delivery, payload, is_dead=True)
        if claimed:
            self._dead += len(claimed)
            log.warning(
                "%s: %s delivered %d times and never finished: now in the dead letters",
                self._failures.prefix, items(len(claimed)), max_deliveries,
            )  # fmt: skip


def _call_settings(delivery: Delivery, name: str) -> CallSettings:
    message = delivery.message
    deadline = None
    if message.deadline is not None:
        deadline = message.deadline - time.time()
        if deadline <= 0:
            raise late_error(name)
    return CallSettings(None, deadline, message.priority)
