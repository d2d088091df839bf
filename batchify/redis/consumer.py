"""The side of one worker process of a function: take messages from the stream and settle them.

The answer, the acknowledgement and the removal of a message are one transaction.
The caller is `worker`, by the protocol `batchify.broker.Consumer`.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from redis.exceptions import RedisError, ResponseError

from ..broker import Delivery, Overdue
from .connection import CHUNK, chunks_of, count_that_fits, entries_of, reaching, transaction
from .keys import DELIVERIES, GROUP, UP_TO, Keys, delivery_of, fields_of, order_of

if TYPE_CHECKING:
    from . import RedisStreams

log = logging.getLogger("batchify")

MAX_IDLE = 3600.0  # seconds after which a worker without messages is unregistered


class RedisConsumer:
    """The consumer of one worker process; see `batchify.broker.Consumer`."""

    def __init__(self, broker: RedisStreams, keys: Keys) -> None:
        self._broker = broker
        self._keys = keys
        self._redis = broker.client()
        self.name = f"{socket.gethostname()}:{os.getpid()}:{uuid4().hex[:8]}"
        self._flushed = "0"  # the id of the last flush that was read
        self._lease = max(1, int(broker.lease * 1000))

    def _in_group(self, command: Callable[[], Any]) -> Any:
        """Return the result of `command`; create the consumer group if it does not exist."""
        with reaching():
            try:
                return command()
            except ResponseError as error:
                if not str(error).startswith(("NOGROUP", "no such key")):
                    raise
            try:  # id "0": include entries added before the first worker started
                self._redis.xgroup_create(self._keys.stream, GROUP, id="0", mkstream=True)
            except ResponseError as error:
                if not str(error).startswith("BUSYGROUP"):  # another worker has created it
                    raise
            return command()

    def remove_idle_workers(self) -> None:
        # A live worker reads every second. Removing a consumer drops the entries that it holds.
        for one in self._in_group(lambda: self._redis.xinfo_consumers(self._keys.stream, GROUP)):
            if not one["pending"] and one["idle"] > MAX_IDLE * 1000:
                with reaching():
                    self._redis.xgroup_delconsumer(self._keys.stream, GROUP, one["name"])

    def take(self, count: int, seconds: float) -> list[Delivery]:
        found = self._in_group(
            lambda: self._redis.xreadgroup(
                GROUP,
                self.name,
                {self._keys.stream: ">"},
                count=count,
                block=max(1, int(seconds * 1000)),
            )
        )
        return self._read(entries_of(found))

    def overdue(self, count: int) -> list[Overdue]:
        found = self._in_group(
            lambda: self._redis.xpending_range(
                self._keys.stream, GROUP, "-", "+", count, idle=self._lease
            )
        )
        return [Overdue(one["message_id"].decode(), one["times_delivered"]) for one in found]

    def claim(self, ids: Sequence[str]) -> list[Delivery]:
        found = self._in_group(
            lambda: self._redis.xclaim(self._keys.stream, GROUP, self.name, self._lease, list(ids))
        )
        return self._read([entry for entry in found if entry[1] is not None])

    def _read(self, entries: list[tuple[bytes, dict[bytes, bytes]]]) -> list[Delivery]:
        deliveries, unreadable = [], []
        for entry, fields in entries:
            try:
                deliveries.append(delivery_of(entry, fields))
            except ValueError:  # another program wrote it
                unreadable.append((entry, fields))
        if unreadable:
            log.error(
                "%s: %d entries of the stream cannot be read; they are dead letters now",
                self._keys.stream, len(unreadable),
            )  # fmt: skip
            with transaction(self._redis) as pipe:
                for entry, fields in unreadable:
                    pipe.xadd(self._keys.dead, {**fields, DELIVERIES: 1})
                    pipe.xack(self._keys.stream, GROUP, entry)
                    pipe.xdel(self._keys.stream, entry)
        return deliveries

    def renew(self, ids: Sequence[str]) -> None:
        wanted = set(ids)
        if not wanted:
            return
        first, last = min(wanted, key=order_of), max(wanted, key=order_of)
        count = len(wanted) + CHUNK
        found = self._in_group(
            lambda: self._redis.xpending_range(
                self._keys.stream, GROUP, first, last, count, self.name
            )
        )
        own = [one["message_id"] for one in found if one["message_id"].decode() in wanted]
        for part in chunks_of(own, CHUNK):
            with reaching():
                self._redis.xclaim(self._keys.stream, GROUP, self.name, 0, list(part), justid=True)

    def settle(self, answers: Sequence[tuple[Delivery, bytes]]) -> None:
        for part in _by_transaction(answers):
            with transaction(self._redis) as pipe:
                self._settle(pipe, part)

    def dead_letter(self, answers: Sequence[tuple[Delivery, bytes]]) -> None:
        for part in _by_transaction(answers):
            with transaction(self._redis) as pipe:
                for delivery, _ in part:
                    pipe.xadd(
                        self._keys.dead,
                        {
                            **fields_of(delivery.message, delivery.reply_to),
                            DELIVERIES: self._broker.max_deliveries,
                        },
                    )
                self._settle(pipe, part)

    def _settle(self, pipe: Any, answers: Iterable[tuple[Delivery, bytes]]) -> None:
        by_caller: dict[str, dict[Any, Any]] = {}
        ids: list[str] = []
        for delivery, payload in answers:
            ids.append(delivery.id)
            if delivery.reply_to:
                outcomes = by_caller.setdefault(delivery.reply_to, {})
                outcomes[delivery.message.number] = payload
        for caller, outcomes in by_caller.items():
            answers_key = self._keys.answers(caller)
            pipe.xadd(answers_key, outcomes)
            pipe.pexpire(answers_key, int(self._broker.answers_expire * 1000))
        pipe.xack(self._keys.stream, GROUP, *ids)
        pipe.xdel(self._keys.stream, *ids)

    def flushes(self, seconds: float) -> list[str]:
        with reaching():
            found: Any = self._redis.xread(
                {self._keys.flushes: self._flushed}, block=max(1, int(seconds * 1000))
            )
        marks = []
        for entry, fields in entries_of(found):
            self._flushed = entry.decode()
            marks.append(fields.get(UP_TO, b"").decode(errors="replace"))
        return marks

    def is_up_to(self, delivery: str, last: str) -> bool:
        return bool(last) and order_of(delivery) <= order_of(last)

    def stop(self) -> None:
        with contextlib.suppress(RedisError, OSError):
            left = self._redis.xpending_range(
                self._keys.stream, GROUP, "-", "+", 1, consumername=self.name
            )
            if not left:  # removing a consumer drops the entries that it holds
                self._redis.xgroup_delconsumer(self._keys.stream, GROUP, self.name)
            self._redis.close()


def _by_transaction(
    answers: Sequence[tuple[Delivery, bytes]],
) -> Iterator[Sequence[tuple[Delivery, bytes]]]:
    """Yield the answers in sequences that each go into one transaction."""
    while answers:
        count = count_that_fits(len(one.message.payload) + len(payload) for one, payload in answers)
        yield answers[:count]
        answers = answers[count:]
