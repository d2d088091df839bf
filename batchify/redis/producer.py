"""The side of a function's callers in one process: send messages and read the answers.

An answer that was read but lost on its way can be read again, until it expires.
The caller is the engine of `broker=`, by the protocol `batchify.broker.Producer`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from ..broker import Message, Unreachable
from .connection import CHUNK, chunks_of, count_that_fits, entries_of, reaching
from .keys import FLUSHES, UP_TO, Keys, fields_of

if TYPE_CHECKING:
    from . import RedisStreams


class RedisProducer:
    """The producer of one process; see `batchify.broker.Producer`."""

    def __init__(self, broker: RedisStreams, keys: Keys) -> None:
        self._broker = broker
        self._keys = keys
        self._redis = broker.client()
        self._caller = uuid4().hex
        self._answers = keys.answers(self._caller)
        self._last_read = "0"  # the id of the last entry of answers
        self._unanswered: dict[int, str] = {}  # ids of stream entries, by number

    def capacity(self) -> int:
        max_length = self._broker.max_length
        if max_length is None:
            return CHUNK
        with reaching():
            return max(0, max_length - int(self._redis.xlen(self._keys.stream)))

    def send(self, messages: Sequence[Message]) -> int:
        messages = messages[: count_that_fits(len(message.payload) for message in messages)]
        with reaching():
            pipe = self._redis.pipeline(transaction=True)
            for message in messages:
                pipe.xadd(self._keys.stream, fields_of(message, self._caller))
            entries = pipe.execute()
        for message, entry in zip(messages, entries, strict=True):
            self._unanswered[message.number] = entry.decode()
        return len(messages)

    def flush(self) -> None:
        with reaching():
            last = self._redis.xrevrange(self._keys.stream, count=1)
            if last:  # a stream, so that workers that start or reconnect later read it too
                self._redis.xadd(self._keys.flushes, {UP_TO: last[0][0]}, maxlen=FLUSHES)

    def answers(self, seconds: float) -> list[tuple[int, bytes]]:
        with reaching():
            # A stream, not a list, so that a reply that is lost on its way can be read again.
            found: Any = self._redis.xread(
                {self._answers: self._last_read}, count=CHUNK, block=int(seconds * 1000) or None
            )
        answers: list[tuple[int, bytes]] = []
        for entry, fields in entries_of(found):
            self._last_read = entry.decode()
            answers += [(int(n), payload) for n, payload in fields.items() if n.isdigit()]
        if answers:
            for number, _ in answers:
                self._unanswered.pop(number, None)
            with contextlib.suppress(Unreachable), reaching():  # the stream expires anyway
                self._redis.xtrim(self._answers, minid=self._last_read, approximate=False)
        return answers

    def stop(self) -> None:
        self._redis.close()

    def missing(self, numbers: Sequence[int]) -> list[int]:
        known = [(n, entry) for n in numbers if (entry := self._unanswered.get(n)) is not None]
        missing = [n for n in numbers if n not in self._unanswered]
        for part in chunks_of(known, CHUNK):
            with reaching():
                pipe = self._redis.pipeline(transaction=False)
                for _, entry in part:
                    pipe.xrange(self._keys.stream, entry, entry)
                found = pipe.execute()
            missing += [n for (n, _), entries in zip(part, found, strict=True) if not entries]
        return missing
