"""Failures on event loops that no caller asked for are logged: contract 4.

As in `tests/threads/test_unasked_failures.py`, a test that expects no log line ends with a marker
batch that fails.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest

from batchify import QueueFull, batched
from batchify.testing import eager
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


async def afail(items: list[Any]) -> list[Any]:
    await asyncio.sleep(0)
    return fail(items)


HERE = f"test_unasked_failures.py:{line_in(__file__, '# here')}"
ONE = f"WARNING audit: 1 item failed with ValueError ({HERE}), and no caller asked for its result"
TWO = (
    f"WARNING audit: 2 items failed with ValueError ({HERE}), and no caller asked for their results"
)


@pytest.fixture(params=[fail, afail], ids=["def", "async def"])
def function(request: pytest.FixtureRequest) -> Any:
    """Return a function that fails, in a worker thread or on the test's loop."""
    return request.param


def audit(function: Any, **options: Any) -> Any:
    return batched(function, name="audit", **options)


async def before_marker(f: Any, lines: Lines) -> list[str]:
    """Return the lines before that of the marker."""
    await f.aflush(LIMIT)
    f("marker")
    found: list[str] = []
    while "Marker" not in (line := await asyncio.to_thread(lines.next)):
        found.append(line)
    await f.aclose(LIMIT)
    return found


# ---- what is logged ----


async def drop(f: Any, lines: Lines) -> None:
    f(1)
    assert await asyncio.to_thread(lines.next) == ONE
    f.linger = None  # both in one batch
    f(1), f(2)
    await f.aclose(LIMIT)
    assert await asyncio.to_thread(lines.next) == TWO


def test_a_call_without_await(lines: Lines, function: Any) -> None:
    asyncio.run(drop(audit(function), lines))
    assert lines.rest() == []


def test_a_call_from_a_thread_without_a_loop(lines: Lines) -> None:
    f = audit(afail)
    f(1)
    assert lines.next() == ONE
    with pytest.raises(ValueError):
        f(2).result(LIMIT)
    f.close()
    assert lines.rest() == []


def test_items_whose_batch_ends_with_the_loop(lines: Lines) -> None:
    has_begun = threading.Event()

    async def wait(items: list[int]) -> list[int]:
        has_begun.set()
        await asyncio.Event().wait()
        return items

    f = audit(wait)

    async def main() -> None:
        f(1)
        await asyncio.to_thread(has_begun.wait)

    asyncio.run(main())
    line = lines.next()
    assert line.startswith("WARNING audit: 1 item failed with BatchAborted ")
    assert line.endswith("and no caller asked for its result")


def test_a_call_that_waits_for_capacity_in_vain(lines: Lines) -> None:
    f = audit(lambda items: items, size=1, capacity=1, linger=None)
    gate = threading.Event()

    async def main() -> None:
        await asyncio.to_thread(lambda: None)
        first = busy(1)
        busy.options(timeout=0.01)(2)
        assert await asyncio.to_thread(lines.next) == (
            "WARNING audit: 1 item failed with QueueFull, and no caller asked for its result"
        )
        with pytest.raises(QueueFull):
            await busy.options(timeout=0.01).asubmit(3)
        gate.set()
        assert await first == 1
        await busy.aclose(LIMIT)

    def wait(items: list[int]) -> list[int]:
        assert gate.wait(LIMIT)
        return items

    busy = audit(wait, size=1, capacity=1)
    asyncio.run(main())
    f.close()
    assert lines.rest() == []


def test_eager_calls_on_a_loop(lines: Lines, function: Any) -> None:
    f = audit(function)

    async def main() -> None:
        f(1)
        assert lines.next() == ONE
        with pytest.raises(ValueError):
            await f(2)

    with eager():
        asyncio.run(main())
    assert lines.rest() == []


# ---- what a caller asked for ----


async def await_(future: Any) -> None:
    with pytest.raises(ValueError):
        await future


async def gather(future: Any) -> None:
    with pytest.raises(ValueError):
        await asyncio.gather(future)


async def gather_errors(future: Any) -> None:
    (error,) = await asyncio.gather(future, return_exceptions=True)
    assert isinstance(error, ValueError)


async def wait(future: Any) -> None:
    await asyncio.wait([future])


async def wait_for(future: Any) -> None:
    with pytest.raises(ValueError):
        await asyncio.wait_for(future, LIMIT)


async def shield(future: Any) -> None:
    with pytest.raises(ValueError):
        await asyncio.shield(future)


async def as_completed(future: Any) -> None:
    (one,) = asyncio.as_completed([future])
    with pytest.raises(ValueError):
        await one


async def task_group(future: Any) -> None:
    async def member() -> None:
        await future

    with pytest.raises(ExceptionGroup):
        async with asyncio.TaskGroup() as group:
            group.create_task(member())


async def add_done_callback(future: Any) -> None:
    called = asyncio.Event()
    future.add_done_callback(lambda _: called.set())
    await called.wait()


async def two_callbacks(future: Any) -> None:
    future.add_done_callback(lambda _: None)
    await add_done_callback(future)


async def in_a_thread(future: Any) -> None:
    with pytest.raises(ValueError):
        await asyncio.to_thread(future.result)


ASK: list[Callable[[Any], Awaitable[None]]] = [
    await_, gather, gather_errors, wait, wait_for, shield, as_completed, task_group,
    add_done_callback, two_callbacks, in_a_thread,
]  # fmt: skip


@pytest.mark.parametrize("ask", ASK)
@pytest.mark.parametrize("is_done", [False, True])
def test_an_error_that_a_caller_asked_for(
    lines: Lines, function: Any, ask: Callable[[Any], Awaitable[None]], is_done: bool
) -> None:
    f = audit(function)

    async def main() -> list[str]:
        future = f(1)
        if is_done:
            await f.aflush(LIMIT)
        await ask(future)
        del future
        return await before_marker(f, lines)

    assert asyncio.run(main()) == []


def test_the_others_of_a_gather_that_fails(lines: Lines, function: Any) -> None:
    f = audit(function, size=2)

    async def main() -> list[str]:
        with pytest.raises(ValueError):
            await asyncio.gather(*(f(item) for item in range(8)))
        return await before_marker(f, lines)

    assert asyncio.run(main()) == []


def test_only_the_items_that_no_caller_asked_for_are_counted(lines: Lines, function: Any) -> None:
    f = audit(function, size=3, linger=None)

    async def main() -> str:
        future, _, _ = f(1), f(2), f(3)
        await await_(future)
        del future, _
        line = await asyncio.to_thread(lines.next)
        await f.aclose(LIMIT)
        return line

    assert asyncio.run(main()) == TWO
    assert lines.rest() == []


def test_an_item_that_is_cancelled_while_its_batch_runs(lines: Lines) -> None:
    gate, has_begun = asyncio.Event(), asyncio.Event()

    async def gated(items: list[Any]) -> list[Any]:
        has_begun.set()
        await gate.wait()
        return fail(items)

    f = audit(gated)

    async def main() -> list[str]:
        future = f(1)
        await has_begun.wait()
        assert future.cancel()
        gate.set()
        return await before_marker(f, lines)

    assert asyncio.run(main()) == []


# ---- amap ----


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("take", [list, iter])
def test_an_amap_that_raises(lines: Lines, function: Any, ordered: bool, take: Any) -> None:
    f = audit(function, size=4)

    async def main() -> list[str]:
        with pytest.raises(ValueError):
            async for _ in f.amap(take(range(16)), ordered=ordered):
                pass
        return await before_marker(f, lines)

    assert asyncio.run(main()) == []


def test_an_amap_that_returns_its_exceptions(lines: Lines, function: Any) -> None:
    f = audit(function, size=4)

    async def main() -> list[str]:
        errors = [error async for error in f.amap(range(8), return_exceptions=True)]
        assert [type(error) for error in errors] == [ValueError] * 8
        return await before_marker(f, lines)

    assert asyncio.run(main()) == []
