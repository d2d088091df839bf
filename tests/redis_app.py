"""Batched functions for the Redis tests, whose workers run in separate processes."""

from __future__ import annotations

import os
import time
from typing import Any

from batchify import Retry, batched
from batchify.redis import RedisStreams


class Sour(Exception):
    """A custom error whose `__init__` pickle cannot call."""

    def __init__(self, item: int, *, why: str) -> None:
        super().__init__(item)
        self.why = why


def make_broker(max_deliveries: int = 4) -> RedisStreams:
    return RedisStreams(
        os.environ.get("BATCHIFY_TEST_REDIS", "redis://127.0.0.1:1"),
        lease=float(os.environ.get("BATCHIFY_TEST_LEASE", "1")),
        answers_expire=60,
        max_deliveries=max_deliveries,
    )


broker = make_broker()


def note(rows: list[Any]) -> None:
    """Append the rows that ran to the log in one write, so that the test can count them."""
    path = os.environ.get("BATCHIFY_TEST_LOG")
    if path:
        with open(path, "ab", buffering=0) as log:
            log.write((" ".join(map(str, rows)) + "\n").encode())


@batched(size=100, linger=0.002, broker=broker)
def double(rows: list[int]) -> list[int]:
    note(rows)
    return [2 * row for row in rows]


@batched(size=100, linger=0.002, broker=broker)
async def adouble(rows: list[int]) -> list[int]:
    note(rows)
    return [2 * row for row in rows]


@batched(size=100, linger=0.002, broker=make_broker(max_deliveries=1000))
def slow(rows: list[int]) -> list[int]:
    """Sleep before and after the write, so that a kill hits in the middle of the batch."""
    time.sleep(0.03)
    note(rows)
    time.sleep(0.03)
    return [2 * row for row in rows]


@batched(size=64, broker=broker)
def deadly(rows: list[int]) -> list[int]:
    note(rows)
    if 13 in rows:
        os._exit(9)
    return [2 * row for row in rows]


@batched(size=10, broker=broker)
def moody(rows: list[int]) -> list[Any]:
    return [Sour(row, why="it is odd") if row % 2 else Retry(attempts=2) if row == 4 else row
            for row in rows]  # fmt: skip


@batched(size=100, linger=None, broker=broker)
def patient(rows: list[int]) -> list[int]:
    note(rows)
    return rows
