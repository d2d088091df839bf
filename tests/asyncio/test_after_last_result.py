"""Code that an async generator runs after its last result, when the event loop ends."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import AsyncIterator

import pytest

from batchify import BatchEvent, BatchFuture, batched


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """Record what batchify and asyncio log at WARNING or above."""
    caplog.set_level(logging.WARNING)
    return caplog


@batched(size=1)
async def echo(items: list[int]) -> AsyncIterator[int]:
    for item in items:
        yield item
    await asyncio.Event().wait()  # a limiter that never gives its permit


def assert_two_succeeded(futures: list[BatchFuture[int]]) -> None:
    assert [future.result(0) for future in futures] == [1, 2]
    stats = echo.stats()
    assert (stats.failed, stats.pending, stats.running) == (0, 0, 0)


def test_a_wait_after_the_last_result_is_not_logged_when_asyncio_run_ends(
    log: pytest.LogCaptureFixture,
) -> None:
    """The first batch waits when `main` returns; the second one runs, and waits, after that."""
    events: list[BatchEvent] = []
    end = echo.observe(events.append)

    async def main() -> list[BatchFuture[int]]:
        futures = [echo(1), echo(2)]
        await futures[0]
        return futures

    futures = asyncio.run(main())
    end()
    gc.collect()
    assert_two_succeeded(futures)
    assert [event.error for event in events] == [None, None]
    assert log.messages == []


def test_a_wait_after_the_last_result_is_not_logged_when_the_loop_is_closed(
    log: pytest.LogCaptureFixture,
) -> None:
    async def main() -> int:
        @batched(size=1)
        async def echo_once(items: list[int]) -> AsyncIterator[int]:
            for item in items:
                yield item
            await asyncio.Event().wait()

        return await echo_once(1)

    loop = asyncio.new_event_loop()
    assert loop.run_until_complete(main()) == 1
    loop.close()
    del loop
    gc.collect()
    assert log.messages == []


def test_clean_up_after_the_last_result_runs_before_the_loop_closes(
    log: pytest.LogCaptureFixture,
) -> None:
    states: list[str] = []

    @batched(size=1)
    async def tidy(items: list[int]) -> AsyncIterator[int]:
        try:
            for item in items:
                yield item
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            states.append("tidied up")

    async def main() -> list[BatchFuture[int]]:
        futures = [tidy(1), tidy(2)]
        await futures[0]
        return futures

    assert [future.result(0) for future in asyncio.run(main())] == [1, 2]
    assert states == ["tidied up", "tidied up"]
    assert log.messages == []


def test_a_limiter_is_waited_for_between_the_batches_that_run_at_the_end() -> None:
    """The wait behind a batch holds back the next one, also when `main` has returned."""
    order: list[str] = []

    @batched(size=1)
    async def limited(items: list[int]) -> AsyncIterator[int]:
        for item in items:
            order.append(f"call {item}")
            yield item
        await asyncio.sleep(0)
        order.append(f"permit after {items[0]}")

    async def main() -> list[BatchFuture[int]]:
        return [limited(item) for item in (1, 2, 3)]

    assert [future.result(0) for future in asyncio.run(main())] == [1, 2, 3]
    assert order[:4] == ["call 1", "call 2", "permit after 2", "call 3"]  # the first was cancelled
