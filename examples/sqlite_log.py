"""Measure what batching gains for an audit log in SQLite, and where it loses.

By default a commit waits for the disk, and lines that arrive meanwhile share the next commit. With
a write-ahead log and `synchronous=NORMAL`, a commit does not wait for the disk: callers that wait
for each line then lose more time in the queue than they gain.

Run it: `python examples/sqlite_log.py` (`python -m batchify demo` shows more of the same)
"""

from __future__ import annotations

import sqlite3
import tempfile
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from statistics import median

from batchify import batched

ROUNDS = 3
SECONDS = 0.12  # length of each measurement
PENDING = 250  # lines that a caller submits before it waits
INSERT = "INSERT INTO log (line) VALUES (?)"


class Log:
    """A log in a file; a lock protects its only connection."""

    def __init__(self, path: Path, *pragmas: str) -> None:
        self.connection = sqlite3.connect(path, check_same_thread=False)
        for pragma in pragmas:
            self.connection.execute(f"PRAGMA {pragma}")
        self.connection.execute("CREATE TABLE log (id INTEGER PRIMARY KEY, line TEXT NOT NULL)")
        self.lock = threading.Lock()

    def write_one(self, line: str) -> int:
        """Write one line with a commit of its own; return its id."""
        with self.lock, self.connection:
            row_id = self.connection.execute(INSERT, (line,)).lastrowid
        assert row_id is not None
        return row_id

    @batched(size=500)
    def write(self, lines: list[str]) -> range:
        """Write many lines with one commit; return their ids."""
        with self.lock, self.connection:
            self.connection.executemany(INSERT, [(line,) for line in lines])
            (last,) = self.connection.execute("SELECT last_insert_rowid()").fetchone()
        return range(last - len(lines) + 1, last + 1)


Receipts = list[tuple[int, str]]
Caller = Callable[[Log, str, float], Receipts]


def per_call(log: Log, name: str, end: float) -> Receipts:
    """Write line by line until `end`; return the ids and the lines."""
    receipts: Receipts = []
    while not receipts or time.perf_counter() < end:
        line = f"{name} {len(receipts)}"
        receipts.append((log.write_one(line), line))
    return receipts


def waiting(log: Log, name: str, end: float) -> Receipts:
    """Call the batched method, and wait for each line."""
    receipts: Receipts = []
    while not receipts or time.perf_counter() < end:
        line = f"{name} {len(receipts)}"
        receipts.append((log.write(line).result(), line))
    return receipts


def many_pending(log: Log, name: str, end: float) -> Receipts:
    """Submit many lines, then collect their ids."""
    receipts: Receipts = []
    while not receipts or time.perf_counter() < end:
        lines = [f"{name} {len(receipts)} {number}" for number in range(PENDING)]
        futures = [log.write(line) for line in lines]
        receipts += [(future.result(), line) for future, line in zip(futures, lines, strict=True)]
    return receipts


def rate(log: Log, caller: Caller, threads: int, everything: Receipts) -> float:
    """Return the lines per second of `threads` callers, each in a thread of its own."""
    began = time.perf_counter()
    names = [f"{caller.__name__} {began} {thread}" for thread in range(threads)]
    with ThreadPoolExecutor(threads) as pool:
        turns = pool.map(lambda name: caller(log, name, began + SECONDS), names)
        receipts = list(chain.from_iterable(turns))
    everything += receipts
    return len(receipts) / (time.perf_counter() - began)


def main() -> None:
    """Compare single writes with batches, in turns, for each kind of caller and of file."""
    callers = [(waiting, 1), (waiting, 16), (many_pending, 4)]
    files = {"default": [], "WAL": ["journal_mode=WAL", "synchronous=NORMAL"]}
    with tempfile.TemporaryDirectory() as directory:
        for name, pragmas in files.items():
            log, everything = Log(Path(directory) / f"{name}.db", *pragmas), Receipts()
            for caller, threads in callers:
                pairs = [
                    [rate(log, each, threads, everything) for each in (per_call, caller)]
                    for _ in range(ROUNDS)
                ]
                before, after = (median(rates) for rates in zip(*pairs, strict=True))
                gain = median(after / before for before, after in pairs)
                print(
                    f"{name:<8} {threads:>3} threads, {caller.__name__:<12} "
                    f"{before:>7,.0f} -> {after:>7,.0f} lines/s: {gain:.2f}x"
                )
            log.write.close()
            stored = log.connection.execute("SELECT id, line FROM log").fetchall()
            # Each line is stored once, and each caller has the id of its own line.
            assert sorted(everything) == sorted(stored)
            log.connection.close()


if __name__ == "__main__":
    main()
