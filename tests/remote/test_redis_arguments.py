"""`broker=RedisStreams(...)`: options and items that the call refuses."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from batchify import batched
from batchify.redis import RedisStreams
from batchify.testing import eager
from batchify.worker import Worker
from tests.redis_server import PROGRAM

pytestmark = [
    pytest.mark.skipif(PROGRAM is None, reason="redis-server is not installed"),
    # redis-py relies on the garbage collector to close broken connections.
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
]


def test_an_item_that_cannot_be_encoded_is_refused_by_the_call(broker: Any) -> None:
    @batched(broker=broker())
    def same(rows: list[Any]) -> list[Any]:
        return rows

    with pytest.raises(TypeError):
        same(object())
    stats = same.stats()
    assert (stats.submitted, stats.rejected, stats.accepted) == (1, 1, 0)


def test_options_and_methods_that_a_broker_refuses() -> None:
    streams = RedisStreams("redis://127.0.0.1:1")
    with ThreadPoolExecutor() as pool, pytest.raises(TypeError, match="executor and broker"):
        batched(broker=streams, executor=pool)
    with pytest.raises(TypeError, match="broker"):
        batched(broker="redis://127.0.0.1")

    class Table:
        @batched(broker=streams)
        def insert(self, rows: list[int]) -> None: ...

        @batched(broker=streams)
        @classmethod
        def insert_all(cls, rows: list[int]) -> None: ...

    with pytest.raises(TypeError, match="instance or class"):
        Table().insert(1)
    with pytest.raises(TypeError, match="instance or class"):
        Table.insert_all(1)
    with pytest.raises(ValueError, match="name"):
        batched(lambda rows: rows, broker=streams)(1)
    with pytest.raises(TypeError, match="broker"):
        Worker(batched(lambda rows: rows))
    with pytest.raises(TypeError, match="broker"):
        Worker(len)


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"url": 1}, TypeError),
        ({"url": "http://somewhere"}, ValueError),
        ({"url": "redis://127.0.0.1?protocol=3"}, ValueError),
        ({"url": "redis://127.0.0.1?decode_responses=True"}, ValueError),
        ({"lease": 0}, ValueError),
        ({"lease": "1"}, TypeError),
        ({"max_deliveries": 0}, ValueError),
        ({"max_deliveries": True}, TypeError),
        ({"serializer": "yaml"}, ValueError),
        ({"serializer": 1}, TypeError),
        ({"max_length": 0}, ValueError),
        ({"send_timeout": -1}, ValueError),
        ({"answers_expire": 0}, ValueError),
        ({"stream": ""}, ValueError),
        ({"stream": b"a"}, TypeError),
    ],
)
def test_wrong_options_are_named(wrong: dict[str, Any], error: type[Exception]) -> None:
    option = next(iter(wrong))
    with pytest.raises(error, match="URL" if option == "url" and error is ValueError else option):
        RedisStreams(**{"url": "redis://127.0.0.1", **wrong})


def test_a_password_is_shown_nowhere() -> None:
    streams = RedisStreams("redis://me:secret@127.0.0.1:1")
    assert "secret" not in repr(streams) + str(streams)


def test_eager_needs_no_server() -> None:
    @batched(broker=RedisStreams("redis://127.0.0.1:1", stream="nothing"))
    def double(rows: list[int]) -> list[int]:
        return [2 * row for row in rows]

    with eager():
        assert double(1).result(0) == 2
