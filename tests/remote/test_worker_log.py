"""What a worker logs: its options, when it is connected, failed batches and totals (contract 7)."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from batchify import batched, worker
from batchify.failure_log import FailureLog
from batchify.redis import RedisStreams
from batchify.worker import Worker
from tests.limits import LIMIT
from tests.log_lines import Lines, lines_of
from tests.redis_server import PROGRAM, free_port, redis_server

pytestmark = [
    pytest.mark.skipif(PROGRAM is None, reason="redis-server is not installed"),
    pytest.mark.filterwarnings("ignore:unclosed:ResourceWarning"),
]

NAME = "insert"
PREFIX = f"worker of {NAME}"


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with redis_server() as server:
        yield server.url


@pytest.fixture
def lines(caplog: pytest.LogCaptureFixture) -> Iterator[Lines]:
    caplog.set_level(logging.INFO, "batchify")
    with lines_of(PREFIX) as found:
        yield found


def decorated(function: Callable[..., Any], url: str, **options: Any) -> Any:
    broker = RedisStreams(url, stream=uuid.uuid4().hex)
    return batched(function, name=NAME, broker=broker, **options)


@contextlib.contextmanager
def running(function: Any, **options: Any) -> Iterator[Worker]:
    made = Worker(function, **options)
    thread = threading.Thread(target=made.run)
    thread.start()
    try:
        yield made
    finally:
        made.stop()
        thread.join(LIMIT)


def test_the_start_the_connection_and_the_totals(url: str, lines: Lines) -> None:
    insert = decorated(lambda rows: rows, url, size=5, linger=0.01)
    with running(insert, workers=3):
        start = lines.next()
        assert start.startswith(f"INFO {PREFIX}: connecting; function={__name__}.test_the_start")
        stream = insert._options().broker._stream
        assert f", broker=<RedisStreams stream='{stream}' lease=30 max_deliveries=4>, " in start
        assert start.endswith("size=5, linger=0.01, workers=3")
        assert lines.next() == f"INFO {PREFIX}: ready"
        insert(1).result(LIMIT)
    assert lines.next().endswith("1 batch, 1 succeeded")
    with running(insert):
        pass
    assert lines.rest()[-1].endswith("s; no items received")


@pytest.mark.parametrize(("count", "text"), [(1, "1 dead letter"), (2, "2 dead letters")])
def test_the_totals_count_dead_letters(url: str, count: int, text: str) -> None:
    worker = Worker(decorated(lambda rows: rows, url))
    worker._dead = count
    assert worker._totals() == f"0 batches, {text}"


def test_a_worker_is_ready_only_when_it_is_connected(
    lines: Lines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(worker, "RETRY_PAUSE", 0.001)
    insert = decorated(lambda rows: rows, f"redis://127.0.0.1:{free_port()}")
    with running(insert) as made:
        attempts = threading.Semaphore(0)
        consumer: Any = made._consumer
        remove = consumer.remove_idle_workers

        def counted() -> None:
            attempts.release()
            remove()

        consumer.remove_idle_workers = counted
        assert lines.next().startswith(f"INFO {PREFIX}: connecting;")
        assert lines.next() == (
            f"WARNING {PREFIX}: cannot reach the broker (ConnectionError); "
            "trying again every 0.001 s"
        )
        for _ in range(3):
            assert attempts.acquire(timeout=LIMIT)
        assert not made.is_ready
        assert lines.rest() == []  # one warning in 30 s


def test_a_batch_that_fails_is_logged_once_without_content(url: str, lines: Lines) -> None:
    def fail(rows: list[str]) -> list[str]:
        raise ValueError(rows)

    insert = decorated(fail, url, size=3, linger=None)
    with running(insert):
        futures = [insert("SECRET") for _ in range(3)]
        assert all(isinstance(future.exception(LIMIT), ValueError) for future in futures)
        assert lines.next().startswith(f"INFO {PREFIX}: connecting;")
        assert lines.next() == f"INFO {PREFIX}: ready"
        line = lines.next()
        assert line.startswith(
            f"WARNING {PREFIX}: 3 of 3 items in a batch failed with ValueError (test_worker_log.py:"
        )
        assert "SECRET" not in line
    assert lines.next().endswith("1 batch, 3 failed")


FAILURES = rf"WARNING {PREFIX}: (\d) (?:of 4 items in a batch|items?) failed with KeyError"


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_items_that_fail_in_a_batch(url: str, lines: Lines, kind: str) -> None:
    def some(rows: list[int]) -> list[Any]:
        return [KeyError("SECRET") if row % 2 else row for row in rows]

    async def asome(rows: list[int]) -> list[Any]:
        return some(rows)

    insert = decorated(some if kind == "def" else asome, url, size=4, linger=None)
    with running(insert):
        futures = [insert(row) for row in range(4)]
        assert [future.exception(LIMIT) is None for future in futures] == [True, False] * 2
        lines.next(), lines.next()
    # The batch may end before the worker has added the last callback: see `FailureLog.log_others`.
    *failures, totals = lines.rest()
    found = [re.fullmatch(FAILURES, line) for line in failures]
    assert all(found), failures
    assert sum(int(one[1]) for one in found if one) == 2
    assert totals.endswith("1 batch, 2 succeeded, 2 failed")


def test_failures_after_the_end_of_their_batch_are_logged(lines: Lines) -> None:
    failures = FailureLog(PREFIX)
    failures.add(KeyError())
    failures.log_others()
    assert lines.rest() == [f"WARNING {PREFIX}: 1 item failed with KeyError"]
    failures.log_others()
    assert lines.rest() == []


def test_items_that_no_batch_gets(url: str, lines: Lines) -> None:
    insert = decorated(lambda rows: rows, url)
    broker = insert._options().broker
    broker.client().xadd(broker.keys(insert._plain()).stream, {"i": "not JSON", "n": "1"})
    with running(insert):
        lines.next(), lines.next()
        assert lines.next().startswith(f"WARNING {PREFIX}: 1 item not run: JSONDecodeError (")
    assert lines.next().endswith("0 batches, 1 refused")


def test_several_errors_are_one_line(lines: Lines) -> None:
    failures = FailureLog(PREFIX)
    for error in [*[ValueError()] * 3, KeyError(), *[OSError()] * 2, EOFError(), TypeError()]:
        failures.add_other(error)
    failures.log_others()
    assert lines.rest() == [
        f"WARNING {PREFIX}: 8 items not run: 3 ValueError, 2 OSError, 1 KeyError, 2 others"
    ]
    failures.log_others()
    assert lines.rest() == []


def test_a_wrong_password_ends_the_command(tmp_path: Path) -> None:
    with redis_server("--requirepass", "right") as server:
        url = server.url.replace("redis://", "redis://:wrong@")
        (tmp_path / "service.py").write_text(
            "from batchify import batched\nfrom batchify.redis import RedisStreams\n"
            f"@batched(broker=RedisStreams({url!r}))\ndef insert(rows):\n    return rows\n"
        )
        for command in ("worker", "dead"):
            done = subprocess.run(
                [sys.executable, "-m", "batchify", command, "service:insert"],
                cwd=tmp_path,
                env={**os.environ, "PYTHONPATH": os.getcwd()},
                capture_output=True,
                text=True,
                timeout=LIMIT,
            )
            assert done.returncode == 1
            assert "Traceback" not in done.stderr
            assert "ready" not in done.stderr
            assert "AuthenticationError" in done.stderr.splitlines()[-1]
            assert "wrong@" not in done.stderr
