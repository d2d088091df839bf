"""Copy what is computed from a table too large for memory into another, many rows at a time.

`map` reads the rows lazily, keeps a window of them under way and shows a bar (where tqdm is
installed); `isolate` finds the rows that the database refuses; the batches grow while it runs.

Run it: `python examples/backfill.py`
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator

from batchify import batched

ROWS = 20_000

source = sqlite3.connect(":memory:")  # a connection of its own for each thread
target = sqlite3.connect(":memory:", check_same_thread=False)
target.execute("CREATE TABLE births (id INTEGER PRIMARY KEY, birth INTEGER CHECK (birth > 1900))")
source.execute("CREATE TABLE users (id INTEGER PRIMARY KEY, age INTEGER)")
source.executemany(
    "INSERT INTO users VALUES (?, ?)",
    [(n, 150 if n in (77, 7777) else n % 100) for n in range(ROWS)],
)


# `isolate` may run it again: it is one transaction, undone when it raises.
@batched(size=200, linger=0.01, isolate=True)
def write(rows: list[tuple[int, int]]) -> None:
    """All rows, or none."""
    with target:
        target.executemany("INSERT INTO births VALUES (?, ?)", rows)


def missing() -> Iterator[tuple[int, int]]:
    """The rows to do, read as they are needed."""
    for number, age in source.execute("SELECT id, age FROM users ORDER BY id"):
        yield number, 2026 - age


def main() -> None:
    """Fill it."""
    refused = 0
    for outcome in write.map(missing(), window=5_000, return_exceptions=True, progress=True):
        refused += isinstance(outcome, sqlite3.IntegrityError)
        if write.stats().batches == 10:
            write.size = 2_000
    stats = write.stats()
    (written,) = target.execute("SELECT count(*) FROM births").fetchone()
    assert (written, refused) == (ROWS - 2, 2)
    print(f"{written} rows written, {refused} refused, in {stats.batches} batches")
    print(f"batches had {stats.sizes.p50:.0f} rows (median), at most {stats.sizes.max:.0f}")


if __name__ == "__main__":
    main()
