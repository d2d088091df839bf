"""The callers' end, in one process."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from ..broker import Letter, Unreachable
from .keys import FLUSHES, UP_TO, Keys, fields_of
from .reach import AT_ONCE, entries_of, fitting, parts_of, reaching

if TYPE_CHECKING:
    from . import RedisStreams


class RedisOutbox:
    """Where the items of one process go to, and its answers come from."""

    def __init__(self, broker: RedisStreams, keys: Keys) -> None:
        self._broker = broker
        self._keys = keys
        self._redis = broker.client()
        self._caller = uuid4().hex
        self._answers = keys.answers(self._caller)
        self._seen = "0"  # the last answer that was read
        self._entries: dict[int, str] = {}  # by number: what has no answer yet

    def room(self) -> int:
        """How many items may be sent now."""
        most = self._broker.max_length
        if most is None:
            return AT_ONCE
        with reaching():
            return max(0, most - int(self._redis.xlen(self._keys.stream)))

    def send(self, letters: Sequence[Letter]) -> int:
        letters = letters[: fitting(len(letter.payload) for letter in letters)]
        with reaching():
            pipe = self._redis.pipeline(transaction=True)
            for letter in letters:
                pipe.xadd(self._keys.stream, fields_of(letter, self._caller))
            entries = pipe.execute()
        for letter, entry in zip(letters, entries, strict=True):
            self._entries[letter.number] = entry.decode()
        return len(letters)

    def flush(self) -> None:
        with reaching():
            last = self._redis.xrevrange(self._keys.stream, count=1)
            if last:  # a stream: who was away, or comes later, can read it as well
                self._redis.xadd(self._keys.flushes, {UP_TO: last[0][0]}, maxlen=FLUSHES)

    def answers(self, seconds: float) -> list[tuple[int, bytes]]:
        with reaching():
            # A stream, not a list: what was read and got lost on the way can be read again.
            found: Any = self._redis.xread(
                {self._answers: self._seen}, count=AT_ONCE, block=int(seconds * 1000) or None
            )
        answers: list[tuple[int, bytes]] = []
        for entry, fields in entries_of(found):
            self._seen = entry.decode()
            answers += [(int(n), payload) for n, payload in fields.items() if n.isdigit()]
        if answers:
            for number, _ in answers:
                self._entries.pop(number, None)
            with contextlib.suppress(Unreachable), reaching():  # it expires, too
                self._redis.xtrim(self._answers, minid=self._seen, approximate=False)
        return answers

    def stop(self) -> None:
        self._redis.close()

    def missing(self, numbers: Sequence[int]) -> list[int]:
        known = [(n, entry) for n in numbers if (entry := self._entries.get(n)) is not None]
        missing = [n for n in numbers if n not in self._entries]
        for part in parts_of(known, AT_ONCE):
            with reaching():
                pipe = self._redis.pipeline(transaction=False)
                for _, entry in part:
                    pipe.xrange(self._keys.stream, entry, entry)
                found = pipe.execute()
            missing += [n for (n, _), entries in zip(part, found, strict=True) if not entries]
        return missing
