"""For pytest, which finds it by itself: fixtures, and a check that a test left nothing behind.

[tool.pytest.ini_options]
batchify_check = true     # for every test; else @pytest.mark.usefixtures("batchify_check")
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from . import Deadlock
from .testing import ManualClock, cancel_all, eager, manual_clock, unresolved, unresolved_futures

PATIENCE = 10.0  # seconds that a test's batches may still take when it has ended


def pytest_addoption(parser: pytest.Parser) -> None:
    """The option for all tests."""
    parser.addini(
        "batchify_check",
        "fail every test that leaves items of batched functions that are not done",
        type="bool",
        default=False,
    )


@pytest.fixture
def batchify_eager() -> Iterator[None]:
    """Calls of batched functions run at once, as batches of one; see `batchify.testing.eager`."""
    with eager():
        yield


@pytest.fixture
def batchify_clock(request: pytest.FixtureRequest) -> Iterator[ManualClock]:
    """A clock for the times of all batched functions; see `batchify.testing.manual_clock`.

    With `batchify_check`, in either order, a test fails that leaves items that are not done on it:
    they are run now, when the clock ends.
    """
    if "batchify_check" in request.fixturenames:
        request.getfixturevalue("batchify_check")  # so that its teardown comes after this one's
    before = unresolved_futures()
    with manual_clock() as clock:
        yield clock
        left = unresolved(before) if "batchify_check" in request.fixturenames else {}
    if left:
        _fail(left, ", or advance the clock")


@pytest.fixture
def batchify_check() -> Iterator[None]:
    """Fails a test that leaves items that are not done, and cancels them for those to come."""
    before = unresolved_futures()  # a fixture's of a wider scope, say
    yield
    left = unresolved(before)
    if left:
        with contextlib.suppress(TimeoutError, Deadlock):  # what hangs is told of below
            cancel_all(PATIENCE)
        _fail(left)


def _fail(left: dict[str, int], or_else: str = "") -> None:
    told = ", ".join(f"{count} of {name}" for name, count in sorted(left.items()))
    pytest.fail(
        f"items of batched functions are not done: {told} (wait for their results, or flush "
        f"or close the function{or_else})",
        pytrace=False,
    )


@pytest.fixture(autouse=True)
def _batchify_check_all(request: pytest.FixtureRequest) -> None:
    # First of all fixtures: what they do in the end is done before the check.
    if request.config.getini("batchify_check"):
        request.getfixturevalue("batchify_check")
