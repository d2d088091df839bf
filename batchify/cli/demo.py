"""`python -m batchify demo`: measure what batching gains for inserts into an SQLite file.

SQLite has its default settings: every commit waits until the data is on the disk. This is the fixed
cost of a call, which the calls of a batch share. One scenario shows callers that gain nothing.
The sections: the inserts, the callers, the measurement, the output.
"""

from __future__ import annotations

import asyncio
import math
import random
import sqlite3
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from itertools import count, islice
from pathlib import Path
from typing import NamedTuple

# If rich is missing, `__main__` says what to install.
from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
from rich.table import Table

from .. import Batched, Stats, batched
from .target import describe

SIZE = 500
IN_FLIGHT = 250
# Each scenario has several short turns instead of a long one, because the speed of disks varies.
ROUNDS = 10
# Seconds between two updates of the progress bar. Each update slows the callers down.
TICK = 0.1
# A commit that takes less than this, in seconds, did not wait for a disk.
NO_DISK = 0.0003


# ---- the inserts, as a user would write them ----


class Row(NamedTuple):
    """A row of the table, without its id."""

    scenario: str
    turn: int
    caller: int
    number: int
    note: str


def connect(path: Path) -> sqlite3.Connection:
    """Return a connection with SQLite's default settings."""
    # Several threads use it, but never two at the same time.
    return sqlite3.connect(path, check_same_thread=False)


def create(path: Path) -> None:
    """Create the file and its table."""
    with closing(connect(path)) as connection, connection:
        connection.execute(
            "CREATE TABLE event (id INTEGER PRIMARY KEY, scenario TEXT NOT NULL,"
            " turn INTEGER NOT NULL, caller INTEGER NOT NULL, number INTEGER NOT NULL,"
            " note TEXT NOT NULL)"
        )


INSERT = "INSERT INTO event (scenario, turn, caller, number, note) VALUES (?, ?, ?, ?, ?)"


def insert_one(connection: sqlite3.Connection, row: Row) -> int:
    """Insert one row, commit, and return its id."""
    with connection:
        row_id = connection.execute(INSERT, row).lastrowid
    assert row_id is not None
    return row_id


@contextmanager
def batched_insert(path: Path) -> Generator[Batched[Row, [], int], None, None]:
    """Yield a batched function that inserts rows with one commit and returns their ids."""
    with closing(connect(path)) as connection:

        @batched(size=SIZE)
        def insert(rows: list[Row]) -> list[int]:
            with connection:
                connection.executemany(INSERT, rows)
                (last,) = connection.execute("SELECT last_insert_rowid()").fetchone()
            # The ids are consecutive: a new id is the largest one plus 1, and no other connection
            # inserts during the transaction. (RETURNING has the ids too, but in no promised order.)
            return list(range(last - len(rows) + 1, last + 1))

        with insert:
            yield insert


# ---- the callers ----


class Receipt(NamedTuple):
    """The id that a caller got for its row, and how long that took, in seconds."""

    row: Row
    row_id: int
    latency: float


@dataclass(frozen=True, slots=True)
class Share:
    """How much a turn does: a number of rows, or as many as fit into a number of seconds."""

    rows: int | None = None
    seconds: float = math.inf


@dataclass(slots=True)
class Turn:
    """A turn of a scenario: the rows that its callers insert, and the ids that they get."""

    scenario: Scenario
    number: int
    share: Share
    receipts: list[Receipt] = field(default_factory=list[Receipt])
    stats: Stats | None = None
    began: float = 0.0
    seconds: float = 0.0
    is_stopped: bool = False

    def run(self, path: Path) -> None:
        """Run the callers until each has inserted its share."""
        self.began = time.perf_counter()
        self.stats = self.scenario.run(self, path)
        self.seconds = time.perf_counter() - self.began

    def rows(self, caller: int) -> Iterator[Row]:
        """Yield the rows of one caller until its share is used up."""
        for number in self._numbers(caller):
            is_late = time.perf_counter() - self.began >= self.share.seconds
            # The first caller inserts a row even if the turn is over at once.
            if self.is_stopped or (is_late and (caller or number)):
                return
            yield Row(self.scenario.label, self.number, caller, number, f"note {number}")

    def _numbers(self, caller: int) -> Iterable[int]:
        if self.share.rows is None:
            return count()
        each, more = divmod(self.share.rows, self.scenario.count)
        return range(each + (caller < more))

    def note(self, row: Row, row_id: int, began: float) -> None:
        """Note that a caller has got the id of a row whose insert `began` at that time."""
        self.receipts.append(Receipt(row, row_id, time.perf_counter() - began))

    def progress(self) -> float:
        """Return how much of the turn is over, from 0 to 1."""
        if self.share.rows is None:
            return min(1.0, (time.perf_counter() - self.began) / self.share.seconds)
        return len(self.receipts) / self.share.rows


def run_in_threads(turn: Turn, caller: Callable[[int], None]) -> None:
    """Run each caller of a turn in a thread, and wait for all of them."""
    with ThreadPoolExecutor(turn.scenario.count) as pool:
        for _ in pool.map(caller, range(turn.scenario.count)):
            pass


def per_call(turn: Turn, path: Path) -> None:
    """Insert and commit row by row, in threads."""
    # With a connection per thread, SQLite would make concurrent writers sleep and try again. That
    # is slower than this lock, so the comparison would be unfair.
    lock = threading.Lock()
    with closing(connect(path)) as connection:

        def caller(index: int) -> None:
            for row in turn.rows(index):
                began = time.perf_counter()
                with lock:
                    row_id = insert_one(connection, row)
                turn.note(row, row_id, began)

        run_in_threads(turn, caller)


def batched_waiting(turn: Turn, path: Path) -> Stats:
    """Insert in batches from threads that each wait for the id before their next row."""
    with batched_insert(path) as insert:

        def caller(index: int) -> None:
            for row in turn.rows(index):
                began = time.perf_counter()
                turn.note(row, insert(row).result(), began)

        run_in_threads(turn, caller)
    return insert.stats()


def batched_in_flight(turn: Turn, path: Path) -> Stats:
    """Insert in batches from threads that submit many rows and then collect the ids."""
    with batched_insert(path) as insert:

        def caller(index: int) -> None:
            rows = turn.rows(index)
            while submitted := [
                (row, time.perf_counter(), insert(row)) for row in islice(rows, IN_FLIGHT)
            ]:
                for row, began, future in submitted:
                    turn.note(row, future.result(), began)

        run_in_threads(turn, caller)
    return insert.stats()


def batched_asyncio(turn: Turn, path: Path) -> Stats:
    """Insert in batches from tasks on one event loop, with the same function as the threads."""
    with batched_insert(path) as insert:

        async def caller(index: int) -> None:
            for row in turn.rows(index):
                began = time.perf_counter()
                turn.note(row, await insert(row), began)

        async def all_callers() -> None:
            # Not a TaskGroup: it would wrap the error of a full disk.
            await asyncio.gather(*map(caller, range(turn.scenario.count)))

        asyncio.run(all_callers())
    return insert.stats()


@dataclass(frozen=True, slots=True)
class Scenario:
    """One row of the output: which callers insert, and how.

    Attributes:
        how: "per call" or "batched".
        callers: a description of the callers.
        count: how many callers there are.
        run: runs a turn and returns the statistics of the batched function, if there is one.
    """

    how: str
    callers: str
    count: int
    run: Callable[[Turn, Path], Stats | None]

    @property
    def label(self) -> str:
        """The name of the scenario."""
        return f"{self.how}, {self.callers}"


PER_CALL = Scenario("per call", "1 thread", 1, per_call)
PER_CALL_16 = Scenario("per call", "16 threads", 16, per_call)
SEQUENTIAL = Scenario("batched", "1 sequential caller", 1, batched_waiting)
BATCHED_16 = Scenario("batched", "16 threads", 16, batched_waiting)
BATCHED_IN_FLIGHT = Scenario("batched", f"4 threads x {IN_FLIGHT}", 4, batched_in_flight)
ASYNCIO = Scenario("batched", "200 asyncio tasks", 200, batched_asyncio)
SCENARIOS = (PER_CALL, PER_CALL_16, SEQUENTIAL, BATCHED_16, BATCHED_IN_FLIGHT, ASYNCIO)


# ---- measuring ----


@dataclass(slots=True)
class Outcome:
    """The sum of the turns of one scenario."""

    receipts: list[Receipt] = field(default_factory=list[Receipt])
    seconds: float = 0.0
    succeeded: int = 0
    batches: int = 0

    def add(self, turn: Turn) -> None:
        """Add a turn."""
        self.receipts += turn.receipts
        self.seconds += turn.seconds
        if turn.stats is not None:
            self.succeeded += turn.stats.succeeded
            self.batches += turn.stats.batches

    @property
    def rate(self) -> float:
        """Rows per second."""
        return len(self.receipts) / self.seconds

    @property
    def mean_batch(self) -> float | None:
        """Rows per batch; None without batches."""
        return self.succeeded / self.batches if self.batches else None

    def latency(self, quantile: float) -> float:
        """Return the time, in seconds, that this share of the inserts did not exceed."""
        latencies = sorted(receipt.latency for receipt in self.receipts)
        return latencies[max(0, math.ceil(quantile * len(latencies)) - 1)]


Outcomes = dict[Scenario, Outcome]
# Called with the name of the running scenario, and how much of all turns is over.
Watch = Callable[[str, float], None]


def shares(seconds: float, rows: int | None) -> list[Share]:
    """Return the share of a scenario in each round."""
    if rows is None:
        return [Share(seconds=seconds / (ROUNDS * len(SCENARIOS)))] * ROUNDS
    each, more = divmod(rows, ROUNDS)
    return [Share(rows=each + (turn < more)) for turn in range(ROUNDS) if each or turn < more]


def measure(path: Path, parts: list[Share], watch: Watch) -> Outcomes:
    """Run all scenarios in turn, round by round.

    Args:
        path: the database file.
        parts: the share of a scenario in each round.
        watch: called regularly with the progress.
    """
    outcomes: Outcomes = {scenario: Outcome() for scenario in SCENARIOS}
    turns = turns_of(parts)
    for position, turn in enumerate(turns):
        # `closing` stops the callers after Ctrl-C.
        with closing(running(turn, path)) as progress:
            for done in progress:
                watch(turn.scenario.label, (position + done) / len(turns))
        outcomes[turn.scenario].add(turn)
    return outcomes


def turns_of(parts: list[Share]) -> list[Turn]:
    """Return the turns of all rounds, each round in another order.

    A scenario that inserts many rows slows the disk down for the turn after it, so none may always
    follow the same one.
    """
    return [
        Turn(scenario, number, share)
        for number, share in enumerate(parts)
        for scenario in random.Random(number).sample(SCENARIOS, len(SCENARIOS))
    ]


def running(turn: Turn, path: Path) -> Generator[float, None, None]:
    """Run a turn, and yield regularly how much of it is over."""
    # In a thread, because Ctrl-C interrupts this one, which then stops the callers.
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(turn.run, path)
        try:
            while wait([future], timeout=TICK).not_done:
                yield turn.progress()
        finally:
            turn.is_stopped = True
    future.result()
    yield 1.0


def check(path: Path, outcomes: Outcomes) -> int:
    """Compare the rows in the file with the ids that the callers got, and count them.

    Raises:
        AssertionError: a row is missing or stored twice, or a caller got the id of another row.
    """
    with closing(connect(path)) as connection:
        stored = connection.execute(
            "SELECT id, scenario, turn, caller, number, note FROM event ORDER BY id"
        ).fetchall()
    given = sorted(
        (receipt.row_id, *receipt.row)
        for outcome in outcomes.values()
        for receipt in outcome.receipts
    )
    if stored != given:
        raise AssertionError(
            f"{len(stored)} rows in the file do not match {len(given)} ids of callers"
        )
    return len(stored)


# ---- the output ----


@contextmanager
def progress_bar() -> Generator[Watch, None, None]:
    """Show a progress bar on stderr if that is a terminal."""
    console = Console(stderr=True)
    # rich would also draw the bar if FORCE_COLOR is set, as it is in CI.
    is_shown = sys.stderr.isatty() and not console.is_dumb_terminal
    columns = (TextColumn("{task.description:<36}"), BarColumn(), TaskProgressColumn())
    # Refreshed at each tick by this thread, so that no further thread competes with the callers.
    with Progress(
        *columns, console=console, transient=True, auto_refresh=False, disable=not is_shown
    ) as bar:
        task = bar.add_task("", total=1.0)

        def watch(label: str, done: float) -> None:
            bar.update(task, description=label, completed=done, refresh=True)

        yield watch


def brief(number: float) -> str:
    """Return a number with one decimal if it is below 100."""
    return f"{number:.1f}" if number < 100 else f"{number:,.0f}"


def table(outcomes: Outcomes) -> Table:
    """Return a table with a row per scenario, at most 80 columns wide."""
    shown = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    shown.add_column("callers", no_wrap=True)
    for heading in ("rows", "rows/s", "gain", "mean\nbatch", "p50\nms", "p99\nms"):
        shown.add_column(heading, justify="right", no_wrap=True)
    for scenario, outcome in outcomes.items():
        mean = outcome.mean_batch
        shown.add_row(
            f"{scenario.how:<8}  {scenario.callers}",
            f"{len(outcome.receipts):,}",
            f"{outcome.rate:,.0f}",
            f"{brief(outcome.rate / outcomes[PER_CALL].rate)}x",
            "-" if mean is None else brief(mean),
            brief(outcome.latency(0.5) * 1000),
            brief(outcome.latency(0.99) * 1000),
            style="yellow" if scenario is SEQUENTIAL else "",
            end_section=scenario is PER_CALL_16,
        )
    return shown


def verdict(outcomes: Outcomes) -> list[str]:
    """Return what the table shows, as paragraphs."""
    single, sequential, threads = outcomes[PER_CALL], outcomes[SEQUENTIAL], outcomes[BATCHED_16]
    commit = single.latency(0.5)
    gain = sequential.rate / single.rate
    noise = "; above 1x is disk noise" if gain > 1 else ""
    said = [
        f"Each call costs a commit, {commit * 1000:.2g} ms here. A batch also costs one commit, "
        f"however many rows it has. 16 threads that each wait for their own row insert "
        f"{outcomes[PER_CALL_16].rate:,.0f} rows/s with one call per row, and {threads.rate:,.0f} "
        f"rows/s batched, with {threads.mean_batch or 1:.1f} rows per commit.",
        f"The sequential caller gains nothing ({gain:.2f}x{noise}): it waits for the same commit, "
        "and for the worker thread.",
        "Batching pays if a call has a fixed cost and many calls come at the same time. If you "
        "already have the rows in a list, you need no queue: call executemany once.",
    ]
    if commit < NO_DISK:
        said.append(
            "Commits cost almost nothing here; the file may be in memory. Use --file with a path "
            "on a disk."
        )
    return said


def run(*, seconds: float, rows: int | None = None, file: Path | None = None) -> int:
    """Run the demo.

    Args:
        seconds: how long it runs in total, approximately.
        rows: insert this number of rows in each scenario instead, however long it takes.
        file: the database file to create; by default a temporary one.

    Returns:
        The exit status: 0, 1 if the database fails, 2 if the file cannot be created.
    """
    console = Console(highlight=False)
    try:
        with tempfile.TemporaryDirectory(prefix="batchify-demo-") as directory:
            path = file or Path(directory) / "demo.db"
            try:
                create(path)
            except sqlite3.Error as error:
                print(f"cannot create {path}: {error}", file=sys.stderr)
                return 2
            console.print(
                f"SQLite {sqlite3.sqlite_version}, default settings: each commit waits for the "
                "disk."
            )
            with progress_bar() as watch:
                outcomes = measure(path, shares(seconds, rows), watch)
            stored = check(path, outcomes)
    except (sqlite3.Error, OSError) as error:  # such as a full disk
        print(f"the database failed with {describe(error)}", file=sys.stderr)
        return 1
    console.print()
    console.print(table(outcomes))
    console.print(
        "\nGain: relative to one thread with one call per row. p50 and p99: latency.\n"
        f"4 threads x {IN_FLIGHT}: each submits {IN_FLIGHT} rows, then collects their ids.\n"
        f"Checked: all {stored:,} rows are in the file once, and each caller got its own id."
    )
    for paragraph in verdict(outcomes):
        console.print(f"\n{paragraph}")
    if file:
        console.print(f"\nThe database: {file}", markup=False, soft_wrap=True)
    return 0
