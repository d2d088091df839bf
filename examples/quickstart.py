"""Insert users one by one, from threads and from coroutines, with one INSERT per batch.

Run it: `python examples/quickstart.py`
"""

from __future__ import annotations

import asyncio
import sqlite3
from concurrent.futures import ThreadPoolExecutor

from batchify import Closed, batched

database = sqlite3.connect(":memory:", check_same_thread=False)
database.execute("CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT NOT NULL)")


@batched(size=500, linger=0.01)
def insert_user(names: list[str | None]) -> list[int | Exception]:
    """Insert many users; return an id, or an exception, for each."""
    good = [name for name in names if name is not None]
    rows = database.execute(
        f"INSERT INTO users (name) VALUES {', '.join('(?)' for _ in good)} RETURNING id", good
    ).fetchall()
    database.commit()
    ids = iter(row[0] for row in rows)
    return [ValueError("a user needs a name") if name is None else next(ids) for name in names]


def from_threads() -> None:
    """Insert from 16 threads, each of which waits for its id."""
    with ThreadPoolExecutor(16) as pool:
        ids = list(pool.map(lambda n: insert_user(f"thread {n}").result(), range(1000)))
    assert len(set(ids)) == 1000


async def from_tasks() -> None:
    """Insert from coroutines: await the same function."""
    ids = await asyncio.gather(*(insert_user(f"task {n}") for n in range(1000)))
    assert len(set(ids)) == 1000


def one_bad_item() -> None:
    """Show that an exception in the results is raised only for the caller of that item."""
    good, bad = insert_user("Ada"), insert_user(None)
    name = database.execute("SELECT name FROM users WHERE id = ?", (good.result(),)).fetchone()[0]
    assert name == "Ada"
    assert isinstance(bad.exception(), ValueError)


def close() -> None:
    """Close the function: it runs all accepted items, then refuses new ones."""
    last = insert_user("Zoe")
    insert_user.close()
    assert last.done()
    try:
        insert_user("too late")
    except Closed as error:
        print("after close:", error)


if __name__ == "__main__":
    from_threads()
    asyncio.run(from_tasks())
    one_bad_item()
    stats = insert_user.stats()
    print(f"{stats.succeeded} users in {stats.batches} batches, {stats.failed} refused")
    close()
