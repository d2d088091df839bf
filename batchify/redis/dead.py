"""The dead letters of one function."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from .keys import CALLER, DEADLINE, DELIVERIES, ITEM, NUMBER, Keys
from .reach import AT_ONCE

if TYPE_CHECKING:
    from . import RedisStreams


class DeadItem(NamedTuple):
    """An item that was delivered too often.

    Attributes:
        id: what `requeue` and `delete` know it by.
        died: when, in seconds since the epoch.
        deliveries: how often it was delivered.
        payload: the call, as the serializer has it.
    """

    id: str
    died: float
    deliveries: int
    payload: bytes

    def __repr__(self) -> str:
        return f"<DeadItem {self.id}>"  # no content


class DeadLetters:
    """The dead letters of one function."""

    def __init__(self, broker: RedisStreams, keys: Keys) -> None:
        self._redis = broker.client()
        self._keys = keys

    def __len__(self) -> int:
        return int(self._redis.xlen(self._keys.dead))

    def __iter__(self) -> Iterator[DeadItem]:
        """All of them, the oldest first."""
        for entry, fields in self._entries():
            died = int(entry.partition(b"-")[0]) / 1000
            deliveries = int(fields.get(DELIVERIES, b"0"))
            yield DeadItem(entry.decode(), died, deliveries, fields.get(ITEM, b""))

    def _entries(self) -> Iterator[tuple[bytes, dict[bytes, bytes]]]:
        start = "-"
        while True:
            found: Any = self._redis.xrange(self._keys.dead, start, "+", count=AT_ONCE)
            if not found:
                return
            yield from found
            start = f"({found[-1][0].decode()}"

    def requeue(self, ids: Iterable[str] | None = None) -> int:
        """Send items once more, all or those of these ids; gives how many."""
        return self._end(ids, is_to_run=True)

    def delete(self, ids: Iterable[str] | None = None) -> int:
        """Forget items, all or those of these ids; gives how many."""
        return self._end(ids, is_to_run=False)

    def _end(self, ids: Iterable[str] | None, is_to_run: bool) -> int:
        wanted = None if ids is None else set(ids)
        entries = [entry for entry, _ in itertools.islice(self._entries(), len(self))]
        return sum(
            bool(self._redis.transaction(
                self._ending(entry, is_to_run), self._keys.dead, value_from_callable=True
            ))
            for entry in entries
            if wanted is None or entry.decode() in wanted
        )  # fmt: skip

    def _ending(self, entry: bytes, is_to_run: bool) -> Callable[[Any], bool]:
        """What is done as one step, and again when somebody was faster."""

        def end(pipe: Any) -> bool:
            found = pipe.xrange(self._keys.dead, entry, entry)
            if not found:
                return False
            fields = found[0][1]
            for field in (DELIVERIES, CALLER, NUMBER, DEADLINE):  # its caller was told
                fields.pop(field, None)
            pipe.multi()
            if is_to_run:
                pipe.xadd(self._keys.stream, fields)
            pipe.xdel(self._keys.dead, entry)
            return True

        return end
