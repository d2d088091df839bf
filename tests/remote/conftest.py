"""Start a Redis server for the tests of the broker."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from batchify.redis import RedisStreams
from tests.redis_server import RedisServer, redis_server


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with redis_server() as found:
        yield found


@pytest.fixture
def broker(server: RedisServer) -> Callable[..., RedisStreams]:
    """Provide a broker with a separate stream for each test."""
    name = uuid.uuid4().hex

    def make(**options: Any) -> RedisStreams:
        return RedisStreams(server.url, **{"stream": name, "lease": 1.0, **options})

    return make
