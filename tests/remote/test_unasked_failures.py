"""Failures from a broker's workers are logged like other failures: contract 4."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator

import pytest

from batchify import batched
from tests.limits import LIMIT
from tests.log_lines import lines_of
from tests.redis_server import PROGRAM, redis_server

pytestmark = [
    pytest.mark.skipif(PROGRAM is None, reason="redis-server is not installed"),
    pytest.mark.deep,
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
]


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with redis_server() as server:
        yield server.url


def test_items_that_failed_in_a_worker(url: str) -> None:
    from batchify.redis import RedisStreams
    from batchify.worker import Worker

    @batched(name="audit", broker=RedisStreams(url, stream=uuid.uuid4().hex, lease=1.0))
    def audit(items: list[int]) -> list[int]:
        raise ValueError("secret")

    worker = Worker(audit, 1)
    thread = threading.Thread(target=worker.run)
    thread.start()
    with lines_of("audit") as lines:
        audit(1)
        assert lines.next() == (
            "WARNING audit: 1 item failed with ValueError, and no caller asked for its result"
        )
        with pytest.raises(ValueError):
            audit(2).result(LIMIT)
        audit.close()
        worker.stop()
        thread.join()
        assert lines.rest() == []
