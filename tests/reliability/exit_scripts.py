"""Run scripts to their end, for the tests of the exit of a process.

A script records which items were accepted and which ones its batches processed, and the two must
agree. It also records when it begins to exit.

No test measures how long an exit takes: anything that an exit must not wait for, such as a linger,
takes longer than the script may run.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from tests.limits import LIMIT

ROOT = Path(__file__).parent.parent.parent
EXIT_TIMEOUT = 0.5  # of functions that hang
# gh-113964: 3.12.0 to 3.12.2 start no thread at all after main has ended.
NO_LATE_THREADS = (3, 12, 0) <= sys.version_info < (3, 12, 3)


NOTES = '''
import asyncio, atexit, functools, multiprocessing, os, signal, sys, threading, time
import batchify

batched = functools.partial(batchify.batched, exit_timeout=1000)
# A process that a shell started in the background ignores it, and so do its children.
signal.signal(signal.SIGINT, signal.default_int_handler)

def note(file, who, items):
    """One write, so that threads and processes do not mix their lines."""
    with open(file, "a") as out:
        out.write("".join(f"{who} {item}\\n" for item in items))

def call(who, f, item):
    future = f(item)
    note("accepted", who, [item])
    return future

def try_call(who, f, item):
    "A call that may come too late for a thread to start."
    try:
        call(who, f, item)
    except RuntimeError:
        note("refused", who, [item])

def leaving():
    note("left", time.monotonic(), [""])

def until(fact):
    end = time.monotonic() + 240
    while not fact():
        assert time.monotonic() < end, "it did not become true in time"
        time.sleep(0.001)

kept = []  # what a module would hold
'''


# Every kind of function, in every state at the time of exit.
MATRIX = """
KINDS = ("def", "async", "method", "chain", "nested")
STATES = {
    "idle": {},
    "lingers": {"linger": 1000},
    "runs": {"size": 1},  # one batch runs, one item waits for its end
    "full": {"size": 2, "capacity": 4, "linger": 1000},  # and one caller waits for capacity
}

def make(kind, state):
    "A function, and an event that its first batch sets."
    who, options, begun = f"{kind}-{state}", STATES[state], threading.Event()
    pause = 0.2 if state in ("runs", "full") else 0

    def work(items):
        begun.set()
        time.sleep(pause)
        note("done", who, items)

    if kind == "def":
        f = batched(work, **options)
    elif kind == "async":
        @batched(**options)
        async def f(items):
            begun.set()
            await asyncio.sleep(pause)
            note("done", who, items)
    elif kind == "method":
        class Owner:
            @batched(**options)
            def f(self, items):
                work(items)
        f = Owner().f
    else:
        @batched(**options)
        def tail(items):
            note("done", who + "-tail", items)

        @batched(**options)
        def f(items):
            work(items)
            futures = [call(who + "-tail", tail, item) for item in items]
            if kind == "nested":
                [future.result() for future in futures]
    return f, begun

def fill(kinds=KINDS):
    "Bring each kind of function into each state."
    for kind in kinds:
        for state in STATES:
            who = f"{kind}-{state}"
            f, begun = make(kind, state)
            kept.append(f)
            if state == "idle":
                call(who, f, 0).result()
            elif state == "lingers":
                [call(who, f, n) for n in range(3)]
            elif state == "runs":
                [call(who, f, n) for n in range(2)]
                assert begun.wait()
            else:
                [call(who, f, n) for n in range(4)]
                assert begun.wait()
                threading.Thread(target=call, args=(who, f, 4)).start()
                until(lambda: f.stats().submitted == 5)
    leaving()
"""

# The least that the batches of MATRIX processed, where a thread may start late, and where not:
# 11 items of each of five kinds, and those that the last two sent on. (One caller that waits for
# capacity may be refused.)
LEAST = 5 * 10 + 2 * 10


class End:
    """What a script did, and how it ended."""

    def __init__(self, code: int, stderr: str, where: Path, ended: float) -> None:
        self.code = code
        self.stderr = stderr
        self.where = where
        self.ended = ended

    def lines(self, file: str) -> list[str]:
        path = self.where / file
        return path.read_text().splitlines() if path.exists() else []

    @property
    def seconds(self) -> float:
        """Return the seconds from the script's last line to the end of the process."""
        return self.ended - float(self.lines("left")[-1])

    @property
    def warnings(self) -> list[str]:
        return [line for line in self.stderr.splitlines() if "Warning: " in line]

    def expect_quiet(self, code: int = 0, error: str = "") -> None:
        """Check that the script ended with this code, and printed only this error of its own."""
        if error:
            assert self.stderr.count("Traceback") == 1, self.stderr
            assert self.stderr.splitlines()[-1].startswith(error), self.stderr
            for noise in ("Exception ignored", "never retrieved", "Warning"):
                assert noise not in self.stderr
        else:
            assert self.stderr == ""
        assert self.code == code

    def expect_processed(self, at_least: int) -> None:
        """Everything accepted was processed once."""
        accepted, done = Counter(self.lines("accepted")), Counter(self.lines("done"))
        assert not accepted - done, "lost"
        assert not done - accepted, "more than once"
        assert accepted.total() >= at_least


class Runner:
    """Runs a script in a new directory."""

    def __init__(self, where: Path) -> None:
        self.where = where

    def __call__(self, *parts: str, arguments: Sequence[str] = ()) -> End:
        (self.where / "app.py").write_text(NOTES + "\n".join(parts))
        paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
        # 3.12 warns of forks with threads, which some scripts test.
        command = [sys.executable, "-W", "ignore:This process:DeprecationWarning", "app.py"]
        ended = subprocess.run(
            [*command, *arguments],
            cwd=self.where,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
            capture_output=True,
            text=True,
            timeout=LIMIT,
            check=False,
        )
        return End(ended.returncode, ended.stderr, self.where, time.monotonic())
