"""`map` inside batches and on running loops: it ends, or it raises `Deadlock` (contract 3)."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import subprocess
import sys
import textwrap
import threading
import time
from typing import Any

import pytest

from batchify import Deadlock, batched
from tests.api.sources import (
    AsyncSource,
    Awaited,
    any_order,
    any_source,
    check_idle,
    done,
    echo,
    run,
)
from tests.limits import LIMIT
from tests.manual import in_thread


@any_source
@any_order
def test_inside_a_batch_of_the_same_function(source: Any, ordered: bool) -> None:
    @batched(size=2)
    def f(items: list[Any]) -> list[Any]:
        if items == ["outer"]:
            return [list(f.map(source(range(5)), ordered=ordered))]
        return items

    with pytest.raises(Deadlock):
        f("outer").result(LIMIT)
    check_idle(f)
    assert f(1).result(LIMIT) == 1


@any_source
@any_order
def test_inside_a_batch_of_the_same_function_with_another_worker(
    source: Any, ordered: bool
) -> None:
    @batched(size=2, workers=2)
    def f(items: list[Any]) -> list[Any]:
        if items == ["outer"]:
            return [sorted(f.map(source(range(5)), ordered=ordered))]
        return items

    assert f("outer").result(LIMIT) == [0, 1, 2, 3, 4]


@any_source
@any_order
def test_inside_a_batch_of_another_function(source: Any, ordered: bool) -> None:
    inner = batched(echo, size=2)
    outer: Any = batched(
        lambda items: [sorted(inner.map(source(range(item)), ordered=ordered)) for item in items]
    )
    assert list(outer.map(range(8))) == [done(range(n)) for n in range(8)]
    check_idle(inner)


@pytest.mark.parametrize("is_async", [False, True], ids=["map", "amap"])
def test_unordered_where_a_later_one_can_end(is_async: bool) -> None:
    """The first waits for the mapping batch, which another one can release: no Deadlock."""
    waits = threading.Event()

    @batched(size=1, workers=2)
    def inner(items: list[str]) -> list[Any]:
        if items == ["first"]:
            future = outer("more")
            waits.set()
            return [future.result()]
        assert waits.wait(LIMIT)
        time.sleep(0.1)  # so that it does wait
        return items

    def work(items: list[str]) -> list[Any]:
        if items == ["more"]:
            return items
        return [next(iter(inner.map(["first", "second"], ordered=False)))]

    async def awork(items: list[str]) -> list[Any]:
        if items == ["more"]:
            return items
        async with contextlib.aclosing(inner.amap(["first", "second"], ordered=False)) as results:
            return [await anext(results)]

    outer: Any = batched(awork if is_async else work, size=1)
    assert outer("map").result(LIMIT) == "second"
    assert inner.stats().failed == 0
    inner.close()
    assert inner.stats().failed == 0


@any_source
@any_order
def test_on_a_thread_with_a_running_loop(source: Any, ordered: bool) -> None:
    f = batched(echo, size=4, capacity=10)

    async def main() -> None:
        got = sorted(f.map(source(range(100)), ordered=ordered, window=25))
        assert got == done(range(100))
        results = f.map(itertools.count())
        next(results)
        results.close()
        assert f.stats().pending == 0

    run(main())
    check_idle(f)


@any_source
@any_order
def test_of_an_async_function_on_its_own_loop(source: Any, ordered: bool) -> None:
    async def main() -> None:
        f: Any = batched(Awaited(is_open=True), size=4)
        with pytest.raises(Deadlock):
            list(f.map(source(range(10)), ordered=ordered))
        assert f.stats().pending == 0
        assert sorted([x async for x in f.amap(range(10))]) == done(range(10))

    run(main())


@pytest.mark.parametrize("source", ["range(5)", "iter(range(5))", "slow()"])
@any_order
def test_amap_inside_a_batch_of_the_same_async_function(source: str, ordered: bool) -> None:
    """Run in a separate process, because a spinning loop could not be stopped."""
    script = f"""
        import asyncio, faulthandler
        from batchify import Deadlock, batched

        faulthandler.dump_traceback_later(3, exit=True)

        async def slow():
            for n in range(5):
                yield n
                await asyncio.sleep(0)

        @batched(size=2)
        async def f(items):
            if items == ["outer"]:
                return [[x async for x in f.amap({source}, ordered={ordered})]]
            return items

        async def main():
            try:
                await f("outer")
            except Deadlock:
                print("Deadlock", f.stats().pending)

        asyncio.run(main())
    """
    ended = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    assert ended.stdout == "Deadlock 0\n", ended.stderr


@any_order
def test_amap_inside_an_async_batch_of_another_function(ordered: bool) -> None:
    async def main() -> None:
        inner: Any = batched(Awaited(is_open=True), size=2)

        @batched
        async def outer(items: list[int]) -> list[Any]:
            return [
                sorted([x async for x in inner.amap(range(item), ordered=ordered)])
                for item in items
            ]

        got = [x async for x in outer.amap(range(8))]
        assert got == [done(range(n)) for n in range(8)]

    run(main())


def test_from_many_loops_and_threads_at_once() -> None:
    f = batched(echo, size=4, capacity=12)

    async def main(items: Any) -> list[Any]:
        return [x async for x in f.amap(items)]

    calls = [in_thread(lambda: asyncio.run(main(range(200)))) for _ in range(3)]
    calls.append(in_thread(lambda: asyncio.run(main(AsyncSource(range(200))))))
    calls.append(in_thread(lambda: list(f.map(range(200)))))
    for call in calls:
        assert call.result() == done(range(200))
    stats = check_idle(f)
    assert stats.accepted == stats.succeeded == 1000
