"""`broker=RedisStreams(...)`: a durable queue in a Redis stream, filled and emptied by any process.

Keys of a function `insert` in the module `app`:

    {batchify:app.insert}             the stream of items, with one consumer group
    {batchify:app.insert}:answers:ID  a stream of answers for each caller process; it expires
    {batchify:app.insert}:dead        the dead letters
    {batchify:app.insert}:flushes     a stream of flushes: up to which entry no item may linger

For each delivered entry Redis records the consumer, the time and the number of deliveries.
`XAUTOCLAIM` would raise that number for a whole batch, so that an item that kills its workers would
turn its neighbours into dead letters. Workers therefore look for overdue entries with `XPENDING`,
and claim them in small parts. No linger relies on a `BLOCK` timeout: Redis checks these ten times
a second, so that a short one takes 100 ms.
Callers are the engine of `broker=` and `worker`, by the protocol in `batchify.broker`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..broker import address_of, refuse_method
from ..codec import Codec, Serializer
from ..options import kind, seconds, whole
from .connection import client_of
from .consumer import RedisConsumer
from .dead import DeadItem, DeadLetters
from .keys import Keys
from .producer import RedisProducer

__all__ = ["DeadItem", "DeadLetters", "RedisStreams"]

MAX_BYTES = 512 << 20  # of one value: the default of the server's `proto-max-bulk-len`


class RedisStreams:
    """A durable queue on Redis Streams, shared by many machines; Redis >= 6.2.

    Args:
        url: `redis://`, `rediss://` (TLS) or `unix://`, with user, password and database. Options
            after `?` are passed on to redis-py.
        lease: seconds after which an item is delivered again if its worker has not renewed the
            lease. A worker renews it while the batch runs.
        max_deliveries: the maximum number of deliveries of an item. After that it becomes a dead
            letter, and its caller gets `DeadLetter`.
        serializer: "json", "msgpack", "pickle" (only if no untrusted program can write to that
            Redis, because reading a pickle can run any code), or an object with `dumps` and
            `loads`.
        max_length: the maximum number of items in the stream, queued and running, of all callers.
            When it is reached, further items wait in the caller's process. None: no limit.
        send_timeout: seconds for which an item waits for a server that cannot be reached. After
            that it fails with a `ConnectionError`.
        answers_expire: seconds for which Redis keeps the answers for a process that does not read
            them.
        stream: the name of the stream; by default made from the function's module and qualified
            name.

    Raises:
        TypeError: an argument has the wrong type.
        ValueError: an argument has an invalid value.
    """

    def __init__(
        self,
        url: str,
        *,
        lease: float = 30.0,
        max_deliveries: int = 4,
        serializer: str | Serializer = "json",
        max_length: int | None = 1_000_000,
        send_timeout: float = 60.0,
        answers_expire: float = 3600.0,
        stream: str | None = None,
    ) -> None:
        self._url = _text("url", url)
        client_of(url)  # raises if the URL is invalid; does not connect
        self.lease = _positive("lease", lease)
        self.max_deliveries = whole("max_deliveries", max_deliveries)
        self.codec = Codec(serializer, MAX_BYTES)
        self.max_length = None if max_length is None else whole("max_length", max_length)
        self.send_timeout = seconds("send_timeout", send_timeout)
        self.answers_expire = _positive("answers_expire", answers_expire)
        self._stream = None if stream is None else _text("stream", stream)

    def __repr__(self) -> str:
        stream = "" if self._stream is None else f"stream={self._stream!r} "
        return f"<RedisStreams {stream}lease={self.lease:g} max_deliveries={self.max_deliveries}>"

    def keys(self, function: Callable[..., Any]) -> Keys:
        """Return the names of the function's Redis keys."""
        refuse_method(function)
        return Keys(f"{{{self._stream or f'batchify:{address_of(function)}'}}}")

    def client(self) -> Any:
        """Return a new client of the server."""
        return client_of(self._url)

    def producer(self, function: Callable[..., Any]) -> RedisProducer:
        """Return the side of the function's callers in this process."""
        return RedisProducer(self, self.keys(function))

    def consumer(self, function: Callable[..., Any]) -> RedisConsumer:
        """Return the side of one worker process of the function."""
        return RedisConsumer(self, self.keys(function))

    def dead_letters(self, function: Callable[..., Any]) -> DeadLetters:
        """Return the dead letters of the function."""
        return DeadLetters(self, self.keys(function))


def _text(option: str, value: object) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{option} must be a str, got {kind(value)}")
    if not value:
        raise ValueError(f"{option} must not be empty")
    return value


def _positive(option: str, value: object) -> float:
    number = seconds(option, value)
    if not number:
        raise ValueError(f"{option} must be > 0, got {number:g}")
    return number
