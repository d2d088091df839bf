"""The pytest plugin, in separate pytest runs."""

from __future__ import annotations

import pytest

from tests.limits import LIMIT

pytest_plugins = ["pytester"]

CODE = """
import pytest
from batchify import batched

def gate(items):
    return items

f = batched(gate, linger=None, name="f")

class Table:
    @batched(linger=None, name="insert")
    def insert(self, rows):
        return rows

@pytest.fixture
def table():
    table = Table()
    yield table
    table.insert.flush()
"""


@pytest.fixture
def outcome(pytester: pytest.Pytester):
    def of(tests: str, *, ini: bool = False) -> pytest.RunResult:
        if ini:
            pytester.makeini("[pytest]\nbatchify_check = true")
        pytester.makepyfile(CODE + tests)
        return pytester.runpytest_subprocess("-q", "-p", "no:cacheprovider", timeout=LIMIT)

    return of


LEFT = """
def test_leaves_some():
    f(1), f(2)

def test_after_it():
    assert f.stats().pending == 0
"""


def test_a_test_that_leaves_something_fails_and_those_after_it_do_not(outcome) -> None:
    result = outcome(LEFT, ini=True)
    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines(["*items of batched functions are not done: 2 of f *"])


def test_without_the_option_nothing_is_checked(outcome) -> None:
    result = outcome(LEFT.replace("pending == 0", "pending == 2"))
    result.assert_outcomes(passed=2)


@pytest.mark.deep
def test_for_one_test_by_the_fixture(outcome) -> None:
    result = outcome(
        LEFT.replace(
            "def test_leaves", "@pytest.mark.usefixtures('batchify_check')\ndef test_leaves"
        )
    )
    result.assert_outcomes(passed=2, errors=1)


@pytest.mark.deep
def test_items_of_fixture_teardowns_count(outcome) -> None:
    result = outcome("def test_it(table):\n    table.insert(1)\n", ini=True)
    result.assert_outcomes(passed=1)


@pytest.mark.deep
def test_running_batches_are_waited_for(outcome) -> None:
    result = outcome(
        """
import threading

def test_it():
    started, goes_on = threading.Event(), threading.Event()

    @batched(name="slow")
    def slow(items):
        started.set()
        goes_on.wait()
        return items

    slow(1)
    assert started.wait()
    threading.Timer(0.2, goes_on.set).start()
""",
        ini=True,
    )
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["*1 of slow*"])


def test_eager(outcome) -> None:
    result = outcome(
        """
def test_it(batchify_eager):
    assert f(1).result(0) == 1

def test_after_it():
    future = f(1)
    assert not future.done()
    assert future.cancel()
""",
        ini=True,
    )
    result.assert_outcomes(passed=2)


def test_clock(outcome) -> None:
    result = outcome(
        """
@batched(linger=60)
def late(items):
    return items

def test_it(batchify_clock):
    future = late(1)
    batchify_clock.advance(60)
    assert future.result(0) == 1
    assert batchify_clock.now == 60

def test_after_it():
    assert late.stats().batches == 0

@pytest.mark.usefixtures("batchify_check")
def test_leaves_some(batchify_clock):
    late(1), f(2), f(3)

def test_leaves_some_and_is_not_checked(batchify_clock):
    f(4)

def test_last():
    assert f.stats().pending == 0
"""
    )
    result.assert_outcomes(passed=5, errors=1)
    result.stdout.fnmatch_lines(["*not done: 2 of f, 1 of late (*, or advance the clock)"])


@pytest.mark.deep
def test_items_of_a_session_fixture_do_not_fail_the_test(outcome) -> None:
    result = outcome(
        """
@pytest.fixture(scope="session", autouse=True)
def before():
    f(1)
    yield
    f.close(cancel=True)

def test_it():
    pass

def test_after_it():
    assert f.stats().pending == 1
""",
        ini=True,
    )
    result.assert_outcomes(passed=2)


@pytest.mark.deep
def test_a_hung_batch_is_reported_once(outcome, monkeypatch) -> None:
    result = outcome(
        """
import threading
from batchify import pytest_plugin

pytest_plugin.PATIENCE = 0.1
goes_on = threading.Event()

@batched(name="hangs")
def hangs(items):
    goes_on.wait()

def test_it():
    hangs(1)

def test_after_it():
    pass

def test_last():
    goes_on.set()
""",
        ini=True,
    )
    result.assert_outcomes(passed=3, errors=1)
    result.stdout.fnmatch_lines(["*1 of hangs*"])
