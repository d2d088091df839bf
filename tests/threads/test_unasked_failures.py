"""A failure that no caller asked for is logged, once per batch: contract 4.

Each test drops its futures and waits for a log line. A test that expects no line ends with a batch
that fails, the marker: the worker logs the marker after everything else.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import gc
import logging
import re
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from batchify import BatchFailure, Retry, batched
from batchify.testing import eager, manual_clock
from tests.limits import LIMIT
from tests.log_lines import Lines, line_in, lines_of


class Marker(Exception):
    """The error of the last batch of a test."""


@pytest.fixture
def lines() -> Iterator[Lines]:
    with lines_of("audit") as lines:
        yield lines


def fail(items: list[Any]) -> list[Any]:
    if items == ["marker"]:
        raise Marker
    raise ValueError("secret")  # here


HERE = f"test_unasked_failures.py:{line_in(__file__, '# here')}"
ONE = f"WARNING audit: 1 item failed with ValueError ({HERE}), and no caller asked for its result"
TWO = (
    f"WARNING audit: 2 items failed with ValueError ({HERE}), and no caller asked for their results"
)


def audit(function: Callable[..., Any] = fail, **options: Any) -> Any:
    return batched(function, name="audit", **options)


def before_marker(f: Any, lines: Lines) -> list[str]:
    """Return the lines before that of the marker."""
    f.flush(LIMIT)
    f("marker")
    f.flush(LIMIT)
    found: list[str] = []
    while "Marker" not in (line := lines.next()):
        found.append(line)
    return found


# ---- what is logged ----


def test_a_call_whose_future_is_dropped(lines: Lines) -> None:
    f = audit()
    f("secret")
    assert lines.next() == ONE
    f.close()
    assert lines.rest() == []


def test_all_items_of_a_batch_are_one_line(lines: Lines) -> None:
    f = audit(size=2, linger=None)
    f(1), f(2)
    assert lines.next() == TWO
    f(3), f(4)
    assert lines.next() == TWO
    f.close()
    assert lines.rest() == []


def test_the_line_comes_when_the_last_future_is_gone(lines: Lines) -> None:
    f = audit(size=2, linger=None)
    futures = [f(1), f(2)]
    f.close()  # the worker is done with the batch
    futures.pop()
    assert lines.rest() == []
    futures.pop()
    assert lines.next() == TWO


def test_futures_in_a_garbage_cycle(lines: Lines) -> None:
    f = audit(size=2, linger=None)
    futures: list[Any] = [f(1), f(2)]
    futures.append(futures)
    f.close()
    del futures
    gc.collect()
    assert lines.next() == TWO
    assert lines.rest() == []


def test_only_the_items_that_no_caller_asked_for_are_counted(lines: Lines) -> None:
    f = audit(size=3, linger=None)
    future, _, _ = f(1), f(2), f(3)
    with pytest.raises(ValueError):
        future.result(LIMIT)
    del future, _
    assert lines.next() == TWO
    f.close()


def test_errors_of_single_items(lines: Lines) -> None:
    def some(items: list[int]) -> list[Any]:
        if items[0] == "marker":
            return [Marker()]
        return [KeyError(item) if item % 2 else item for item in items]

    f = audit(some, size=4, linger=None)
    kept = [f(number) for number in range(4)]
    assert [kept[0].result(LIMIT), kept[2].result(LIMIT)] == [0, 2]
    del kept
    assert lines.next() == (
        "WARNING audit: 2 items failed with KeyError, and no caller asked for their results"
    )
    f.close()


def test_errors_of_several_types_are_one_line(lines: Lines) -> None:
    types = [KeyError, KeyError, OSError, ValueError, TypeError]
    f = audit(lambda items: [types[item](item) for item in items], size=5, linger=None)
    for item in range(5):
        f(item)
    assert lines.next() == (
        "WARNING audit: 5 items failed with KeyError, OSError, TypeError or 1 other error, "
        "and no caller asked for their results"
    )
    f.close()


def test_a_generator_that_fails_late(lines: Lines) -> None:
    def stream(items: list[int]) -> Iterator[Any]:
        yield OSError()
        yield 2
        yield from fail(items)

    f = audit(stream, size=3, linger=None)
    f(1), f(2), f(3)
    assert lines.next() == (
        f"WARNING audit: 2 items failed with OSError or ValueError ({HERE}), "
        "and no caller asked for their results"
    )
    f.close()
    assert lines.rest() == []


def test_a_batch_that_is_split_to_isolate_errors(lines: Lines) -> None:
    def some(items: list[int]) -> list[int]:
        return fail(items) if {0, 5} & set(items) else items

    f = audit(some, size=8, linger=None, isolate=True)
    for item in range(8):
        f(item)
    assert lines.next() == TWO
    f.close()
    assert lines.rest() == []


def give_one_more(items: list[int]) -> list[int]:
    return [*items, 0]


def exit_(items: list[int]) -> None:
    raise SystemExit  # exits


def try_again(items: list[int]) -> list[Any]:
    return [Retry(attempts=2)] * len(items)


EXITS = f"test_unasked_failures.py:{line_in(__file__, '# exits')}"


@pytest.mark.parametrize(
    ("function", "error"),
    [
        (give_one_more, "BadResult"),
        (exit_, rf"BatchAborted (caused by SystemExit )?\({EXITS}\)"),
        (try_again, "RetryExhausted"),
    ],
)
def test_errors_that_batchify_makes(lines: Lines, function: Any, error: str) -> None:
    f = audit(function)
    f(1)
    assert re.fullmatch(
        f"WARNING audit: 1 item failed with {error}, and no caller asked for its result",
        lines.next(),
    )
    f.close()


def test_items_that_a_close_ends(lines: Lines) -> None:
    f = audit(linger=None)
    for item in range(3):
        f(item)
    f.close(cancel=True)
    assert lines.next() == (
        "WARNING audit: 3 items failed with Closed, and no caller asked for their results"
    )
    assert lines.rest() == []


def test_items_whose_deadline_comes(lines: Lines) -> None:
    with manual_clock() as clock:
        f = audit(linger=None)
        for item in range(3):
            f.options(deadline=5)(item)
        clock.advance(5)
        assert lines.next() == (
            "WARNING audit: 3 items failed with DeadlineExceeded, "
            "and no caller asked for their results"
        )
        f.close()
    assert lines.rest() == []


def test_calls_under_the_manual_clock(lines: Lines) -> None:
    with manual_clock() as clock:
        f = audit(linger=5)
        f(1), f(2)
        clock.advance(5)
        assert lines.next() == TWO


def test_eager_calls(lines: Lines) -> None:
    f = audit()
    with eager():
        f(1)
        assert lines.next() == ONE
        with pytest.raises(ValueError):
            f(2).result()
    assert lines.rest() == []


# ---- what a caller asked for ----


def result(future: Any) -> None:
    with pytest.raises(ValueError):
        future.result(LIMIT)


def await_(future: Any) -> None:
    async def wait() -> None:
        with pytest.raises(ValueError):
            await future

    asyncio.run(wait())


def wrap_future(future: Any) -> None:
    async def wait() -> None:
        with pytest.raises(ValueError):
            await asyncio.wrap_future(future)

    asyncio.run(wait())


ASK: list[Callable[[Any], object]] = [
    result,
    await_,
    wrap_future,
    lambda future: future.exception(LIMIT),
    lambda future: concurrent.futures.wait([future], LIMIT),
    lambda future: list(concurrent.futures.as_completed([future], LIMIT)),
    lambda future: future.add_done_callback(lambda _: None),
]


class Gated:
    """Fails once the gate is open."""

    def __init__(self) -> None:
        self.gate = threading.Event()

    def __call__(self, items: list[Any]) -> list[Any]:
        assert self.gate.wait(LIMIT)
        return fail(items)


@pytest.mark.parametrize("ask", ASK)
def test_a_caller_that_asks_after_the_end(lines: Lines, ask: Callable[[Any], object]) -> None:
    f = audit()
    future = f(1)
    f.flush(LIMIT)
    ask(future)
    del future
    assert before_marker(f, lines) == []
    f.close()


@pytest.mark.parametrize("ask", ASK)
def test_a_caller_that_waits(lines: Lines, ask: Callable[[Any], object]) -> None:
    gated = Gated()
    f = audit(gated)
    future = f(1)
    opener = threading.Thread(target=gated.gate.set)
    opener.start()
    ask(future)
    opener.join()
    del future
    assert before_marker(f, lines) == []
    f.close()


def test_a_callback_that_does_not_look_at_the_error(lines: Lines) -> None:
    gated = Gated()
    f = audit(gated)
    called = threading.Event()
    f(1).add_done_callback(lambda _: called.set())
    gated.gate.set()
    assert called.wait(LIMIT)
    assert before_marker(f, lines) == []
    f.close()


def test_a_look_at_the_state_asks_for_no_error(lines: Lines) -> None:
    f = audit()
    future = f(1)
    f.flush(LIMIT)
    assert future.done()
    assert not future.cancelled()
    assert "failed" in repr(future)
    del future
    assert lines.next() == ONE
    f.close()


def test_a_cancelled_item_has_no_failure(lines: Lines) -> None:
    f = audit(linger=None)
    assert f(1).cancel()
    assert before_marker(f, lines) == []
    f.close()


def test_an_error_that_on_error_replaces(lines: Lines) -> None:
    def handle(failure: BatchFailure) -> Any:
        return None if failure.items == ["marker"] else [0] * len(failure.items)

    f = audit(on_error=handle)
    f(1)
    assert before_marker(f, lines) == []
    f.close()


def test_an_error_that_on_error_leaves(lines: Lines) -> None:
    seen: list[list[int]] = []
    f = audit(on_error=lambda failure: seen.append(failure.items))
    f(1)
    assert lines.next() == ONE
    assert seen == [[1]]
    f.close()


# ---- map ----


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("take", [list, iter])  # in full batches, and one by one
def test_a_map_that_raises_counts_as_asked_for(lines: Lines, ordered: bool, take: Any) -> None:
    f = audit(size=4)
    with pytest.raises(ValueError):
        list(f.map(take(range(16)), ordered=ordered))
    f.flush(LIMIT)
    assert before_marker(f, lines) == []
    f.close()


@pytest.mark.parametrize("take", [list, iter])
def test_a_map_that_returns_its_exceptions(lines: Lines, take: Any) -> None:
    f = audit(size=4)
    errors = list(f.map(take(range(8)), return_exceptions=True))
    assert [type(error) for error in errors] == [ValueError] * 8
    assert before_marker(f, lines) == []
    f.close()


@pytest.mark.parametrize(("take", "size", "line"), [(list, 2, TWO), (iter, 1, ONE)])
def test_a_map_that_is_given_up_before_its_items_fail(
    lines: Lines, take: Any, size: int, line: str
) -> None:
    has_asked, has_begun, gate = threading.Event(), threading.Event(), threading.Event()

    def items_one_by_one() -> Iterator[int]:
        yield 0
        has_asked.set()  # else the first result may come before the second item is submitted
        yield 1

    def all_but_the_first(items: list[Any]) -> list[Any]:
        if items[0] == 0:
            assert has_asked.wait(LIMIT)
            return items
        has_begun.set()
        assert gate.wait(LIMIT)
        return fail(items)

    f = audit(all_but_the_first, size=size)
    if take is list:  # both batches are submitted together
        has_asked.set()
    items = list(range(4)) if take is list else items_one_by_one()
    results = f.map(items, window=2 * size)
    assert next(results) == 0
    assert has_begun.wait(LIMIT)
    results.close()
    gate.set()
    assert lines.next() == line
    f.close()


# ---- logging itself ----


class Broken(logging.Handler):
    def emit(self, record: logging.LogRecord) -> None:
        raise RuntimeError


class Calls(logging.Handler):
    """Sends log lines by a batched function: here by the one that failed."""

    def __init__(self, f: Any) -> None:
        super().__init__()
        self.f = f
        self.futures: list[Any] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.getMessage().startswith("audit:") and not self.futures:
            self.futures.append(self.f(2))


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    logger = logging.getLogger("batchify")
    before = logger.handlers.copy()
    yield logger
    for handler in logger.handlers.copy():
        if handler not in before:
            logger.removeHandler(handler)


def test_a_handler_that_raises_harms_no_batch(lines: Lines, logger: logging.Logger) -> None:
    logger.addHandler(Broken())  # after the handler of `lines`
    f = audit()
    f(1)
    assert lines.next() == ONE
    f(2)
    assert lines.next() == ONE
    f.close()


def test_a_handler_that_submits_to_the_function(lines: Lines, logger: logging.Logger) -> None:
    f = audit()
    handler = Calls(f)
    logger.addHandler(handler)
    f(1)
    assert lines.next() == ONE
    f.flush(LIMIT)
    (future,) = handler.futures
    with pytest.raises(ValueError):
        future.result(LIMIT)
    f.close()


def test_nothing_of_an_item_or_an_error_is_logged(lines: Lines) -> None:
    f = audit(key=str)
    f("secret")
    assert "secret" not in lines.next()
    f.close()
