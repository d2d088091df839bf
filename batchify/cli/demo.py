"""`python -m batchify demo`: what batching gains, and for whom not, on an SQLite file.

SQLite is as it comes: every commit waits until the disk has the data. That is the fixed cost of a
call, and what the calls of one batch share. Top down: the inserts, the callers, the measuring, the
showing.
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

# Where rich is missing, `__main__` says what to install.
from rich import box
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
from rich.table import Table

from .. import Batched, Stats, batched

SIZE = 500
UNDER_WAY = 250
# Each scenario has several short turns, not a long one: disks have good and bad seconds.
ROUNDS = 10
# How often the bar moves, in seconds; seldom, as it takes the interpreter from the callers.
TICK = 0.1
# Below so many seconds, a commit has not waited for any disk.
NO_DISK = 0.0003


# ---- the inserts: what a user would have written ----


class Row(NamedTuple):
    """One row, without its id."""

    scenario: str
    turn: int
    caller: int
    number: int
    note: str


def connect(path: Path) -> sqlite3.Connection:
    """A connection with SQLite's default settings."""
    # Other threads use it than the one that makes it, but never two at a time.
    return sqlite3.connect(path, check_same_thread=False)


def create(path: Path) -> None:
    """Make the file, with its table."""
    with closing(connect(path)) as connection, connection:
        connection.execute(
            "CREATE TABLE event (id INTEGER PRIMARY KEY, scenario TEXT NOT NULL,"
            " turn INTEGER NOT NULL, caller INTEGER NOT NULL, number INTEGER NOT NULL,"
            " note TEXT NOT NULL)"
        )


INSERT = "INSERT INTO event (scenario, turn, caller, number, note) VALUES (?, ?, ?, ?, ?)"


def insert_one(connection: sqlite3.Connection, row: Row) -> int:
    """One row, one commit; its id."""
    with connection:
        row_id = connection.execute(INSERT, row).lastrowid
    assert row_id is not None
    return row_id


@contextmanager
def batched_insert(path: Path) -> Generator[Batched[Row, [], int], None, None]:
    """A batched function of its own for each turn: many rows, one commit; their ids."""
    with closing(connect(path)) as connection:

        @batched(size=SIZE)
        def insert(rows: list[Row]) -> list[int]:
            with connection:
                connection.executemany(INSERT, rows)
                (last,) = connection.execute("SELECT last_insert_rowid()").fetchone()
            # An id is the largest one plus 1, and within the transaction nobody else inserts.
            # (RETURNING would give the ids too, but SQLite does not promise their order.)
            return list(range(last - len(rows) + 1, last + 1))

        with insert:
            yield insert


# ---- the callers ----


class Receipt(NamedTuple):
    """What a caller got: the id of its row, `latency` seconds after it asked."""

    row: Row
    row_id: int
    latency: float


@dataclass(frozen=True, slots=True)
class Share:
    """How much a turn does: so many rows, or as many as fit into so many seconds."""

    rows: int | None = None
    seconds: float = math.inf


@dataclass(slots=True)
class Turn:
    """A turn of a scenario: what its callers have to insert, and what they got."""

    scenario: Scenario
    number: int
    share: Share
    receipts: list[Receipt] = field(default_factory=list[Receipt])
    stats: Stats | None = None
    began: float = 0.0
    seconds: float = 0.0
    is_stopped: bool = False

    def run(self, path: Path) -> None:
        """Let the callers insert, until each has its share."""
        self.began = time.perf_counter()
        self.stats = self.scenario.drive(self, path)
        self.seconds = time.perf_counter() - self.began

    def rows(self, caller: int) -> Iterator[Row]:
        """The rows of one caller, as long as the turn lasts."""
        for number in self._numbers(caller):
            is_late = time.perf_counter() - self.began >= self.share.seconds
            # However short the turn is, one row there is.
            if self.is_stopped or (is_late and (caller or number)):
                return
            yield Row(self.scenario.label, self.number, caller, number, f"note {number}")

    def _numbers(self, caller: int) -> Iterable[int]:
        if self.share.rows is None:
            return count()
        each, more = divmod(self.share.rows, self.scenario.callers)
        return range(each + (caller < more))

    def got(self, row: Row, row_id: int, asked: float) -> None:
        """Take down that a caller has the id it `asked` for at that time."""
        self.receipts.append(Receipt(row, row_id, time.perf_counter() - asked))

    def done(self) -> float:
        """How much of the turn is over, from 0 to 1."""
        if self.share.rows is None:
            return min(1.0, (time.perf_counter() - self.began) / self.share.seconds)
        return len(self.receipts) / self.share.rows


def in_threads(turn: Turn, caller: Callable[[int], None]) -> None:
    """Run each caller of a turn in a thread, until all are done."""
    with ThreadPoolExecutor(turn.scenario.callers) as pool:
        for _ in pool.map(caller, range(turn.scenario.callers)):
            pass


def per_call(turn: Turn, path: Path) -> None:
    """Threads that insert and commit row by row."""
    # A lock, and not a connection each: SQLite writers that meet sleep and try again, which is
    # slower, and would flatter the batches.
    lock = threading.Lock()
    with closing(connect(path)) as connection:

        def caller(index: int) -> None:
            for row in turn.rows(index):
                asked = time.perf_counter()
                with lock:
                    row_id = insert_one(connection, row)
                turn.got(row, row_id, asked)

        in_threads(turn, caller)


def batched_waiting(turn: Turn, path: Path) -> Stats:
    """Threads that wait for each row's id before they go on."""
    with batched_insert(path) as insert:

        def caller(index: int) -> None:
            for row in turn.rows(index):
                asked = time.perf_counter()
                turn.got(row, insert(row).result(), asked)

        in_threads(turn, caller)
    return insert.stats()


def batched_under_way(turn: Turn, path: Path) -> Stats:
    """Threads that submit many rows, then collect the ids."""
    with batched_insert(path) as insert:

        def caller(index: int) -> None:
            rows = turn.rows(index)
            while some := [
                (row, time.perf_counter(), insert(row)) for row in islice(rows, UNDER_WAY)
            ]:
                for row, asked, future in some:
                    turn.got(row, future.result(), asked)

        in_threads(turn, caller)
    return insert.stats()


def batched_asyncio(turn: Turn, path: Path) -> Stats:
    """Tasks of one event loop, which await the same kind of function as the threads call."""
    with batched_insert(path) as insert:

        async def caller(index: int) -> None:
            for row in turn.rows(index):
                asked = time.perf_counter()
                turn.got(row, await insert(row), asked)

        async def all_callers() -> None:
            async with asyncio.TaskGroup() as tasks:
                for index in range(turn.scenario.callers):
                    tasks.create_task(caller(index))

        asyncio.run(all_callers())
    return insert.stats()


@dataclass(frozen=True, slots=True)
class Scenario:
    """One line of the table: who inserts, and how.

    Attributes:
        how: "per call" or "batched".
        who: the callers, in words.
        callers: how many they are.
        drive: runs a turn; gives the counters of the batched function, if there is one.
    """

    how: str
    who: str
    callers: int
    drive: Callable[[Turn, Path], Stats | None]

    @property
    def label(self) -> str:
        """Its name, in one piece."""
        return f"{self.how}, {self.who}"


PER_CALL = Scenario("per call", "1 thread", 1, per_call)
PER_CALL_CROWD = Scenario("per call", "16 threads", 16, per_call)
LONE = Scenario("batched", "1 lone caller", 1, batched_waiting)
CROWD = Scenario("batched", "16 threads", 16, batched_waiting)
UNDER_WAY_CROWD = Scenario("batched", f"4 threads x {UNDER_WAY}", 4, batched_under_way)
ASYNCIO = Scenario("batched", "200 asyncio tasks", 200, batched_asyncio)
SCENARIOS = (PER_CALL, PER_CALL_CROWD, LONE, CROWD, UNDER_WAY_CROWD, ASYNCIO)


# ---- measuring ----


@dataclass(slots=True)
class Outcome:
    """What the turns of one scenario add up to."""

    receipts: list[Receipt] = field(default_factory=list[Receipt])
    seconds: float = 0.0
    succeeded: int = 0
    batches: int = 0

    def add(self, turn: Turn) -> None:
        """Count one more turn."""
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
        """The seconds from asking to having, of which a share of `quantile` took no longer."""
        latencies = sorted(receipt.latency for receipt in self.receipts)
        return latencies[max(0, math.ceil(quantile * len(latencies)) - 1)]


Outcomes = dict[Scenario, Outcome]
# Told the name of what runs, and how much of all is over.
Watch = Callable[[str, float], None]


def shares(seconds: float, rows: int | None) -> list[Share]:
    """What each scenario does in each round."""
    if rows is None:
        return [Share(seconds=seconds / (ROUNDS * len(SCENARIOS)))] * ROUNDS
    each, more = divmod(rows, ROUNDS)
    return [Share(rows=each + (turn < more)) for turn in range(ROUNDS) if each or turn < more]


def measure(path: Path, parts: list[Share], watch: Watch) -> Outcomes:
    """Run all scenarios in turn, round by round.

    Args:
        path: the database file.
        parts: what a scenario does in each round.
        watch: called again and again.
    """
    outcomes: Outcomes = {scenario: Outcome() for scenario in SCENARIOS}
    turns = turns_of(parts)
    for position, turn in enumerate(turns):
        # Closed here, so that after Ctrl-C nobody inserts any more.
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
    """Run a turn; give, from time to time, how much of it is over."""
    # In a thread, as Ctrl-C comes to this one, which can then stop the callers.
    with ThreadPoolExecutor(1) as pool:
        future = pool.submit(turn.run, path)
        try:
            while wait([future], timeout=TICK).not_done:
                yield turn.done()
        finally:
            turn.is_stopped = True
    future.result()
    yield 1.0


def check(path: Path, outcomes: Outcomes) -> int:
    """Count the rows in the file, each of which must be there for one caller, who has its id.

    Raises:
        AssertionError: a row is missing, or there twice, or its id went to another caller.
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
        raise AssertionError(f"{len(stored)} rows in the file, {len(given)} given to callers")
    return len(stored)


# ---- showing ----


@contextmanager
def progress_bar() -> Generator[Watch, None, None]:
    """A bar on stderr while it runs; nothing where that is no terminal."""
    console = Console(stderr=True)
    # Asked of the stream: rich takes FORCE_COLOR, which CI sets, for a terminal.
    is_shown = sys.stderr.isatty() and not console.is_dumb_terminal
    columns = (TextColumn("{task.description:<36}"), BarColumn(), TaskProgressColumn())
    # Drawn by this thread at each tick, not by one more thread beside the callers.
    with Progress(
        *columns, console=console, transient=True, auto_refresh=False, disable=not is_shown
    ) as bar:
        task = bar.add_task("", total=1.0)

        def watch(label: str, done: float) -> None:
            bar.update(task, description=label, completed=done, refresh=True)

        yield watch


def brief(number: float) -> str:
    """A number with a decimal where that tells something."""
    return f"{number:.1f}" if number < 100 else f"{number:,.0f}"


def table(outcomes: Outcomes) -> Table:
    """A line for each scenario; it fits into 80 columns."""
    shown = Table(box=box.SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    shown.add_column("callers", no_wrap=True)
    for heading in ("rows", "rows/s", "gain", "mean\nbatch", "p50\nms", "p99\nms"):
        shown.add_column(heading, justify="right", no_wrap=True)
    for scenario, outcome in outcomes.items():
        mean = outcome.mean_batch
        shown.add_row(
            f"{scenario.how:<8}  {scenario.who}",
            f"{len(outcome.receipts):,}",
            f"{outcome.rate:,.0f}",
            f"{brief(outcome.rate / outcomes[PER_CALL].rate)}x",
            "-" if mean is None else brief(mean),
            brief(outcome.latency(0.5) * 1000),
            brief(outcome.latency(0.99) * 1000),
            style="yellow" if scenario is LONE else "",
            end_section=scenario is PER_CALL_CROWD,
        )
    return shown


def verdict(outcomes: Outcomes) -> list[str]:
    """What the table says, in paragraphs."""
    alone, lone, crowd = outcomes[PER_CALL], outcomes[LONE], outcomes[CROWD]
    commit = alone.latency(0.5)
    gain = lone.rate / alone.rate
    noise = "; what is over 1 is noise of the disk" if gain > 1 else ""
    said = [
        f"A call pays for a commit, {commit * 1000:.2g} ms here; a batch pays for one too, however "
        f"many rows it has. 16 threads that each wait for their own row get "
        f"{outcomes[PER_CALL_CROWD].rate:,.0f} rows/s per call and {crowd.rate:,.0f} batched, "
        f"with {crowd.mean_batch or 1:.1f} rows to a commit.",
        f"The lone caller gains nothing ({gain:.2f}x{noise}): it waits for the same commit, and "
        "for the way to a worker thread and back.",
        "Batching pays with a fixed cost per call and many calls at once. Who has the rows in a "
        "list already needs no queue: that is one executemany.",
    ]
    if commit < NO_DISK:
        said.append(
            "Commits are next to free here: the file may be in memory. To see a disk, give --file "
            "a path on one."
        )
    return said


def run(*, seconds: float, rows: int | None = None, file: Path | None = None) -> int:
    """Run the demo.

    Args:
        seconds: about how long it runs, all in all.
        rows: insert so many rows in each scenario instead, however long it takes.
        file: the database to make; by default a temporary one.

    Returns:
        The exit status.
    """
    console = Console(highlight=False)
    console.print(f"SQLite {sqlite3.sqlite_version} as it comes: each commit waits for the disk.")
    with tempfile.TemporaryDirectory(prefix="batchify-demo-") as directory:
        path = file or Path(directory) / "demo.db"
        create(path)
        with progress_bar() as watch:
            outcomes = measure(path, shares(seconds, rows), watch)
        stored = check(path, outcomes)
    console.print()
    console.print(table(outcomes))
    console.print(
        "\nGain: over 1 thread per call. p50 and p99: from the call to its result.\n"
        f"4 threads x {UNDER_WAY}: each submits {UNDER_WAY} rows, then collects their ids.\n"
        f"Checked: all {stored:,} rows are in the file, each once; each caller got its own id."
    )
    for paragraph in verdict(outcomes):
        console.print(f"\n{paragraph}")
    if file:
        console.print(f"\nThe database: {file}", markup=False, soft_wrap=True)
    return 0
