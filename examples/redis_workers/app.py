"""Rows of any process, inserted in batches by worker processes.

`python -m batchify worker app:insert` runs it. A batch whose worker dies runs again, so the insert
is one that may: the key says which row it is.
"""

from __future__ import annotations

import os
import sqlite3

from batchify import batched
from batchify.redis import RedisStreams

broker = RedisStreams(os.environ.get("REDIS_URL", "redis://localhost:6379/0"), lease=2.0)
database = os.environ.get("DATABASE", "rows.db")


def connect() -> sqlite3.Connection:
    """A connection with the table in place."""
    connection = sqlite3.connect(database, timeout=60)
    connection.execute("CREATE TABLE IF NOT EXISTS row (key INTEGER PRIMARY KEY, text TEXT)")
    return connection


def write(rows: list[tuple[int, str]]) -> list[int]:
    """One transaction for all of them; gives their keys."""
    with connect() as connection:
        connection.executemany("INSERT OR IGNORE INTO row VALUES (?, ?)", rows)
    connection.close()
    return [key for key, _ in rows]


@batched(size=500, linger=0.02, broker=broker)
def insert(rows: list[tuple[int, str]]) -> list[int]:
    """In batches."""
    return write(rows)


@batched(size=1, broker=broker)
def insert_one(rows: list[tuple[int, str]]) -> list[int]:
    """The same, one by one."""
    return write(rows)
