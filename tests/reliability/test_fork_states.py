"""Forks in every state of the parent: contract 6."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import pytest

from batchify import BatchFuture, Closed, batched
from tests.limits import LIMIT
from tests.manual import in_thread, until
from tests.reliability.forks import Used, ends_of, in_child

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_fork_while_idle(kind: str) -> None:
    used = Used(kind)
    done = used.f("before")
    assert done.result(LIMIT) == ("done", "before")

    def child() -> Any:
        used.works_in_child()
        return done.result(0)

    assert in_child(child) == ("done", "before")
    assert used.f("after").result(LIMIT) == ("done", "after")
    assert used.ran == ["used", "before", "after"]


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_fork_while_items_linger(kind: str) -> None:
    used = Used(kind, linger=1000)
    futures = [used.f(n) for n in range(3)]

    def child() -> list[str]:
        ends = ends_of(futures)
        used.works_in_child()
        return ends

    assert in_child(child) == ["Forked"] * 3
    assert used.f.stats().pending == 3
    used.f.flush(LIMIT)
    assert [future.result(0) for future in futures] == [("done", n) for n in range(3)]
    assert used.ran == ["used", 0, 1, 2]


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_fork_in_the_middle_of_a_batch(kind: str) -> None:
    used = Used(kind, size=2)
    futures = used.shut(*range(5))

    def child() -> list[str]:
        ends = ends_of(futures)
        used.works_in_child()
        return ends

    assert in_child(child) == ["Forked"] * 5
    assert used.f.stats().running
    used.is_open = True
    used.f.flush(LIMIT)
    assert [future.result(0) for future in futures] == [("done", n) for n in range(5)]
    assert used.ran == ["used", *range(5)]


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_fork_while_a_producer_is_blocked_on_a_full_queue(kind: str) -> None:
    used = Used(kind, size=1, capacity=2)
    futures = used.shut(0, 1)
    blocked = in_thread(used.f, 2)
    until(lambda: used.f.stats().submitted == 4)

    def child() -> list[str]:
        ends = ends_of(futures)
        used.works_in_child()
        return ends

    assert in_child(child) == ["Forked"] * 2
    assert not blocked.is_done()
    used.is_open = True
    futures.append(blocked.result())
    assert [future.result(LIMIT) for future in futures] == [("done", n) for n in range(3)]
    assert used.ran == ["used", 0, 1, 2]


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_fork_inside_a_batch(kind: str) -> None:
    """The thread that ran the batch is the child's only one, and no worker any more."""
    other = Used()
    futures: list[BatchFuture[Any]] = []
    told = []

    def child() -> list[str]:
        ends = ends_of(futures)
        assert f.stats() == batched(work).stats()
        assert f("child").result(LIMIT) == ("done", "child")
        other.works_in_child()
        return ends

    def work(items: list[Any]) -> list[Any]:
        if items == ["forks"]:
            until(lambda: len(futures) == 2)
            told.append(in_child(child))
        return [("done", item) for item in items]

    async def awork(items: list[Any]) -> list[Any]:
        return work(items)

    f = batched(work if kind == "def" else awork, size=1)
    futures.append(f("forks"))
    futures.append(f("waits"))
    assert [x.result(LIMIT) for x in futures] == [("done", "forks"), ("done", "waits")]
    assert told == [["Forked", "Forked"]]


def test_fork_inside_a_callback() -> None:
    used = Used(size=1)
    first, second = used.shut(1, 2)
    told = []

    def child() -> list[str]:
        ends = [type(first.exception(0)).__name__, *ends_of([second])]
        used.works_in_child()
        return ends

    first.add_done_callback(lambda _: told.append(in_child(child)))
    used.is_open = True
    assert second.result(LIMIT) == ("done", 2)
    assert told == [["NoneType", "Forked"]]


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_fork_on_a_running_loop(kind: str) -> None:
    used = Used(kind, linger=1000, capacity=70)

    async def main() -> list[str]:
        futures = [used.f(n) for n in range(64)]  # a full batch, that runs
        used.is_open = False
        while len(used.ran) < 65:
            await asyncio.sleep(0)
        futures += [used.f(n) for n in range(64, 75)]  # some that wait, some without capacity

        def child() -> list[str]:
            ends = ends_of(futures)
            used.works_in_child()
            return ends

        told = in_child(child)
        used.is_open = True
        await used.f.aflush(LIMIT)
        assert [await future for future in futures] == [("done", n) for n in range(75)]
        return told

    told = asyncio.run(main())
    assert told == ["Forked"] * 75
    assert used.ran == ["used", *range(75)]


def test_a_child_may_run_new_loops() -> None:
    used = Used("async def")

    async def main(who: str) -> Any:
        return await asyncio.gather(*(used.f((who, n)) for n in range(3)))

    asyncio.run(main("parent"))

    def child() -> Any:
        return asyncio.run(main("child")), used.f.stats().accepted

    assert in_child(child) == ([("done", ("child", n)) for n in range(3)], 3)
    assert asyncio.run(main("parent"))[2] == ("done", ("parent", 2))


def test_a_child_forks_again() -> None:
    used = Used(linger=1000)
    mine = used.f("parent")

    def child() -> Any:
        theirs = used.f("child")

        def grandchild() -> list[str]:
            ends = ends_of([mine, theirs])
            used.works_in_child()
            return ends

        told = in_child(grandchild)
        used.f.flush(LIMIT)
        return told, theirs.result(0)

    assert in_child(child) == (["Forked"] * 2, ("done", "child"))
    used.f.flush(LIMIT)
    assert mine.result(0) == ("done", "parent")


def test_an_engine_that_closes_can_be_started_in_the_child() -> None:
    used = Used()
    futures = used.shut(1)
    closing = in_thread(used.f.close)
    until(lambda: is_refused(used.f))

    def child() -> list[str]:
        used.f.start()
        used.is_open = True
        assert used.f("child").result(LIMIT) == ("done", "child")
        return ends_of(futures)

    assert in_child(child) == ["Forked"]
    used.is_open = True
    closing.result()
    assert futures[0].result(0) == ("done", 1)


def is_refused(f: Any) -> bool:
    try:
        f("probe").cancel()
    except Closed:
        return True
    return False
