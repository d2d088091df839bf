"""Items accepted during exit run although no thread can start (gh-113964): contract 6.

CPython 3.12.0 to 3.12.2 start no thread after the main thread has ended. The scripts make every
interpreter behave like that.
"""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from textwrap import dedent

import pytest

from tests.own_process import run_script

LIMIT = 120.0  # seconds after which a script counts as hung

START = """
import asyncio, os, sys, threading, time
from batchify import Retry, batched

def note(who, items):
    with open("rows", "a") as out:
        out.write("".join(f"{who} {item}\\n" for item in items))

def refuse(thread):
    raise RuntimeError("can't create new thread at interpreter shutdown")

def no_more_threads():
    threading.Thread.start = refuse
    note("left", [time.monotonic()])
"""


class End:
    """The output of a script, and how it ended."""

    def __init__(self, script: str, where: Path) -> None:
        ended = run_script(where, START + dedent(script))
        over = time.monotonic()
        self.code, self.stderr = ended.returncode, ended.stderr
        rows = (where / "rows").read_text().splitlines()
        left = next(row for row in rows if row.startswith("left "))
        self.seconds = over - float(left.split()[1])
        self.rows = Counter(row for row in rows if row is not left)

    def expect(self, **counts: int) -> None:
        """Check that the process ended without output and ran each function's items once."""
        assert self.stderr == ""
        assert self.code == 0
        assert self.rows == Counter(
            f"{who} {item}" for who, count in counts.items() for item in range(count)
        )


@pytest.mark.parametrize("waits", [True, False], ids=["waits", "does not wait"])
def test_a_batch_first_calls_another_function_during_exit(tmp_path: Path, waits: bool) -> None:
    script = f"""
        @batched(linger=1000)
        def third(items):
            note("third", items)

        @batched(linger=1000, size=2)
        def second(items):
            futures = [third(item) for item in items]
            if {waits}:
                [future.result() for future in futures]
            note("second", items)

        @batched(linger=1000)
        def first(items):
            futures = [second(item) for item in items]
            if {waits}:
                [future.result() for future in futures]
            note("first", items)

        for item in range(5):
            first(item)
        no_more_threads()
    """
    End(script, tmp_path).expect(first=5, second=5, third=5)


def test_a_batch_on_the_background_loop_first_calls_a_def_function(tmp_path: Path) -> None:
    script = """
        @batched(linger=1000)
        def second(items):
            note("second", items)

        @batched(linger=1000)
        async def first(items):
            for item in items:
                await second(item)
            note("first", items)

        for item in range(5):
            first(item)
        no_more_threads()
    """
    End(script, tmp_path).expect(first=5, second=5)


@pytest.mark.parametrize("waits", [True, False], ids=["waits", "does not wait"])
def test_a_batch_first_calls_an_async_function_during_exit(tmp_path: Path, waits: bool) -> None:
    script = f"""
        @batched(linger=1000)
        async def third(items):
            await asyncio.sleep(0)
            note("third", items)

        @batched(linger=1000)
        async def second(items):
            await asyncio.gather(*map(third, items))
            note("second", items)

        @batched(linger=1000)
        def first(items):
            futures = [second(item) for item in items]
            if {waits}:
                [future.result() for future in futures]
            note("first", items)

        for item in range(5):
            first(item)
        no_more_threads()
    """
    End(script, tmp_path).expect(first=5, second=5, third=5)


def test_an_item_that_is_retried_and_one_that_its_own_batch_submits(tmp_path: Path) -> None:
    script = """
        tries = []

        @batched(linger=1000)
        def second(items):
            tries.extend(items)
            if items == [0] and len(tries) == 1:
                return [Retry(0.01)]
            if items == [0]:
                second(1)
            note("second", items)

        @batched(linger=1000)
        def first(items):
            second(0).result()
            note("first", items)

        first(0)
        no_more_threads()
    """
    End(script, tmp_path).expect(first=1, second=2)


def test_a_thread_that_outlives_main_makes_the_first_call(tmp_path: Path) -> None:
    script = """
        @batched(linger=1000)
        def f(items):
            note("f", items)

        def go_on():
            threading.main_thread().join()
            for item in range(3):
                f(item)

        threading.Thread(target=go_on).start()
        no_more_threads()
    """
    End(script, tmp_path).expect(f=3)


def test_a_hung_batch_in_the_callers_thread_delays_the_exit_by_its_limit(tmp_path: Path) -> None:
    script = """
        @batched(linger=1000, exit_timeout=0.5)
        def second(items):
            threading.Event().wait()

        @batched(linger=1000, exit_timeout=0.5)
        def first(items):
            second(items[0]).result()

        first(0)
        no_more_threads()
    """
    end = End(script, tmp_path)
    assert end.code == 0
    assert end.stderr.count("RuntimeWarning: ") == 2
    assert end.seconds < 20
