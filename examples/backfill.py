"""Fill a column of a table that is too large for memory, with one UPDATE for many rows.

`map` reads the rows lazily, keeps a window of them under way and shows a bar (where tqdm is
installed); `isolate` finds the rows that the database refuses; the batches grow while it runs.

Run it: `python examples/backfill.py`
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator

from batchify import batched

ROWS = 20_000

database = sqlite3.connect(":memory:", check_same_thread=False)
database.execute("CREATE TABLE users (id INTEGER PRIMARY KEY, age INTEGER, birth INTEGER)")
database.execute("CREATE TABLE births (id INTEGER PRIMARY KEY, birth INTEGER CHECK (birth > 1900))")
database.executemany(
    "INSERT INTO users VALUES (?, ?, NULL)",
    [(n, 150 if n in (77, 7777) else n % 100) for n in range(ROWS)],
)


@batched(size=200, linger=0.01, isolate=True)  # one transaction, undone when it raises: it may run again
def write(rows: list[tuple[int, int]]) -> None:
    """All rows, or none."""
    with database:
        database.executemany("INSERT INTO births VALUES (?, ?)", rows)


def missing() -> Iterator[tuple[int, int]]:
    """The rows to do, read as they are needed."""
    for number in range(ROWS):
        (age,) = database.execute("SELECT age FROM users WHERE id = ?", (number,)).fetchone()
        yield number, 2026 - age


def main() -> None:
    """Fill it."""
    refused = 0
    for outcome in write.map(missing(), window=5_000, return_exceptions=True, progress=True):
        refused += isinstance(outcome, sqlite3.IntegrityError)
        if write.stats().batches == 10:
            write.size = 2_000
    stats = write.stats()
    (written,) = database.execute("SELECT count(*) FROM births").fetchone()
    assert (written, refused) == (ROWS - 2, 2)
    print(f"{written} rows written, {refused} refused, in {stats.batches} batches")
    print(f"batches had {stats.sizes.p50:.0f} rows (median), at most {stats.sizes.max:.0f}")


if __name__ == "__main__":
    main()
