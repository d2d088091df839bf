"""Options can be changed from batches, callbacks, loops, threads and signal handlers."""

from __future__ import annotations

import asyncio
import concurrent.futures
import random
import signal
import threading
from collections.abc import Callable
from typing import Any

import pytest

from batchify import batched
from tests.gates import eager_switches, echo, echo_of, flat, gated_of, store_class
from tests.limits import LIMIT
from tests.manual import Gated, in_thread, until


def test_limits_are_set_from_inside_a_batch_function(kind: str) -> None:
    seen: list[list[int]] = []

    def work(items: list[int]) -> list[int]:
        seen.append(list(items))
        f.size = 2
        f.linger = 0
        f.workers = 2
        f.capacity = 20
        return items

    async def awork(items: list[int]) -> list[int]:
        return work(items)

    f = batched(work if kind == "def" else awork, size=5, linger=None)
    futures = [f(n) for n in range(8)]
    assert [future.result(LIMIT) for future in futures] == list(range(8))
    assert seen[0] == [0, 1, 2, 3, 4]
    assert sorted(flat(seen)) == list(range(8))
    assert max(map(len, seen[1:])) <= 2
    assert (f.size, f.linger, f.workers, f.capacity) == (2, 0.0, 2, 20)


def test_limits_are_set_from_a_done_callback(kind: str) -> None:
    f = batched(echo_of(kind), size=2, linger=None)
    first, second, third = f(1), f(2), None

    def callback(_: Any) -> None:
        f.size = 1

    first.add_done_callback(callback)
    first.result(LIMIT)
    second.result(LIMIT)
    until(lambda: f.size == 1)
    third = f(3)
    assert third.result(LIMIT) == 3


def test_limits_are_set_from_a_loop_and_from_other_threads(kind: str) -> None:
    """Items that wait on a loop notice an option set by a thread, and the reverse."""
    gated = gated_of(kind, is_open=True)
    f = batched(gated, linger=None)

    async def main() -> None:
        future = f(1)
        await asyncio.to_thread(setattr, f, "linger", 0)
        assert await asyncio.wait_for(future, LIMIT) == ("done", 1)
        f.linger = None
        far = await asyncio.to_thread(f, 2)
        f.linger = 0
        assert await asyncio.wait_for(asyncio.to_thread(far.result, LIMIT), LIMIT) == ("done", 2)
        f.linger = None
        near, cap = f(3), f.size
        await asyncio.to_thread(setattr, f, "size", 1)
        assert await asyncio.wait_for(near, LIMIT) == ("done", 3)
        f.size = cap

    asyncio.run(main())


@pytest.mark.timeout(method="thread")  # the test takes the timer that ends other tests
@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs interval timers")
def test_limits_are_set_from_a_signal_handler() -> None:
    calls = 0

    def handler(*_: Any) -> None:
        nonlocal calls
        calls += 1
        f.size = 1 + calls % 7
        f.linger = (0, 0.0005)[calls % 2]
        f.workers = 1 + calls % 3
        f.capacity = (None, 10, 200)[calls % 3]
        signal.setitimer(signal.ITIMER_PROF, 0.0005)  # one after the other, even if it is slow

    f = batched(echo, size=5, workers=2, capacity=200)
    # By CPU time, because pytest-timeout uses the timer for real time.
    before = signal.signal(signal.SIGPROF, handler)
    futures: list[Any] = []
    signal.setitimer(signal.ITIMER_PROF, 0.0005)
    try:
        while calls < 50:
            future = f(len(futures))
            futures.append(future)
            if len(futures) % 3 == 0:
                assert future.result(LIMIT) == len(futures) - 1
            elif len(futures) % 100 == 1:
                f.flush(LIMIT)
            f.stats()
    finally:
        signal.signal(signal.SIGPROF, signal.SIG_IGN)  # first: a handler may be about to set it
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
    f.flush(LIMIT)
    assert [future.result(0) for future in futures] == list(range(len(futures)))
    assert f.size == 1 + calls % 7
    assert f.workers == 1 + calls % 3


class Meanwhile:
    """A number whose check runs other code, as a signal handler may at any instant."""

    then: Callable[[], None]

    def __index__(self) -> int:
        self.then()
        return 7


def test_a_handler_that_sets_one_option_while_another_is_being_set() -> None:
    f = batched(echo)
    f(0).result(LIMIT)
    value = Meanwhile()
    workers = 1

    def then() -> None:
        nonlocal workers
        workers += 1
        f.workers = workers

    value.then = then
    f.size = value
    assert workers > 1
    assert (f.size, f.workers) == (7, workers)


def test_threads_that_set_different_options_lose_none() -> None:
    f = batched(echo, size=1, linger=1, workers=1, capacity=10**6)
    f(0)
    f.flush(LIMIT)
    rounds = 300
    gate = threading.Barrier(3)
    lost: list[Any] = []

    def work(option: str) -> None:
        for n in range(1, rounds):
            gate.wait(LIMIT)
            setattr(f, option, n)
            gate.wait(LIMIT)
            if getattr(f, option) != n:
                lost.append((option, n))

    with eager_switches():
        calls = [in_thread(work, option) for option in ("size", "linger", "workers")]
        for call in calls:
            call.result(LIMIT)
    assert lost == []


def test_a_bound_method_is_set_for_its_instance_alone(kind: str) -> None:
    gated = gated_of(kind, is_open=True)
    store = store_class(kind, gated, size=10, linger=None)
    one, two = store(), store()
    ones, twos = [one.insert(n) for n in range(3)], [two.insert(n) for n in range(3)]
    one.insert.size = 3
    concurrent.futures.wait(ones, LIMIT)
    assert gated.batches == [[0, 1, 2]]
    assert not any(future.done() for future in twos)
    assert (one.insert.size, two.insert.size, store.insert.size, store().insert.size) == (
        3, 10, 10, 10,
    )  # fmt: skip
    two.insert.flush(LIMIT)


def test_a_method_is_set_on_the_class_for_all_instances(kind: str) -> None:
    gated = gated_of(kind, is_open=True)
    store = store_class(kind, gated, size=10, linger=None)
    one, two = store(), store()
    futures = [who.insert(n) for who in (one, two) for n in range(3)]
    store.insert.size = 3
    concurrent.futures.wait(futures, LIMIT)
    assert gated.batches == [[0, 1, 2]] * 2
    new = store()
    assert (one.insert.size, store.insert.size, new.insert.size) == (3, 3, 3)
    later = [new.insert(n) for n in range(3)]
    concurrent.futures.wait(later, LIMIT)
    one.insert.size = 5
    store.insert.size = 7
    assert (one.insert.size, two.insert.size) == (7, 7)


def test_a_class_method_is_set_for_its_class_alone() -> None:
    class Base:
        @batched(size=10, linger=None)
        @classmethod
        def insert(cls, items: list[int]) -> list[int]:
            return items

    class Derived(Base):
        pass

    Base.insert(1), Derived.insert(1)
    Derived.insert.size = 1
    assert Derived.insert(2).result(LIMIT) == 2
    assert (Base.insert.size, Derived.insert.size) == (10, 1)
    Base.insert.flush(LIMIT)


def test_a_value_that_one_instance_must_refuse_is_set_for_none() -> None:
    store = store_class("def", Gated(is_open=True), size=4)
    one, two = store(), store()
    assert [who.insert(1).result(LIMIT) for who in (one, two)] == [("done", 1)] * 2
    one.insert.capacity = 5
    with pytest.raises(ValueError, match="size"):
        store.insert.size = 6
    assert (one.insert.size, two.insert.size, store.insert.size, store().insert.size) == (
        4, 4, 4, 4,
    )  # fmt: skip


def test_limits_that_change_all_the_time(kind: str) -> None:
    """With any limits: nothing hangs, nothing is lost, no batch is too large."""
    largest = 0

    def work(items: list[Any]) -> list[Any]:
        nonlocal largest
        largest = max(largest, len(items))
        return items

    async def awork(items: list[Any]) -> list[Any]:
        return work(items)

    f = batched(work if kind == "def" else awork, size=3, capacity=12)
    over = threading.Event()

    def change() -> None:
        rnd = random.Random(1)
        while not over.is_set():
            f.size = rnd.randint(1, 9)
            f.linger = rnd.choice([0, 0, 0.0005])
            f.workers = rnd.randint(1, 4)
            f.capacity = rnd.choice([9, 12, 50, None])

    def submit(who: int) -> list[Any]:
        return [f.options(priority=n % 2)((who, n)) for n in range(400)]

    changing = in_thread(change)
    calls = [in_thread(submit, who) for who in range(3)]
    futures = [call.result(LIMIT) for call in calls]
    over.set()
    changing.result()
    f.linger = 0
    for who, made in enumerate(futures):
        assert [future.result(LIMIT) for future in made] == [(who, n) for n in range(400)]
    assert largest <= 9
    stats = f.stats()
    assert (stats.accepted, stats.succeeded, stats.rejected) == (1200, 1200, 0)
