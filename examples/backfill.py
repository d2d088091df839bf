"""Read a table too large for memory, compute a value for each row, and write many rows at a time.

`map` reads the rows lazily, keeps a limited number of them pending, and shows a progress bar if
tqdm is installed. `isolate` finds the rows that the database refuses. The batch size grows while
the program runs.

Run it: `python examples/backfill.py`
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator

from batchify import batched

ROWS = 20_000

source = sqlite3.connect(":memory:")  # read in the main thread; a worker thread writes `target`
target = sqlite3.connect(":memory:", check_same_thread=False)
target.execute("CREATE TABLE births (id INTEGER PRIMARY KEY, birth INTEGER CHECK (birth > 1900))")
source.execute("CREATE TABLE users (id INTEGER PRIMARY KEY, age INTEGER)")
source.executemany(
    "INSERT INTO users VALUES (?, ?)",
    [(n, 150 if n in (77, 7777) else n % 100) for n in range(ROWS)],
)


# `isolate` may run the function again with the same rows. That is safe, because the transaction is
# rolled back if the function raises.
@batched(size=200, linger=0.01, isolate=True)
def write(rows: list[tuple[int, int]]) -> None:
    """Write all rows, or none."""
    with target:
        target.executemany("INSERT INTO births VALUES (?, ?)", rows)


def rows_to_write() -> Iterator[tuple[int, int]]:
    """Read the rows to write, one by one as `map` needs them."""
    for number, age in source.execute("SELECT id, age FROM users ORDER BY id"):
        yield number, 2026 - age


def main() -> None:
    """Fill the table, and check that only the two impossible rows were refused."""
    refused = 0
    for outcome in write.map(rows_to_write(), window=5_000, return_exceptions=True, progress=True):
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
