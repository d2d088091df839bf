"""`Deadlock` in async batches: raised for every wait that can never end, and for no other."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from batchify import Deadlock, batched

LIMIT = 60.0

Way = Callable[[Any, int], Awaitable[Any]]


def calling_itself(way: Way, workers: int = 1) -> Any:
    """Return a function whose batch for n > 0 waits in this way for its own item n - 1."""

    @batched(size=1, workers=workers, name="embed")
    async def f(items: list[int]) -> list[Any]:
        return [await way(f, item - 1) if item else "end" for item in items]

    return f


async def child(f: Any, n: int) -> Any:
    return await f(n)


async def direct(f: Any, n: int) -> Any:
    return await f(n)


async def gather(f: Any, n: int) -> Any:
    return (await asyncio.gather(f(n), f(n)))[0]


async def gather_all_outcomes(f: Any, n: int) -> Any:
    for outcome in await asyncio.gather(f(n), f(n), return_exceptions=True):
        if isinstance(outcome, Exception):
            raise outcome
    return outcome


async def gather_of_children(f: Any, n: int) -> Any:
    return (await asyncio.gather(child(f, n), child(f, n)))[0]


async def gather_of_gathers(f: Any, n: int) -> Any:
    return (await asyncio.gather(asyncio.gather(f(n)), asyncio.shield(gather(f, n))))[1]


async def wait(f: Any, n: int) -> Any:
    done, _ = await asyncio.wait([f(n), f(n)])
    return done.pop().result()


async def wait_for_the_first(f: Any, n: int) -> Any:
    done, _ = await asyncio.wait([f(n), f(n)], return_when=asyncio.FIRST_COMPLETED)
    return done.pop().result()


async def wait_for_tasks(f: Any, n: int) -> Any:
    done, _ = await asyncio.wait([asyncio.create_task(child(f, n))])
    return done.pop().result()


async def wait_for_without_limit(f: Any, n: int) -> Any:
    return await asyncio.wait_for(child(f, n), None)


async def shield(f: Any, n: int) -> Any:
    return await asyncio.shield(f(n))


async def shield_of_a_child(f: Any, n: int) -> Any:
    return await asyncio.shield(child(f, n))


async def create_task(f: Any, n: int) -> Any:
    return await asyncio.create_task(child(f, n))


async def create_task_and_await_it_later(f: Any, n: int) -> Any:
    task = asyncio.create_task(child(f, n))
    await asyncio.sleep(0.02)
    return await task


async def task_group(f: Any, n: int) -> Any:
    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(child(f, n)) for _ in range(2)]
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return tasks[0].result()


async def as_completed(f: Any, n: int) -> Any:
    first, _ = [await one for one in asyncio.as_completed([f(n), f(n)])]
    return first


async def as_completed_of_children(f: Any, n: int) -> Any:
    tasks = [asyncio.create_task(child(f, n)) for _ in range(2)]
    try:
        first, _ = [await one for one in asyncio.as_completed(tasks)]
    finally:
        await asyncio.wait(tasks)  # both errors are retrieved, else asyncio logs them
        for task in tasks:
            task.exception()
    return first


async def beside_one_that_ends(f: Any, n: int) -> Any:
    return (await asyncio.gather(f(n), asyncio.sleep(0.02)))[0]


async def asubmit(f: Any, n: int) -> Any:
    return await (await f.asubmit(n))


async def amap(f: Any, n: int) -> Any:
    [only] = [one async for one in f.amap([n])]
    return only


async def amap_in_a_task(f: Any, n: int) -> Any:
    return await asyncio.create_task(amap(f, n))


WAYS = [
    direct, gather, gather_all_outcomes, gather_of_children, gather_of_gathers, wait,
    wait_for_the_first, wait_for_tasks, wait_for_without_limit, shield, shield_of_a_child,
    create_task, create_task_and_await_it_later, task_group, as_completed,
    as_completed_of_children, beside_one_that_ends, asubmit, amap, amap_in_a_task,
]  # fmt: skip


@pytest.fixture(params=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Any:
    if request.param == "asyncio":
        return asyncio.run
    uvloop = pytest.importorskip("uvloop")

    def run_on_uvloop(main: Any) -> Any:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            return runner.run(main)

    return run_on_uvloop


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_a_batch_that_waits_for_its_own_function(way: Way, run: Any) -> None:
    f = calling_itself(way)

    async def main() -> None:
        with pytest.raises(Deadlock, match="embed"):
            await f(1)
        assert await f(0) == "end"  # the function still works
        await f.aflush()
        stats = f.stats()
        assert stats.accepted == stats.succeeded + stats.failed + stats.cancelled
        assert f.workers == 1
        await f.aclose()

    run(main())


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_it_is_none_while_another_worker_is_free(way: Way, run: Any) -> None:
    f = calling_itself(way, workers=2)

    async def main() -> None:
        assert await f(1) == "end"
        with pytest.raises(Deadlock):  # now both wait
            await f(2)
        assert await f(1) == "end"
        await f.aclose()

    run(main())


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_a_ring_of_two_functions(way: Way) -> None:
    @batched(size=1)
    async def one(items: list[int]) -> list[Any]:
        return [await way(other, item - 1) if item else "end" for item in items]

    @batched(size=1)
    async def other(items: list[int]) -> list[Any]:
        return [await way(one, item - 1) if item else "end" for item in items]

    async def main() -> None:
        assert await one(1) == "end"
        with pytest.raises(Deadlock):
            await one(2)
        assert await one(1) == "end"

    asyncio.run(main())


@pytest.mark.parametrize("way", [gather, create_task], ids=lambda way: way.__name__)
def test_a_batch_without_capacity_for_its_own_items(way: Way) -> None:
    @batched(size=1, capacity=1)
    async def f(items: list[int]) -> list[Any]:
        return [await way(f, item - 1) if item else "end" for item in items]

    async def main() -> None:
        with pytest.raises(Deadlock):
            await f(1)
        assert await f(0) == "end"
        stats = f.stats()
        assert stats.rejected > 0
        assert stats.accepted == stats.succeeded + stats.failed + stats.cancelled

    asyncio.run(main())


# ---- waits that can end ----


async def limited_by_wait_for(f: Any, n: int) -> Any:
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(f(n), 0.02)
    return "late"


async def limited_by_wait_for_around_gather(f: Any, n: int) -> Any:
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(gather(f, n), 0.02)
    return "late"


async def limited_by_wait_for_around_a_task(f: Any, n: int) -> Any:
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(create_task(f, n), 0.02)
    return "late"


async def limited_by_wait(f: Any, n: int) -> Any:
    future = f(n)
    done, _ = await asyncio.wait([future], timeout=0.02)
    assert not done
    future.cancel()
    return "late"


async def limited_by_as_completed(f: Any, n: int) -> Any:
    future = f(n)
    for one in asyncio.as_completed([future], timeout=0.02):
        with pytest.raises(TimeoutError):
            await one
    future.cancel()
    return "late"


async def another_one_is_first(f: Any, n: int) -> Any:
    future = f(n)
    sleep = asyncio.create_task(asyncio.sleep(0.02))
    done, _ = await asyncio.wait([future, sleep], return_when=asyncio.FIRST_COMPLETED)
    assert done == {sleep}
    future.cancel()
    return "late"


async def another_one_fails(f: Any, n: int) -> Any:
    async def fails() -> None:
        await asyncio.sleep(0.02)
        raise ValueError("that of the other")

    future = f(n)
    with pytest.raises(ValueError, match="that of the other"):
        await asyncio.gather(future, fails())
    future.cancel()
    return "late"


async def an_unknown_wait(f: Any, n: int) -> Any:
    """The item is awaited by a task, but the batch waits for something else."""
    event = asyncio.Event()
    task = asyncio.create_task(child(f, n))
    asyncio.get_running_loop().call_later(0.02, event.set)
    await event.wait()
    task.cancel()
    return "late"


CAN_END = [
    limited_by_wait_for, limited_by_wait_for_around_gather, limited_by_wait_for_around_a_task,
    limited_by_wait, limited_by_as_completed, another_one_is_first, another_one_fails,
    an_unknown_wait,
]  # fmt: skip


@pytest.mark.parametrize("way", CAN_END, ids=lambda way: way.__name__)
def test_a_wait_that_can_end_is_no_deadlock(way: Way, run: Any) -> None:
    f = calling_itself(way)

    async def main() -> None:
        assert await f(1) == "late"
        assert await f(0) == "end"
        assert f.stats().failed == 0

    run(main())


def test_a_background_task_of_a_batch_is_no_deadlock(run: Any) -> None:
    """The batch returns without it; then the item that it awaits runs."""
    tasks: list[asyncio.Task[Any]] = []

    async def in_the_background(f: Any, n: int) -> Any:
        tasks.append(asyncio.create_task(child(f, n)))
        tasks.append(asyncio.ensure_future(gather(f, n)))
        await asyncio.sleep(0.05)
        return "returned"

    f = calling_itself(in_the_background)

    async def main() -> None:
        assert await f(1) == "returned"
        assert await asyncio.gather(*tasks) == ["end", "end"]

    run(main())


def test_a_background_task_beside_a_deadlock_is_served() -> None:
    tasks: list[asyncio.Task[Any]] = []

    async def beside(f: Any, n: int) -> Any:
        tasks.append(asyncio.create_task(child(f, n)))
        await asyncio.sleep(0)
        return await gather(f, n)

    f = calling_itself(beside)

    async def main() -> None:
        with pytest.raises(Deadlock):
            await f(1)
        assert await tasks[0] == "end"

    asyncio.run(main())


def test_tasks_of_callers_are_no_deadlock() -> None:
    """They wait for a worker too, behind a slow batch; no batch waits for them."""

    @batched(size=1)
    async def f(items: list[int]) -> list[int]:
        await asyncio.sleep(0.05)
        return items

    async def main() -> None:
        first = f(0)
        await asyncio.sleep(0.01)
        tasks = [asyncio.create_task(child(f, n)) for n in range(3)]
        assert await asyncio.gather(first, f(9), *tasks) == [0, 9, 0, 1, 2]

    asyncio.run(main())


# ---- messages ----


def test_the_message_names_the_function_and_the_way_out() -> None:
    f = calling_itself(gather)

    async def main() -> None:
        with pytest.raises(Deadlock) as caught:
            await f(1)
        assert str(caught.value) == (
            "await of embed was called inside a batch of embed, and no other worker can run that "
            'item: use "await embed.batch([...])" there, or raise workers'
        )

    asyncio.run(main())


def test_the_message_of_a_ring() -> None:
    @batched(name="first")
    async def first(items: list[int]) -> list[Any]:
        return [await second(item - 1) if item else "end" for item in items]

    @batched(name="second")
    async def second(items: list[int]) -> list[Any]:
        return [await first(item - 1) if item else "end" for item in items]

    async def main() -> None:
        with pytest.raises(Deadlock) as caught:
            await first(2)
        assert str(caught.value) == (
            "await of first was called inside a batch of second, and first waits for that batch: "
            'use "await first.batch([...])" there'
        )

    asyncio.run(main())


BLOCKING: dict[str, tuple[Callable[[Any], object], str]] = {
    "result()": (lambda f: f(1).result(), "await embed(...)"),
    "flush()": (lambda f: (f(1), f.flush()), "await embed.aflush()"),
    "close()": (lambda f: (f(1), f.close()), "await embed.aclose()"),
    "map()": (lambda f: list(f.map([1])), "async for ... in embed.amap(...)"),
}


@pytest.mark.parametrize("call", BLOCKING)
def test_the_message_on_the_loop_that_must_run_the_batch(call: str) -> None:
    @batched(name="embed")
    async def f(items: list[int]) -> list[int]:
        return items

    async def main() -> None:
        act, instead = BLOCKING[call]
        with pytest.raises(Deadlock) as caught:
            act(f)
        assert str(caught.value) == (
            f'{call} of embed was called on the event loop that must run embed: use "{instead}"'
        )
        assert await f(2) == 2

    asyncio.run(main())


@pytest.mark.parametrize("call", ["aflush", "aclose"])
def test_the_message_of_a_flush_inside_a_batch(call: str) -> None:
    @batched(name="embed")
    async def f(items: list[int]) -> list[Any]:
        await getattr(f, call)()
        return items

    async def main() -> None:
        with pytest.raises(Deadlock) as caught:
            await f(1)
        assert str(caught.value) == (
            f"{call}() of embed was called inside a batch of embed, for which it would wait: "
            f"call it outside of the batch"
        )

    asyncio.run(main())


# ---- stalls that cannot be proven ----


def test_a_stall_that_cannot_be_proven_is_logged_once(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("batchify.progress.PATIENCE", 0.05)
    logged = asyncio.Event()

    async def through_an_event(f: Any, n: int) -> Any:
        async def set_when_done() -> None:
            await f(n)
            event.set()

        event = asyncio.Event()
        tasks = [asyncio.create_task(set_when_done()) for _ in range(2)]
        waits = asyncio.create_task(event.wait())
        await asyncio.wait(
            [waits, asyncio.create_task(logged.wait())], return_when="FIRST_COMPLETED"
        )
        for task in (*tasks, waits):
            task.cancel()
        return "rescued"

    f = calling_itself(through_an_event)

    async def main() -> None:
        future = f(1)
        while not caplog.records:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.2)
        logged.set()
        assert await future == "rescued"

    with caplog.at_level(logging.WARNING, "batchify"):
        asyncio.run(main())
    [record] = caplog.records
    assert record.levelname == "WARNING"
    assert record.getMessage().startswith("embed: no batch has ended for")


def test_a_slow_batch_with_busy_callers_is_not_logged(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("batchify.progress.PATIENCE", 0.01)

    @batched(size=1)
    async def slow(items: list[int]) -> list[int]:
        await asyncio.sleep(0.1)
        return items

    async def main() -> None:
        assert await asyncio.gather(*(slow(n) for n in range(4))) == list(range(4))

    asyncio.run(main())
    assert not caplog.records
