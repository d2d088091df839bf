"""List, requeue and delete the dead letters of one function.

Requeueing or deleting a dead letter is one transaction, so two processes never requeue it twice.
Callers are `RedisStreams.dead_letters` and the command `python -m batchify dead`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from .connection import CHUNK
from .keys import CALLER, DEADLINE, DELIVERIES, ITEM, NUMBER, Keys

if TYPE_CHECKING:
    from . import RedisStreams


class DeadItem(NamedTuple):
    """An item that became a dead letter.

    Attributes:
        id: identifies it for `requeue` and `delete`.
        died: when it became a dead letter, in seconds since the epoch.
        deliveries: how often it was delivered.
        payload: the call, as bytes of the serializer.
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
        """Yield all dead letters, the oldest first."""
        for entry, fields in self._entries():
            died = int(entry.partition(b"-")[0]) / 1000
            deliveries = int(fields.get(DELIVERIES, b"0"))
            yield DeadItem(entry.decode(), died, deliveries, fields.get(ITEM, b""))

    def _entries(self) -> Iterator[tuple[bytes, dict[bytes, bytes]]]:
        start = "-"
        while True:
            found: Any = self._redis.xrange(self._keys.dead, start, "+", count=CHUNK)
            if not found:
                return
            yield from found
            start = f"({found[-1][0].decode()}"

    def requeue(self, ids: Iterable[str] | None = None) -> int:
        """Put dead letters back into the queue; return their number.

        Args:
            ids: only these; None: all.
        """
        return self._remove(ids, requeue=True)

    def delete(self, ids: Iterable[str] | None = None) -> int:
        """Delete dead letters; return their number.

        Args:
            ids: only these; None: all.
        """
        return self._remove(ids, requeue=False)

    def _remove(self, ids: Iterable[str] | None, requeue: bool) -> int:
        wanted = None if ids is None else set(ids)
        entries = [entry for entry, _ in itertools.islice(self._entries(), len(self))]
        return sum(
            bool(self._redis.transaction(
                self._removal(entry, requeue), self._keys.dead, value_from_callable=True
            ))
            for entry in entries
            if wanted is None or entry.decode() in wanted
        )  # fmt: skip

    def _removal(self, entry: bytes, requeue: bool) -> Callable[[Any], bool]:
        """Return a transaction that redis-py repeats if another process changed the stream."""

        def remove(pipe: Any) -> bool:
            found = pipe.xrange(self._keys.dead, entry, entry)
            if not found:
                return False
            fields = found[0][1]
            for field in (DELIVERIES, CALLER, NUMBER, DEADLINE):  # its caller has got the error
                fields.pop(field, None)
            pipe.multi()
            if requeue:
                pipe.xadd(self._keys.stream, fields)
            pipe.xdel(self._keys.dead, entry)
            return True

        return remove
