"""The engine for `def` at exact instants: threads that look, sleep or start at the same time."""

from __future__ import annotations

import sys
import threading
from threading import get_ident
from typing import Any

import pytest

from batchify import Closed, DeadlineExceeded, batched, waits
from batchify.engine import seam
from batchify.engine.seam import ThreadSeam
from batchify.interpreter import has_gil
from tests.limits import LIMIT
from tests.manual import Gated, batched_with, in_thread, until


def test_routes_without_items_are_forgotten() -> None:
    @batched(size=5)
    def f(items: list[int], key: int) -> list[int]:
        return items

    futures = [f(n, n) for n in range(5000)]
    f.flush(LIMIT)
    assert all(x.done() for x in futures)
    engine = f._scope()
    assert engine.routes == {}
    assert engine.forming.by_kin == {}


@pytest.mark.parametrize("options", [{}, {"capacity": 3}, {"key": abs}], ids=str)
def test_a_call_at_any_line_of_a_close(options: dict[str, Any]) -> None:
    """Calls are accepted and run, or refused, also while `close` empties the queue."""
    accepted = refused = 0
    before_test = sys.gettrace()
    while True:
        f = batched(lambda items: items, linger=None, size=3, **options)
        futures = [f(1)]
        calls: list[Any] = []
        left = accepted + refused

        def trace(frame: Any, event: str, _: Any, f=f, calls=calls) -> Any:
            nonlocal left
            if "batchify" in frame.f_code.co_filename and event == "line":
                left -= 1
                if left < 0 and not calls:
                    sys.settrace(None)
                    engine = f._scope().here()
                    before = len(engine.intake)
                    calls.append(in_thread(f, 2))  # it may wait until `close` releases the lock
                    if has_gil() or not engine._lock._is_owned():  # else it does so at once
                        until(
                            lambda: len(engine.intake) != before or not calls[0].thread.is_alive()
                        )
                    return None
            return trace

        sys.settrace(trace)
        try:
            f.close(LIMIT)
        finally:
            sys.settrace(before_test)
        if not calls:
            break
        try:
            futures.append(calls[0].result())
            accepted += 1
        except Closed:
            refused += 1
        assert [future.result(LIMIT) for future in futures] == [1, 2][: len(futures)]
        stats = f.stats()
        assert (stats.accepted, stats.succeeded, stats.failed) == (len(futures), len(futures), 0)
        assert stats.rejected == 2 - len(futures)
    assert accepted > 20
    assert refused > 20


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_a_worker_that_becomes_free_under_the_look_is_no_deadlock(kind: str) -> None:
    """A batch is about to wait for an item of another function. It reads how many batches run
    there, and before it reads which threads run them, they have ended.
    """
    gated = Gated()
    looking: list[int] = []

    async def coroutine(items: list[Any]) -> list[Any]:
        return gated(items)

    elsewhere: Any = batched(gated if kind == "def" else coroutine)

    @batched
    def f(items: list[int]) -> list[Any]:
        future = elsewhere(items[0])
        looking.append(threading.get_ident())
        return [future.result(LIMIT)]

    class Limits:
        def __init__(self, options: Any) -> None:
            self.options = options

        def __getattr__(self, name: str) -> Any:
            if name == "workers" and looking == [threading.get_ident()]:
                looking.clear()
                gated.open()
                until(lambda: not (engine.batches or getattr(engine, "_tasks", ())))
            return getattr(self.options, name)

    elsewhere(0)
    gated.wait_started(1)
    [engine] = elsewhere._scope().engines()
    engine.options = Limits(engine.options)
    assert f(1).result(LIMIT) == ("done", 1)
    assert not looking


def test_waits_that_were_never_at_once_are_no_deadlock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch is about to wait for a running item of another function. Before it checks whether the
    worker there waits, that worker has finished the item, and waits for the first function in
    its next batch."""
    gated = Gated()

    @batched(size=1)
    def elsewhere(items: list[str]) -> list[Any]:
        return [f("end").result()] if items == ["second"] else gated(items)

    @batched(size=1)
    def f(items: list[str]) -> list[Any]:
        if items == ["end"]:
            return items
        future = elsewhere("first")
        gated.wait_started(1)
        looking.append(threading.get_ident())
        asked.set()
        return [future.result()]

    class Notes(dict[Any, Any]):
        def get(self, holder: Any, default: Any = None) -> Any:
            if looking == [threading.get_ident()] and holder != looking[0]:
                looking.clear()
                gated.open()
                until(lambda: holder in self)
            return super().get(holder, default)

    looking: list[int] = []
    asked = threading.Event()
    monkeypatch.setattr(waits, "_waits_for", Notes())
    begun = f("begin")
    assert asked.wait(LIMIT)
    assert elsewhere("second").result(LIMIT) == "end"
    assert begun.result(LIMIT) == ("done", "first")


def test_a_caller_with_capacity_that_is_not_awake_yet_is_no_deadlock() -> None:
    """A batch waited for capacity of another function. The worker there checks whether it may wait
    for that batch, which has got the capacity by now."""
    gated, looked = Gated(), threading.Event()
    waiting: list[int] = []

    class LateBell(seam.ThreadBell):
        def wait(self, timeout: float | None) -> bool:
            rung = super().wait(timeout)
            return rung and (waiting != [threading.get_ident()] or looked.wait(LIMIT))

    class LateSeam(seam.ThreadSeam):
        bell = staticmethod(LateBell)

    def run(items: list[str]) -> list[str]:
        if items == ["second"]:
            with pytest.raises(TimeoutError):  # not Deadlock
                begun.result(0)
            looked.set()
        return gated(items)

    elsewhere = batched_with(LateSeam(), run, size=1, capacity=1)

    @batched
    def f(items: list[str]) -> list[Any]:
        waiting.append(threading.get_ident())
        return [elsewhere(item) for item in items]

    elsewhere("first")
    gated.wait_started(1)
    begun = f("second")
    until(lambda: waiting and waiting[0] in waits._waits_for)
    gated.open()
    assert begun.result(LIMIT).result(LIMIT) == ("done", "second")


def test_extra_arguments_that_come_and_go_in_many_threads() -> None:
    """Two threads that drop the same extra arguments at once must not end a worker."""

    @batched(workers=4, size=2)
    def f(items: list[int], key: int) -> list[int]:
        return items

    def work(who: int) -> None:
        for n in range(1500):
            future = f(n, n % 3)
            if n % 2:
                future.cancel()

    calls = [in_thread(work, who) for who in range(4)]
    for call in calls:
        call.result(LIMIT)
    f.flush(LIMIT)
    f.close(LIMIT)
    assert f.stats().workers == 0
    assert f._scope().routes == {}


def test_two_starts_at_once_leave_the_collector_on(monkeypatch: pytest.MonkeyPatch) -> None:
    class Collector:
        is_on = False  # another caller is starting a thread

        def isenabled(self) -> bool:
            was_on, self.is_on = self.is_on, True  # and has done so before this one continues
            return was_on

        def enable(self) -> None:
            self.is_on = True

        def disable(self) -> None:
            self.is_on = False

    collector = Collector()
    monkeypatch.setattr(seam, "gc", collector)
    seam.THREADS.spawn(lambda: None, (), "a thread").join(LIMIT)
    assert collector.is_on


def test_start_while_no_thread_is_to_be_had() -> None:
    """A call is being submitted when another thread starts the function again."""

    class Refusing(seam.ThreadSeam):
        refusals = 0

        def spawn(self, *args: Any) -> Any:
            if self.refusals:
                self.refusals -= 1
                raise RuntimeError("can't start new thread")
            return seam.THREADS.spawn(*args)

    machine = Refusing()
    f = batched_with(machine, lambda items: items)
    assert f(0).result(LIMIT) == 0
    engine = f._scope().here()
    crowded = engine.crowded

    def start_before(*args: Any) -> Any:
        engine.crowded = crowded
        f.start()
        return crowded(*args)

    f.close(LIMIT)
    machine.refusals, engine.crowded = 2, start_before
    with pytest.raises(RuntimeError, match="new thread"):
        f(1)
    assert machine.refusals == 0
    assert f(2).result(LIMIT) == 2
    assert f.stats().rejected == 1


def test_a_caller_that_looks_while_the_worker_falls_asleep_is_seen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The instant of a lost wake-up: the caller has read the queue length at which it must wake a
    worker, and before it compares, the busy worker becomes idle and sleeps."""
    if not has_gil():
        pytest.skip("there the caller reads under the lock: see test_interpreter")
    gated = Gated()
    f = batched(gated, capacity=None)
    futures = [f(0)]
    gated.wait_started(1)
    [engine] = f._scope().engines()
    me, is_armed = threading.get_ident(), True

    def read(self: Any) -> int:
        nonlocal is_armed
        need: int = self.__dict__["need"]
        if is_armed and threading.get_ident() == me:
            is_armed = False
            gated.open()
            until(lambda: engine._idle)
        return need

    def write(self: Any, need: int) -> None:
        self.__dict__["need"] = need

    monkeypatch.setattr(type(engine), "need", property(read, write), raising=False)
    futures.append(f(1))
    assert not is_armed
    assert [future.result(LIMIT) for future in futures] == [("done", 0), ("done", 1)]


@pytest.mark.parametrize("when", ["before it is asked for", "before it is noted"])
def test_a_callback_waits_for_an_item_that_is_ending(
    when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread runs callbacks one after the other, so none of them must be what wakes it."""
    gated = Gated()
    g = batched_with(ThreadSeam(), gated, workers=1)
    other = g(1)
    gated.wait_started(1)
    engine = g._scope()
    waiting: list[int] = []

    def end_it() -> None:
        if get_ident() in waiting:
            waiting.clear()
            gated.open()
            until(lambda: other.done() and not engine.batches)

    class Watched(dict[Any, Any]):
        def get(self, key: Any, default: Any = None) -> Any:
            found = super().get(key, default)
            end_it()
            return found

    if when == "before it is noted":
        engine.watched = Watched()
    else:
        real = engine.refuse_to_wait
        monkeypatch.setattr(engine, "refuse_to_wait", lambda: (real(), end_it()))
    got: list[Any] = []

    def callback(_: Any) -> None:
        waiting.append(get_ident())
        got.append(other.result())

    f = batched(lambda items: items)
    gate = f(0)
    gate.add_done_callback(callback)
    gate.result(LIMIT)
    until(lambda: got == [("done", 1)])


def test_a_deadline_of_zero_has_passed_for_an_item_that_arrives_during_a_dispatch() -> None:
    gated = Gated()
    f = batched_with(ThreadSeam(), gated, workers=1)
    f.options(priority=1)("busy")
    gated.wait_started(1)
    engine = f._scope()
    late: list[Any] = []
    real = engine.forming.accept

    def accept() -> Any:
        if not late and get_ident() in engine._worker_idents:
            route, terms = engine.way(gated, "late", (), {}, lambda: f, deadline=0.0)
            late.append(engine._future("late", route))
            late[0]._terms = terms
            engine.intake.append(late[0])
        return real()

    first = f("first")
    engine.forming.accept = accept
    gated.open()
    assert first.result(LIMIT) == ("done", "first")
    assert isinstance(late[0].exception(LIMIT), DeadlineExceeded)
