"""`Deadlock` in batches that run in threads: raised for every wait that can never end only."""

from __future__ import annotations

import asyncio
import concurrent.futures
import logging
import threading
from collections.abc import Callable
from concurrent.futures import FIRST_COMPLETED, FIRST_EXCEPTION, ThreadPoolExecutor
from typing import Any

import pytest

from batchify import Deadlock, batched

LIMIT = 60.0

Way = Callable[[Any, int], Any]


def calling_itself(way: Way, workers: int = 1, **options: Any) -> Any:
    """Return a function whose batch for n > 0 waits in this way for its own item n - 1."""

    @batched(size=1, workers=workers, name="embed", **options)
    def f(items: list[int]) -> list[Any]:
        return [way(f, item - 1) if item else "end" for item in items]

    return f


def result(f: Any, n: int) -> Any:
    return f(n).result()


def exception(f: Any, n: int) -> Any:
    error = f(n).exception()
    if error is not None:
        raise error
    return "end"


def wait(f: Any, n: int) -> Any:
    done, _ = concurrent.futures.wait([f(n), f(n)])
    return done.pop().result()


def wait_for_the_first(f: Any, n: int) -> Any:
    done, _ = concurrent.futures.wait([f(n), f(n)], return_when=FIRST_COMPLETED)
    return done.pop().result()


def wait_for_the_first_error(f: Any, n: int) -> Any:
    done, _ = concurrent.futures.wait([f(n), f(n)], return_when=FIRST_EXCEPTION)
    return done.pop().result()


def wait_beside_one_that_ends(f: Any, n: int) -> Any:
    """All are waited for, so that one of them ends does not help."""
    with ThreadPoolExecutor(1) as pool:
        future = f(n)
        concurrent.futures.wait([future, pool.submit(int)])
        return future.result()


def as_completed(f: Any, n: int) -> Any:
    first, _ = [one.result() for one in concurrent.futures.as_completed([f(n), f(n)])]
    return first


def as_completed_beside_one_that_ends(f: Any, n: int) -> Any:
    """It waits for the item only after the other one was yielded."""
    with ThreadPoolExecutor(1) as pool:
        futures = [f(n), pool.submit(int)]
        assert {one.result() for one in concurrent.futures.as_completed(futures)} == {0, "end"}
        return "end"


def mapped(f: Any, n: int) -> Any:
    [only] = f.map([n])
    return only


def mapped_in_any_order(f: Any, n: int) -> Any:
    [only] = f.map(iter([n]), ordered=False)
    return only


WAYS = [
    result, exception, wait, wait_for_the_first, wait_for_the_first_error,
    wait_beside_one_that_ends, as_completed, as_completed_beside_one_that_ends, mapped,
    mapped_in_any_order,
]  # fmt: skip


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_a_batch_that_waits_for_its_own_function(way: Way) -> None:
    f = calling_itself(way)
    with pytest.raises(Deadlock, match="embed"):
        f(1).result(LIMIT)
    assert f(0).result(LIMIT) == "end"
    f.close(LIMIT)


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_it_is_none_while_another_worker_is_free(way: Way) -> None:
    f = calling_itself(way, workers=2)
    assert f(1).result(LIMIT) == "end"
    with pytest.raises(Deadlock):  # now both wait
        f(2).result(LIMIT)
    f.flush(LIMIT)  # the calls of the failed batch may still be running
    assert f(1).result(LIMIT) == "end"
    f.close(LIMIT)


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_a_ring_of_two_functions(way: Way) -> None:
    @batched(size=1)
    def one(items: list[int]) -> list[Any]:
        return [way(other, item - 1) if item else "end" for item in items]

    @batched(size=1)
    def other(items: list[int]) -> list[Any]:
        return [way(one, item - 1) if item else "end" for item in items]

    assert one(1).result(LIMIT) == "end"
    with pytest.raises(Deadlock):
        one(2).result(LIMIT)
    assert other(1).result(LIMIT) == "end"


@pytest.mark.parametrize("way", [wait, as_completed], ids=lambda way: way.__name__)
def test_on_the_loop_that_must_run_the_batch(way: Way) -> None:
    @batched(name="embed")
    async def f(items: list[int]) -> list[int]:
        return items

    async def main() -> None:
        with pytest.raises(Deadlock) as caught:
            way(f, 1)
        assert str(caught.value) == (
            'wait() of embed was called on the event loop that must run embed: use "await '
            'asyncio.wait(...)"'
        )
        assert await f(2) == 2

    asyncio.run(main())


# ---- waits that can end ----


def limited_wait(f: Any, n: int) -> Any:
    future = f(n)
    done, _ = concurrent.futures.wait([future], timeout=0.02)
    assert not done
    future.cancel()
    return "late"


def limited_as_completed(f: Any, n: int) -> Any:
    future = f(n)
    with pytest.raises(TimeoutError):
        list(concurrent.futures.as_completed([future], timeout=0.02))
    future.cancel()
    return "late"


def another_one_is_first(f: Any, n: int) -> Any:
    future, event = f(n), threading.Event()
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(event.wait)
        threading.Timer(0.02, event.set).start()
        done, _ = concurrent.futures.wait([future, other], return_when=FIRST_COMPLETED)
    assert done == {other}
    future.cancel()
    return "late"


def the_rest_is_not_waited_for(f: Any, n: int) -> Any:
    future = f(n)
    with ThreadPoolExecutor(1) as pool:
        other = pool.submit(int)
        for one in concurrent.futures.as_completed([future, other]):
            assert one is other
            break
    future.cancel()
    return "late"


CAN_END = [limited_wait, limited_as_completed, another_one_is_first, the_rest_is_not_waited_for]


@pytest.mark.parametrize("way", CAN_END, ids=lambda way: way.__name__)
def test_a_wait_that_can_end_is_no_deadlock(way: Way) -> None:
    f = calling_itself(way)
    assert f(1).result(LIMIT) == "late"
    assert f(0).result(LIMIT) == "end"
    f.close(LIMIT)
    assert f.stats().failed == 0


def test_wait_and_as_completed_of_callers() -> None:
    @batched
    def double(items: list[int]) -> list[int]:
        return [2 * item for item in items]

    futures = [double(n) for n in range(100)]
    assert concurrent.futures.wait(futures).not_done == set()
    futures = [double(n) for n in range(100)]
    assert sum(one.result() for one in concurrent.futures.as_completed(futures)) == 9900


# ---- messages ----


def message_of(f: Any, n: int) -> str:
    with pytest.raises(Deadlock) as caught:
        f(n).result(LIMIT)
    return str(caught.value)


def test_the_message_names_the_function_and_the_way_out() -> None:
    instead = 'no other worker can run that item: use "embed.batch([...])" there, or raise workers'
    inside = "of embed was called inside a batch of embed, and"
    assert message_of(calling_itself(result), 1) == f"result() {inside} {instead}"
    assert message_of(calling_itself(wait), 1) == f"wait() {inside} {instead}"
    assert message_of(calling_itself(mapped), 1) == f"map() {inside} {instead}"


@pytest.mark.parametrize("call", ["flush", "close"])
def test_the_message_of_a_flush_inside_a_batch(call: str) -> None:
    assert message_of(calling_itself(lambda f, n: getattr(f, call)()), 1) == (
        f"{call}() of embed was called inside a batch of embed, for which it would wait: "
        f"call it outside of the batch"
    )


def test_the_message_of_a_ring() -> None:
    @batched(name="first")
    def first(items: list[int]) -> list[Any]:
        return [second(item - 1).result() if item else "end" for item in items]

    @batched(name="second")
    def second(items: list[int]) -> list[Any]:
        return [first(item - 1).result() if item else "end" for item in items]

    # Whichever of the two waits is noted last fails, so both messages are right.
    assert message_of(first, 2) in {
        "result() of first was called inside a batch of second, and first waits for that batch: "
        'use "first.batch([...])" there',
        "result() of second was called inside a batch of first, and second waits for that batch: "
        'use "second.batch([...])" there',
    }


def test_the_message_of_ones_own_full_queue() -> None:
    assert message_of(calling_itself(lambda f, n: [f(n), f(n)], capacity=1), 1) == (
        "embed: the queue is full, and a batch or a done-callback of embed submitted to it: "
        "raise capacity, or use embed.submit_nowait(...) there"
    )


def test_the_message_of_a_full_queue_in_a_ring() -> None:
    @batched(size=1, capacity=1, name="first")
    def first(items: list[int]) -> list[Any]:
        return [second(item).result() for item in items]

    @batched(name="second")
    def second(items: list[int]) -> list[Any]:
        return [first(item) for item in items]

    # Whichever of the two calls comes last fails, so both messages are right.
    messages = {
        "first: the queue is full, and only a batch that waits for this call can free capacity; "
        "raise capacity, or use first.submit_nowait(...)",
        "result() of second was called inside a batch of first, and second waits for that batch: "
        'use "second.batch([...])" there',
    }
    for _ in range(1000):
        message = message_of(first, 1)
        assert message in messages
        first.flush(LIMIT)
        second.flush(LIMIT)
        if message.startswith("first: "):
            return
    pytest.fail("submit() to the full queue never raised")


# ---- stalls that cannot be proven ----


def through_a_helper_thread(f: Any, n: int) -> Any:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(lambda: f(n).result()).result()


def through_a_loop_of_its_own(f: Any, n: int) -> Any:
    async def main() -> Any:
        return await f(n)

    return asyncio.run(main())


@pytest.mark.parametrize("way", [through_a_helper_thread, through_a_loop_of_its_own])
def test_a_stall_that_cannot_be_proven_is_logged(
    way: Way, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("batchify.progress.PATIENCE", 0.05)
    monkeypatch.setattr("batchify.progress.FIRST_LOOK", 0.01)
    f = calling_itself(way)
    with caplog.at_level(logging.WARNING, "batchify"):
        future = f(1)
        while not caplog.records:
            threading.Event().wait(0.01)
        f.workers = 2  # the solution that the message names
        assert future.result(LIMIT) == "end"
    [record] = caplog.records
    assert record.levelname == "WARNING"
    assert record.getMessage().startswith("embed: no batch has ended for")
    f.close(LIMIT)


@pytest.mark.deep
def test_a_stall_is_logged_after_five_seconds(caplog: pytest.LogCaptureFixture) -> None:
    f = calling_itself(through_a_helper_thread)
    future = f(1)
    with pytest.raises(TimeoutError):
        future.result(3)
    assert not caplog.records
    while not caplog.records:
        threading.Event().wait(0.01)
    f.workers = 2
    assert future.result(LIMIT) == "end"


def test_a_slow_function_with_waiting_callers_is_not_logged(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("batchify.progress.PATIENCE", 0.01)
    monkeypatch.setattr("batchify.progress.FIRST_LOOK", 0.001)
    go_on = False

    @batched(size=1)
    def slow(items: list[int]) -> list[int]:
        while not go_on:
            sum(range(1000))
        return items

    with ThreadPoolExecutor(4) as pool:
        results = [pool.submit(lambda n=n: slow(n).result()) for n in range(4)]  # type: ignore[misc]
        with pytest.raises(TimeoutError):
            results[0].result(0.2)
        go_on = True
        assert [one.result(LIMIT) for one in results] == list(range(4))
    assert not caplog.records
