"""Forks at any instant while other threads work: contract 6."""

from __future__ import annotations

import inspect
import os
import threading
from typing import Any, ClassVar

import pytest

from batchify import BatchFuture, batched, waits
from tests.chaos.process import MAY_FORK, NO_FORK
from tests.limits import LIMIT
from tests.manual import in_thread, until
from tests.reliability.forks import ends_of, in_child

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")


@pytest.mark.skipif(not MAY_FORK, reason=NO_FORK)
def test_forks_at_any_instant_while_threads_submit() -> None:
    class Owner:
        @batched(size=3, capacity=7)
        def method(self, items: list[Any]) -> list[Any]:
            return items

        @batched
        async def amethod(self, items: list[Any]) -> list[Any]:
            return items

    one = Owner()
    is_over = False
    counts = [0, 0, 0]

    def work(who: int) -> None:
        while not is_over:
            futures = [one.method((who, n)) for n in range(10)]
            futures += [Owner().method((who, n)) for n in range(3)]
            futures.append(one.amethod(who))
            futures[9].cancel()
            assert all(x.cancelled() or x.result(LIMIT) for x in [*futures, one.amethod("x")])
            counts[who] += 1

    mine: list[BatchFuture[Any]] = []

    def child() -> Any:
        new = Owner()
        futures = [one.method(1), one.amethod(2), new.method(3), new.amethod(4)]
        pending = [future for future in mine if not future.done()]
        return [future.result(LIMIT) for future in futures], len(pending)

    calls = [in_thread(work, who) for who in (1, 2)]
    try:
        for _ in range(50):
            mine = [one.method(n) for n in range(20)]
            assert in_child(child) == ([1, 2, 3, 4], 0)
            assert [future.result(LIMIT) for future in mine] == list(range(20))
            before = list(counts)
            until(lambda before=before: counts[1] > before[1] and counts[2] > before[2])
    finally:
        is_over = True
    for call in calls:
        call.result()


def test_fork_while_another_thread_makes_the_first_call() -> None:
    """`inspect.signature` is asked by the first call, and may take its time."""
    begun, go_on = threading.Event(), threading.Event()
    parent = os.getpid()

    class Slow:
        @property
        def __signature__(self) -> inspect.Signature:
            if os.getpid() == parent:
                begun.set()
                assert go_on.wait(LIMIT)
            return inspect.Signature(
                [inspect.Parameter("items", inspect.Parameter.POSITIONAL_ONLY)]
            )

        def __call__(self, items: list[Any]) -> list[Any]:
            return items

    f = batched(Slow())
    call = in_thread(lambda: f(1).result(LIMIT))
    assert begun.wait(LIMIT)
    try:
        assert in_child(lambda: f(2).result(LIMIT)) == 2
    finally:
        go_on.set()
    assert call.result() == 1


def test_fork_in_the_middle_of_a_change() -> None:
    """A worker takes a batch and keeps the lock: the fork continues without it."""
    inside, may_go_on, is_over = threading.Event(), threading.Event(), threading.Event()

    @batched
    def f(items: list[int]) -> list[int]:
        assert items == [0] or is_over.wait(LIMIT)
        return items

    assert f(0).result(LIMIT) == 0
    engine = f._scope().here()
    take = engine.forming.take

    def slow(*args: Any) -> Any:
        taken = take(*args)
        inside.set()
        assert may_go_on.wait(LIMIT)
        return taken

    engine.forming.take = slow
    future = f(1)
    assert inside.wait(LIMIT)
    assert in_child(lambda: ends_of([future])) == ["Forked"]
    may_go_on.set()
    is_over.set()
    assert future.result(LIMIT) == 1


def test_fork_while_another_thread_holds_the_lock() -> None:
    f = batched(lambda items: items)
    assert f(1).result(LIMIT) == 1
    lock = f._scope()._lock
    held, let_go = threading.Event(), threading.Event()

    def hold() -> None:
        with lock:
            held.set()
            let_go.wait(LIMIT)

    holder = in_thread(hold)
    assert held.wait(LIMIT)
    try:
        assert in_child(lambda: f(2).result(LIMIT)) == 2
    finally:
        let_go.set()
    holder.result()
    assert f(3).result(LIMIT) == 3


def test_fork_in_the_middle_of_a_change_of_one_that_waits_for_another() -> None:
    """A fork and a thread each hold a lock that the other needs: the fork releases its lock."""
    first = batched(lambda items: items, name="first")
    second = batched(lambda items: items, name="second")
    for f in (first, second):
        assert f(1).result(LIMIT) == 1
        f.flush(LIMIT)
    locks = [f._scope()._lock for f in (first, second)]
    has_begun, has_both = threading.Event(), threading.Event()

    def is_held(lock: Any) -> bool:
        if lock.acquire(blocking=False):
            lock.release()
            return False
        return True

    def hold() -> None:  # as a change of `second` in the middle of which a finalizer calls `first`
        with locks[1]:
            has_begun.set()
            until(lambda: is_held(locks[0]))  # by the fork, which is at `second` by now
            with locks[0]:
                has_both.set()

    holder = in_thread(hold)
    assert has_begun.wait(LIMIT)
    assert in_child(has_both.is_set)
    holder.result()


class Taken(dict[Any, Any]):
    """A dict that is locked in the child, as may happen on a build without a GIL."""

    parent = os.getpid()
    written: ClassVar[list[str]] = []


def _written(name: str) -> Any:
    method = getattr(dict, name)

    def write(self: Taken, *args: Any) -> Any:
        if os.getpid() != self.parent:
            self.written.append(name)
        return method(self, *args)

    return write


for _name in ("__setitem__", "__delitem__", "clear", "pop", "setdefault", "update", "copy"):
    setattr(Taken, _name, _written(_name))


def test_no_dict_that_threads_use_without_our_lock_is_written_to(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The child would wait forever for the lock of the dict."""

    @batched(linger=None)
    def f(items: list[int], extra: int = 0) -> list[int]:
        return items

    for name in ("serving_threads", "serving_tasks", "_waits_for"):
        monkeypatch.setattr(waits, name, Taken(getattr(waits, name)))
    engine = f._scope().here()
    for name in ("routes", "watched", "_ended"):
        setattr(engine, name, Taken(getattr(engine, name)))
    futures = [f(1), f(2, 3)]
    futures[0].add_done_callback(str)

    def child() -> Any:
        ends = ends_of(futures)
        new = f(4)
        f.flush(LIMIT)
        return ends, new.result(0), Taken.written

    assert in_child(child) == (["Forked", "Forked"], 4, [])
    f.close(LIMIT)


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_finding_a_queue_takes_no_lock_of_a_dict(kind: str) -> None:
    """Otherwise a fork may leave it locked, as above. In threads only `get` locks it."""
    taken: list[Any] = []

    class Locked(dict[Any, Any]):
        def get(self, key: Any, default: Any = None) -> Any:
            taken.append(key)
            return super().get(key, default)

    class Owner:
        @batched
        def method(self, items: list[int]) -> list[int]:
            return items

        @batched
        async def amethod(self, items: list[int]) -> list[int]:
            return items

    owner = Owner()
    f = owner.method if kind == "def" else owner.amethod
    assert f(0).result(LIMIT) == 0
    scopes = f._self_parent._self_scopes
    scopes._by_owner = Locked(scopes._by_owner)
    if kind == "async def":
        f._scope()._engines = Locked(f._scope()._engines)
    again = owner.method if kind == "def" else owner.amethod
    assert again(1).result(LIMIT) == 1
    assert taken == []
    f.close(LIMIT)
