"""`close`, `flush` and other limits while `map` runs (contract 3)."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from batchify import Closed, Retry, batched
from tests.api.sources import any_order, any_source, check, check_idle, done, echo, run
from tests.limits import LIMIT
from tests.manual import Gated, in_thread, until


def outcomes(results: Any) -> list[Any]:
    """Return results unchanged, and errors as their types."""
    return [type(x) if isinstance(x, Exception) else x for x in results]


@any_source
def test_close_in_the_middle_runs_accepted_items(source: Any) -> None:
    gated = Gated()
    f = batched(gated, size=2)
    mapping = in_thread(
        lambda: outcomes(f.map(source(range(20)), window=6, return_exceptions=True))
    )
    gated.wait_started(1)
    until(lambda: (s := f.stats()).pending + s.running == 6)
    closing = in_thread(f.close)
    until(lambda: _is_closed(f))
    gated.open()
    closing.result()
    assert mapping.result() == done(range(6)) + [Closed] * 14
    stats = check_idle(f)
    assert (stats.accepted - stats.cancelled, stats.succeeded, stats.failed) == (6, 6, 0)


def _is_closed(f: Any) -> bool:
    """Check by a trial submit, which is cancelled if it was accepted too early."""
    before = f.stats().rejected
    try:
        f.submit_nowait("late").cancel()
    except Closed:
        assert f.stats().rejected > before
        return True
    return False


@any_source
@any_order
def test_close_with_cancel_in_the_middle(source: Any, ordered: bool) -> None:
    gated = Gated()
    f = batched(gated, size=2)
    mapping = in_thread(
        lambda: outcomes(
            f.map(source(range(20)), window=6, return_exceptions=True, ordered=ordered)
        )
    )
    gated.wait_started(1)
    until(lambda: (s := f.stats()).pending + s.running == 6)
    ran = len(gated.batches[0])
    closing = in_thread(lambda: f.close(cancel=True))
    until(lambda: f.stats().pending == 0)
    gated.open()
    closing.result()
    got = mapping.result()
    assert sorted(got, key=repr) == sorted(done(range(ran)) + [Closed] * (20 - ran), key=repr)
    assert not ordered or got[:ran] == done(range(ran))
    stats = check_idle(f)
    assert (stats.accepted, stats.succeeded, stats.failed) == (6, ran, 6 - ran)


@any_source
def test_close_with_cancel_raises_closed_in_the_mapping(source: Any) -> None:
    gated = Gated()
    f = batched(gated, size=2)
    mapping = in_thread(lambda: list(f.map(source(range(20)), window=6)))
    gated.wait_started(1)
    closing = in_thread(lambda: f.close(cancel=True))
    until(lambda: f.stats().pending == 0)
    gated.open()
    closing.result()
    with pytest.raises(Closed):
        mapping.result()
    check_idle(f)


@any_source
@any_order
def test_close_in_the_middle_keeps_what_was_settled(source: Any, ordered: bool) -> None:
    gate, started = threading.Event(), threading.Event()

    @batched(size=4, linger=None)
    def f(items: list[int]) -> Iterator[Any]:
        yield items[0]
        yield ValueError(items[1])
        started.set()
        gate.wait(LIMIT)
        yield from items[2:]

    mapping = in_thread(
        lambda: outcomes(f.map(source(range(12)), return_exceptions=True, ordered=ordered))
    )
    assert started.wait(LIMIT)
    until(lambda: (s := f.stats()).succeeded == s.failed == 1 and s.accepted == 12)
    with pytest.raises(TimeoutError):
        f.close(0.01)
    got = mapping.result()
    gate.set()
    assert sorted(map(str, got)) == sorted(map(str, [0, ValueError] + [Closed] * 10))
    assert not ordered or got[:2] == [0, ValueError]
    stats = f.stats()
    check(stats)
    assert (stats.succeeded, stats.failed, stats.pending) == (1, 11, 0)


@any_source
def test_aclose_in_the_middle_keeps_what_was_settled(source: Any) -> None:
    async def main() -> None:
        started = asyncio.Event()

        @batched(size=4, linger=None)
        async def f(items: list[int]) -> AsyncIterator[Any]:
            yield items[0]
            yield ValueError(items[1])
            started.set()
            await asyncio.sleep(LIMIT)

        async def consume() -> list[Any]:
            return outcomes([x async for x in f.amap(source(range(12)), return_exceptions=True)])

        task = asyncio.create_task(consume())
        await started.wait()
        while f.stats().accepted < 12:
            await asyncio.sleep(0.001)
        with pytest.raises(TimeoutError):
            await f.aclose(0.01)
        assert await task == [0, ValueError] + [Closed] * 10
        stats = f.stats()
        check(stats)
        assert (stats.succeeded, stats.failed, stats.pending) == (1, 11, 0)

    run(main())


@any_source
def test_close_waits_for_items_that_run_again(source: Any) -> None:
    """As it does for those of calls: the safe stop loses nothing."""
    gated, tried = Gated(), set()

    @batched(size=3)
    def f(items: list[int]) -> list[Any]:
        gated(items)
        again = [item for item in items if item not in tried]
        tried.update(items)
        return [Retry() if item in again else ("done", item) for item in items]

    mapping = in_thread(lambda: outcomes(f.map(source(range(3)), return_exceptions=True)))
    gated.wait_started(1)
    until(lambda: f.stats().accepted == 3)
    closing = in_thread(f.close)
    until(lambda: _is_closed(f))
    f.size = 1  # they run again one by one
    started = 1
    while f.stats().retried < 3:
        gated.release()
        started += 1
        gated.wait_started(started)
    closing.thread.join(0.05)
    is_early = closing.is_done()
    gated.open()
    closing.result()
    assert mapping.result() == done(range(3))
    assert not is_early, "close returned before its items were resolved"
    stats = check_idle(f)
    assert (stats.succeeded, stats.failed, stats.retried) == (3, 0, 3)


@any_source
def test_flush_waits_for_items_that_run_again(source: Any) -> None:
    gated, tried = Gated(), set()

    @batched(size=4, linger=None)
    def f(items: list[int]) -> list[Any]:
        gated(items)
        again = [item for item in items if item not in tried]
        tried.update(items)
        return [Retry() if item in again else ("done", item) for item in items]

    mapping = in_thread(lambda: list(f.map(source(range(4)))))
    gated.wait_started(1)
    flush = in_thread(f.flush)
    flush.thread.join(0.02)  # it has looked
    assert not flush.is_done()
    gated.release()
    gated.wait_started(2)
    flush.thread.join(0.05)
    is_early = flush.is_done()
    gated.open()
    flush.result()
    assert mapping.result() == done(range(4))
    assert not is_early, "flush returned before its items were resolved"


@any_source
def test_flush_in_the_middle(source: Any) -> None:
    gated = Gated()
    f = batched(gated, size=4)
    mapping = in_thread(lambda: list(f.map(source(range(30)), window=10)))
    gated.wait_started(1)
    until(lambda: (s := f.stats()).pending + s.running in (8, 10))
    before = f.stats().accepted
    flush = in_thread(f.flush)
    flush.thread.join(0.02)
    assert not flush.is_done()
    gated.open()
    flush.result()
    assert f.stats().succeeded >= before
    assert mapping.result() == done(range(30))


@any_source
def test_flush_waits_for_all_when_the_size_is_made_smaller(source: Any) -> None:
    gated = Gated()
    f = batched(gated, size=4)
    mapping = in_thread(lambda: list(f.map(source(range(12)), window=12)))
    gated.wait_started(1)
    until(lambda: f.stats().accepted == 12)
    flush = in_thread(f.flush)
    flush.thread.join(0.02)  # it has looked
    f.size = 2
    started = len(gated.batches)
    gated.release()
    gated.wait_started(started + 1)
    flush.thread.join(0.05)
    is_early = flush.is_done()
    gated.open()
    flush.result()
    assert mapping.result() == done(range(12))
    assert not is_early, "flush returned before its items were resolved"


@any_source
def test_close_waits_for_all_when_the_size_is_made_smaller(source: Any) -> None:
    gated = Gated()
    f = batched(gated, size=4)
    mapping = in_thread(lambda: outcomes(f.map(source(range(12)), return_exceptions=True)))
    gated.wait_started(1)
    until(lambda: f.stats().accepted == 12)
    closing = in_thread(f.close)
    until(lambda: _is_closed(f))
    f.size = 2
    gated.release()
    gated.wait_started(2)
    closing.thread.join(0.05)
    gated.open()
    closing.result()
    assert mapping.result() == done(range(12))
    stats = check_idle(f)
    assert (stats.succeeded, stats.failed) == (12, 0)


@any_source
@any_order
def test_a_smaller_size_applies_to_queued_items(source: Any, ordered: bool) -> None:
    gated = Gated()
    f = batched(gated, size=8)
    mapping = in_thread(lambda: sorted(f.map(source(range(64)), window=32, ordered=ordered)))
    gated.wait_started(1)
    until(lambda: (s := f.stats()).pending + s.running == 32)
    f.size = 3
    check(f.stats())
    gated.open()
    assert mapping.result() == done(range(64))
    assert max(map(len, gated.batches[1:])) <= 3
    assert [item for batch in gated.batches for item in batch] == list(range(64))
    stats = check_idle(f)
    assert stats.accepted == stats.succeeded == stats.submitted == 64


@any_source
def test_a_larger_size_applies_to_new_items(source: Any) -> None:
    f = batched(echo, size=2, linger=None)
    sizes: list[int] = []
    f.observe(lambda event: sizes.append(event.size))
    results = f.map(source(range(100)), window=20)
    assert next(results) == ("done", 0)
    f.size = 10
    assert list(results) == done(range(1, 100))
    f.flush(LIMIT)
    until(lambda: sum(sizes) == 100)
    assert max(sizes) == 10


@any_source
def test_a_smaller_capacity_applies_to_new_items(source: Any) -> None:
    gated = Gated()
    f = batched(gated, size=2, capacity=20)
    mapping = in_thread(lambda: list(f.map(source(range(60)))))
    until(lambda: (s := f.stats()).pending + s.running == 20)
    f.capacity = 4
    gated.open()
    assert mapping.result() == done(range(60))
    check_idle(f)
