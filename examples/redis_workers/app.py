"""Insert rows from any process in batches, which run in worker processes.

Start a worker with `python -m batchify worker app:insert`. If a worker dies, its batch runs again.
So the insert must be idempotent: it ignores keys that are already in the table.
"""

from __future__ import annotations

import os
import sqlite3

from batchify import batched
from batchify.redis import RedisStreams

broker = RedisStreams(os.environ.get("REDIS_URL", "redis://localhost:6379/0"), lease=2.0)
database = os.environ.get("DATABASE", "rows.db")


def connect() -> sqlite3.Connection:
    """Open a connection, and create the table if necessary."""
    connection = sqlite3.connect(database, timeout=60)
    connection.execute("CREATE TABLE IF NOT EXISTS row (key INTEGER PRIMARY KEY, text TEXT)")
    return connection


def write(rows: list[tuple[int, str]]) -> list[int]:
    """Write all rows in one transaction; return their keys."""
    with connect() as connection:
        connection.executemany("INSERT OR IGNORE INTO row VALUES (?, ?)", rows)
    connection.close()
    return [key for key, _ in rows]


@batched(size=500, linger=0.02, broker=broker)
def insert(rows: list[tuple[int, str]]) -> list[int]:
    """Insert rows in batches."""
    return write(rows)


@batched(size=1, broker=broker)
def insert_one(rows: list[tuple[int, str]]) -> list[int]:
    """Insert rows one by one, for comparison."""
    return write(rows)
