"""`broker=RedisStreams(...)`: items of any process go to a Redis stream, and workers run them.

Keys, for a function `insert` of the module `app`:

    {batchify:app.insert}             the stream of items, with one group of consumers
    {batchify:app.insert}:answers:ID  a stream for each process of callers, which expires
    {batchify:app.insert}:dead        the dead letters
    {batchify:app.insert}:flushes     a stream: up to which entry nothing is to linger

Of what is delivered Redis keeps who has it, since when, and how often. `XAUTOCLAIM` would raise
that number for a whole batch, and so bury all neighbours of an item that kills workers: what is
overdue is looked at by `XPENDING`, and claimed in pieces. A short `BLOCK` takes 100 ms whatever it
says, as Redis looks at time-outs ten times a second: so nothing here lingers by it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..broker import address_of, refuse_method
from ..options import kind, seconds, whole
from ..wire import Serializer, Wire
from .dead import DeadItem, DeadLetters
from .inbox import RedisInbox
from .keys import Keys
from .outbox import RedisOutbox
from .reach import client_of

__all__ = ["DeadItem", "DeadLetters", "RedisStreams"]

LONGEST = 512 << 20  # bytes of one value: the server's `proto-max-bulk-len`, if nobody raised it


class RedisStreams:
    """A durable queue on Redis Streams, shared by many machines; Redis >= 6.2.

    Args:
        url: `redis://`, `rediss://` (TLS) or `unix://`, with user, password and database; what
            redis-py takes after `?` is passed on to it.
        lease: seconds after which an item is delivered again when its worker is not heard of; it
            is renewed while the batch runs.
        max_deliveries: how often an item is delivered at most; then it goes to the dead letters,
            and its caller gets `DeadLetter`.
        serializer: "json", "msgpack", "pickle" (for a Redis that only you can write to: reading
            runs what it says), or anything with `dumps` and `loads`.
        max_length: the most items in the stream, waiting and running, over all callers; then what
            is sent waits. None is without a bound.
        send_timeout: seconds for which an item waits for a server that cannot be reached; then it
            ends in the `ConnectionError`.
        answers_expire: seconds for which the answers for a process are kept that reads none.
        stream: the name of the stream; by default after the function's module and qualified name.

    Raises:
        TypeError: an argument has a wrong type.
        ValueError: an argument has a wrong value.
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
        client_of(url)  # what is wrong with it is told here; nothing is connected
        self.lease = _positive("lease", lease)
        self.max_deliveries = whole("max_deliveries", max_deliveries)
        self.wire = Wire(serializer, LONGEST)
        self.max_length = None if max_length is None else whole("max_length", max_length)
        self.send_timeout = seconds("send_timeout", send_timeout)
        self.answers_expire = _positive("answers_expire", answers_expire)
        self._stream = None if stream is None else _text("stream", stream)

    def __repr__(self) -> str:
        stream = "" if self._stream is None else f"stream={self._stream!r} "
        return f"<RedisStreams {stream}lease={self.lease:g} max_deliveries={self.max_deliveries}>"

    def keys(self, function: Callable[..., Any]) -> Keys:
        """The names of all that belongs to a function."""
        refuse_method(function)
        return Keys(f"{{{self._stream or f'batchify:{address_of(function)}'}}}")

    def client(self) -> Any:
        """A client of the server."""
        return client_of(self._url)

    def outbox(self, function: Callable[..., Any]) -> RedisOutbox:
        """The callers' end, in one process."""
        return RedisOutbox(self, self.keys(function))

    def inbox(self, function: Callable[..., Any]) -> RedisInbox:
        """The end of one worker process."""
        return RedisInbox(self, self.keys(function))

    def dead_letters(self, function: Callable[..., Any]) -> DeadLetters:
        """What was delivered too often."""
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
        raise ValueError(f"{option} must be more than 0")
    return number
