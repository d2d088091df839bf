"""Connect to the Redis server, and tell temporary failures from permanent ones.

Temporary failures become `Unreachable`. No error shows a command, because commands contain items.
Callers are the other modules of `redis`.
"""

from __future__ import annotations

import itertools
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

try:
    import redis
    from redis.exceptions import (
        AuthenticationError,
        AuthorizationError,
        BusyLoadingError,
        ConnectionError,  # noqa: A004
        OutOfMemoryError,
        ReadOnlyError,
        RedisError,
        TimeoutError,  # noqa: A004
    )
except ModuleNotFoundError as error:  # pragma: no cover
    from ..errors import missing_extra

    raise missing_extra("batchify.redis", "redis", error) from None

from ..broker import Unreachable
from ..options import kind

CHUNK = 1000  # the maximum number of entries that one command requests
# Redis limits an entry (such as the answers to many items), and the commands that it queues for a
# transaction, to 1 GB.
CHUNK_BYTES = 64 << 20
# Seconds to wait for a reply, several times as long as any `BLOCK`: a server may vanish silently.
SOCKET_TIMEOUT = 10.0


def client_of(url: str) -> Any:
    """Return a client, without connecting.

    Raises:
        ValueError: the URL is invalid, or changes the format of replies.
    """
    client = redis.Redis.from_url(
        url, socket_timeout=SOCKET_TIMEOUT, socket_connect_timeout=5.0, socket_keepalive=True
    )
    kwargs = client.connection_pool.connection_kwargs
    if kwargs.get("decode_responses") or "protocol=" in url:
        raise ValueError("the URL must set neither protocol nor decode_responses")
    return client


_TEMPORARY = (
    ConnectionError, TimeoutError, BusyLoadingError, OutOfMemoryError, ReadOnlyError, OSError,
)  # fmt: skip
# How the error of a server begins that is full, is restarting, or is not the primary.
_TEMPORARY_PREFIXES = (
    "LOADING", "OOM", "READONLY", "UNBLOCKED", "NOREPLICAS", "MISCONF", "MASTERDOWN",
    "CLUSTERDOWN", "TRYAGAIN",
)  # fmt: skip


@contextmanager
def reaching() -> Generator[None, None, None]:
    """Raise `Unreachable` for temporary errors of the server; a wrong password is not temporary."""
    try:
        yield
    except (AuthenticationError, AuthorizationError):
        raise
    except RedisError as error:
        # The error of a pipeline shows the command, which contains items.
        text = str(error).rpartition(" caused error: ")[2]
        error.args = (text,)
        if isinstance(error, _TEMPORARY) or text.startswith(_TEMPORARY_PREFIXES):
            raise Unreachable(kind(error)) from error
        raise
    except OSError as error:
        raise Unreachable(kind(error)) from error


@contextmanager
def transaction(client: Any) -> Generator[Any, None, None]:
    """Execute all commands given to the pipeline that this yields as one atomic step."""
    with reaching():
        pipe = client.pipeline(transaction=True)
        yield pipe
        pipe.execute()


def entries_of(found: Any) -> list[tuple[bytes, dict[bytes, bytes]]]:
    """Return the entries in the reply to a read of one stream."""
    return [entry for _, entries in found or [] for entry in entries]


def count_that_fits(sizes: Iterable[int]) -> int:
    """Return how many entries, of these sizes in bytes, go into one transaction; at least one."""
    sums = itertools.accumulate(sizes)
    return max(1, sum(1 for _ in itertools.takewhile(lambda size: size <= CHUNK_BYTES, sums)))


def chunks_of(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    """Yield `items` in sequences of at most `size`."""
    for at in range(0, len(items), size):
        yield items[at : at + size]
