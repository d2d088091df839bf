"""The fixtures of the pytest plugin work the same in any order."""

from __future__ import annotations

import pytest

pytest_plugins = ["pytester"]

TESTS = """
import pytest
from batchify import batched

ran = []

@batched(linger=60, name="insert")
def insert(rows):
    ran.extend(rows)

def test_clock_first(batchify_clock, batchify_check):
    insert("clock first")

def test_check_first(batchify_check, batchify_clock):
    insert("check first")

@pytest.mark.usefixtures("batchify_check")
def test_by_a_mark(batchify_clock):
    insert("mark")

def test_all_were_run():
    assert ran == ["clock first", "check first", "mark"]
    assert insert.stats().pending == 0
"""


@pytest.mark.parametrize("ini", ["", "batchify_check = true"])
def test_items_left_on_the_clock_are_run_in_either_order(
    pytester: pytest.Pytester, ini: str
) -> None:
    pytester.makeini(f"[pytest]\n{ini}")
    pytester.makepyfile(TESTS)
    result = pytester.runpytest_subprocess("-q", "-p", "no:cacheprovider", "-p", "no:xdist")
    result.assert_outcomes(passed=4, errors=3)
    result.stdout.fnmatch_lines(["*not done: 1 of insert (*, or advance the clock)"] * 3)
