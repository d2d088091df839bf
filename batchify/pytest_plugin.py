"""The pytest plugin: fixtures, and a check that a test leaves no items behind.

It is inactive until a test uses a fixture or the configuration enables the check:


[tool.pytest.ini_options]
batchify_check = true     # for every test; else @pytest.mark.usefixtures("batchify_check")

pytest loads it through its entry point.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from . import Deadlock
from .testing import ManualClock, cancel_all, eager, manual_clock, unresolved, unresolved_futures

PATIENCE = 10.0  # seconds that running batches may take after the test has ended


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option `batchify_check` to pytest's configuration."""
    parser.addini(
        "batchify_check",
        "fail every test that leaves unfinished items of batched functions",
        type="bool",
        default=False,
    )


@pytest.fixture
def batchify_eager() -> Iterator[None]:
    """Run calls of batched functions at once, as batches of one; see `batchify.testing.eager`."""
    with eager():
        yield


@pytest.fixture
def batchify_clock(request: pytest.FixtureRequest) -> Iterator[ManualClock]:
    """Provide a manual clock for all batched functions; see `batchify.testing.manual_clock`.

    Used together with `batchify_check`, in either order, a test fails if items are not done when it
    ends. These items then run at the end of the clock's block.
    """
    if "batchify_check" in request.fixturenames:
        request.getfixturevalue("batchify_check")  # requested first, it is torn down last
    before = unresolved_futures()
    with manual_clock() as clock:
        yield clock
        left = unresolved(before) if "batchify_check" in request.fixturenames else {}
    if left:
        _fail(left, ", or advance the clock")


@pytest.fixture
def batchify_check() -> Iterator[None]:
    """Fail a test that leaves unfinished items, and cancel these before the next test."""
    before = unresolved_futures()  # such as those of a module's fixture
    yield
    left = unresolved(before)
    if left:
        with contextlib.suppress(TimeoutError, Deadlock):  # reported below
            cancel_all(PATIENCE)
        _fail(left)


def _fail(left: dict[str, int], or_else: str = "") -> None:
    counts = ", ".join(f"{count} of {name}" for name, count in sorted(left.items()))
    pytest.fail(
        f"items of batched functions are not done: {counts} (wait for their results, or flush "
        f"or close the function{or_else})",
        pytrace=False,
    )


@pytest.fixture(autouse=True)
def _batchify_check_all(request: pytest.FixtureRequest) -> None:
    # Autouse fixtures start first, so the check runs after the teardown of all other fixtures.
    if request.config.getini("batchify_check"):
        request.getfixturevalue("batchify_check")
