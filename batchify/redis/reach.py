"""The server: a client of it, and what it means when it cannot be reached."""

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

AT_ONCE = 1000  # entries that one command asks for
# An entry may have 1 GB (an answer to many items is one), and so may what a server queues up for a
# transaction.
BYTES_AT_ONCE = 64 << 20
# The longest wait for an answer, some times that of a `BLOCK`: a server may go without a word.
SOCKET_TIMEOUT = 10.0


def client_of(url: str) -> Any:
    """A client; it connects to nothing yet.

    Raises:
        ValueError: that is no URL of a server, or sets what answers look like.
    """
    client = redis.Redis.from_url(
        url, socket_timeout=SOCKET_TIMEOUT, socket_connect_timeout=5.0, socket_keepalive=True
    )
    given = client.connection_pool.connection_kwargs
    if given.get("decode_responses") or "protocol=" in url:
        raise ValueError("the URL must set neither protocol nor decode_responses")
    return client


_PASSING = (
    ConnectionError, TimeoutError, BusyLoadingError, OutOfMemoryError, ReadOnlyError, OSError,
)  # fmt: skip
# What a server says that is full, restarted, or not the first among its replicas (any more).
_PASSING_WORDS = (
    "LOADING", "OOM", "READONLY", "UNBLOCKED", "NOREPLICAS", "MISCONF", "MASTERDOWN",
    "CLUSTERDOWN", "TRYAGAIN",
)  # fmt: skip


@contextmanager
def reaching() -> Generator[None, None, None]:
    """Tell apart what passes (`Unreachable`) from what does not, such as a wrong password."""
    try:
        yield
    except (AuthenticationError, AuthorizationError):
        raise
    except RedisError as error:
        # Of a pipeline it shows the command, with somebody's item.
        told = str(error).rpartition(" caused error: ")[2]
        error.args = (told,)
        if isinstance(error, _PASSING) or told.startswith(_PASSING_WORDS):
            raise Unreachable(kind(error)) from error
        raise
    except OSError as error:
        raise Unreachable(kind(error)) from error


@contextmanager
def one_step(client: Any) -> Generator[Any, None, None]:
    """Commands of which all are done, or none."""
    with reaching():
        pipe = client.pipeline(transaction=True)
        yield pipe
        pipe.execute()


def entries_of(found: Any) -> list[tuple[bytes, dict[bytes, bytes]]]:
    """Those that a read of one stream gave."""
    return [entry for _, entries in found or [] for entry in entries]


def fitting(sizes: Iterable[int]) -> int:
    """How many of the first go into one step; one in any case."""
    sums = itertools.accumulate(sizes)
    return max(1, sum(1 for _ in itertools.takewhile(lambda size: size <= BYTES_AT_ONCE, sums)))


def parts_of(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    for at in range(0, len(items), size):
        yield items[at : at + size]
