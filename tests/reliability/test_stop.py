"""`flush` and `close` from everywhere return or raise, and never hang: C-12 of the hazards."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import threading
from collections.abc import Callable
from typing import Any

import pytest

from batchify import BatchFuture, Closed, Deadlock, batched
from tests.limits import LIMIT
from tests.manual import Gated, in_thread, until

STOPS: dict[str, Callable[[Any], Any]] = {
    "flush": lambda f: f.flush(),
    "flush in time": lambda f: f.flush(2 * LIMIT),
    "close": lambda f: f.close(),
    "close in time": lambda f: f.close(2 * LIMIT),
    "cancel": lambda f: f.close(cancel=True),
}
every_stop = pytest.mark.parametrize("stop", STOPS)


def outcome(stop: str, f: Any) -> str:
    """Return "returned", or the name of the exception that the call raised."""
    try:
        STOPS[stop](f)
    except (Deadlock, TimeoutError) as error:
        return type(error).__name__
    return "returned"


def make(kind: str, work: Callable[[list[Any]], None], **options: Any) -> Any:
    async def awork(items: list[Any]) -> None:
        work(items)

    return batched(awork if kind == "async def" else work, **options)


def check_after(f: Any, told: str, stop: str) -> None:
    """Check that a close closes if it returns, and else leaves it open."""
    if told == "returned" and not stop.startswith("flush"):
        with pytest.raises(Closed):
            f("late")
        f.start()
    assert f("after").result(LIMIT) is None
    f.close(LIMIT)


# ---- from the engine's own threads ----


@every_stop
@pytest.mark.parametrize("kind", ["def", "async def"])
def test_from_its_own_batch(kind: str, stop: str) -> None:
    """A batch that waits for itself gets `Deadlock`; still open. `cancel` does not wait for it."""
    told: list[str] = []

    def work(items: list[Any]) -> None:
        if items == ["stops"]:
            told.append(outcome(stop, f))

    f = make(kind, work, size=1)
    first = f("stops")
    assert first.exception(LIMIT) is None
    assert told == ["returned" if stop == "cancel" else "Deadlock"]
    check_after(f, told[0], stop)


@every_stop
@pytest.mark.parametrize("kind", ["def", "async def"])
def test_from_its_own_callback(kind: str, stop: str) -> None:
    """The callback occupies its worker; a batch without waiting callers does not count here."""
    told: list[str] = []
    gate = threading.Event()

    def work(items: list[Any]) -> None:
        if items == ["first"]:
            assert gate.wait(LIMIT)

    f = make(kind, work, size=1)
    first = f("first")
    first.add_done_callback(lambda _: told.append(outcome(stop, f)))
    second = f("second")
    gate.set()
    assert isinstance(second.exception(LIMIT), (Closed, type(None)))
    until(lambda: told)
    assert (told == ["returned"]) is (stop == "cancel")
    check_after(f, told[0], stop)


# ---- twice, and at once ----


@every_stop
@pytest.mark.parametrize("kind", ["def", "async def"])
def test_twice(kind: str, stop: str) -> None:
    f = make(kind, lambda items: None, linger=1000)
    futures = [f(n) for n in range(3)]
    assert outcome(stop, f) == outcome(stop, f) == "returned"
    assert all(future.done() for future in futures)
    check = batched(lambda items: None)
    assert outcome(stop, check) == outcome(stop, check) == "returned"  # never used


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_all_at_once(kind: str) -> None:
    """Stop from several threads while others submit and start the function again."""
    is_over = False
    futures: list[BatchFuture[Any]] = []

    def submit() -> None:
        while not is_over:
            with contextlib.suppress(Closed):
                futures.append(f("item"))

    def stop(name: str) -> int:
        rounds = 0
        while not is_over or not rounds:
            assert outcome(name, f) in ("returned", "Deadlock", "TimeoutError")
            f.start()
            rounds += 1
        return rounds

    f = make(kind, lambda items: None, size=3, capacity=20)
    calls = [in_thread(stop, name) for name in STOPS for _ in range(2)]
    calls += [in_thread(submit) for _ in range(2)]
    until(lambda: len(futures) > 300)
    is_over = True
    for call in calls:
        call.result(3 * LIMIT)
    f.close(LIMIT)
    assert all(future.done() for future in futures)
    stats = f.stats()
    assert stats.accepted == stats.succeeded + stats.failed


# ---- after a fork ----


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this platform")
@every_stop
@pytest.mark.parametrize("kind", ["def", "async def"])
def test_after_a_fork(kind: str, stop: str) -> None:
    """With a batch that runs in the parent: nothing to wait for in the child."""
    from tests.reliability.forks import in_child

    gated = Gated()
    f = make(kind, gated, size=1)
    futures = [f(n) for n in range(3)]
    gated.wait_started(1)
    assert in_child(lambda: outcome(stop, f)) == "returned"
    assert not futures[0].done()
    gated.open()
    f.close(LIMIT)
    assert all(future.done() for future in futures)


# ---- from a signal handler, or a finalizer ----


@pytest.mark.parametrize("stop", [*STOPS, "result"])
@pytest.mark.parametrize("kind", ["def", "async def"])
def test_in_the_middle_of_a_call(kind: str, stop: str) -> None:
    """A handler or a finalizer may run while its own thread holds the engine's lock.

    The thread that it waits for would need that lock.
    """
    f = make(kind, lambda items: None, linger=1000)
    waits = f("waits")

    def handler() -> str:
        [engine] = f._scope().engines()
        with engine._lock:  # the interrupted operation
            if stop != "result":
                return outcome(stop, f)
            with pytest.raises(Deadlock):
                waits.result()
            with pytest.raises(Deadlock):
                waits.exception(LIMIT / 2)
            return "Deadlock"

    assert in_thread(handler).result(LIMIT / 3) == "Deadlock"
    assert not waits.done()
    f.close(LIMIT)
    assert waits.result(0) is None
    stats = f.stats()
    assert (stats.accepted, stats.succeeded) == (1, 1)


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs interval timers")
@pytest.mark.parametrize("kind", ["def", "async def"])
def test_from_a_signal_handler_at_any_instant(kind: str) -> None:
    assert threading.current_thread() is threading.main_thread()
    stops = [*STOPS, "result"]
    told: list[str] = []
    made: list[BatchFuture[Any]] = []
    is_inside = False

    def handler(*_: object) -> None:
        nonlocal is_inside
        if is_inside:
            return
        is_inside = True
        try:
            stop = stops[len(told) % len(stops)]
            if stop == "result":
                with contextlib.suppress(Closed):
                    made.append(f("handler"))
                    with contextlib.suppress(Deadlock):
                        made[-1].result()
                told.append("returned")
            else:
                told.append(outcome(stop, f))
                f.start()
        finally:
            is_inside = False

    f = make(kind, lambda items: None, size=5, capacity=50)
    # By CPU time, because pytest-timeout uses the timer for real time.
    before = signal.signal(signal.SIGPROF, handler)
    signal.setitimer(signal.ITIMER_PROF, 0.001, 0.001)
    try:
        while len(told) < 200:
            with contextlib.suppress(Closed):
                made.append(f("item"))
                if len(made) % 5 == 0:
                    made[-1].exception()
                elif len(made) % 11 == 0:
                    f.flush()
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
    assert told.count("returned") > 20
    f.start()
    f.close(LIMIT)
    assert all(future.done() for future in made)
    stats = f.stats()
    assert stats.accepted == stats.succeeded + stats.failed


# ---- again and again ----


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_flushes_that_are_late_leave_nothing_behind(kind: str) -> None:
    """Each waiting stop would have to be notified of every item, more and more as items arrive."""
    gate = Gated()
    f = make(kind, gate, size=1)

    async def aflush() -> None:
        await f.aflush(0)

    futures = [f(n) for n in range(3)]
    gate.wait_started(1)
    for _ in range(100):
        with pytest.raises(TimeoutError):
            f.flush(0)
        with pytest.raises(TimeoutError):
            asyncio.run(aflush())
    watched = futures[0]._engine().watched
    assert [len(watched.get(future, ())) for future in futures] == [0, 0, 0]
    gate.open()
    f.close(LIMIT)


# ---- on a loop ----


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_aclose_twice_and_at_once_and_from_a_batch(kind: str) -> None:
    async def main() -> list[str]:
        told: list[str] = []

        async def stops(items: list[Any]) -> None:
            if items == ["stops"]:
                for stop in (g.aflush(), g.aclose()):
                    try:
                        await stop
                    except Deadlock as error:
                        told.append(type(error).__name__)

        f, g = make(kind, lambda items: None, linger=1000), batched(stops, size=1)
        future = f(1)
        await asyncio.gather(f.aclose(), f.aflush(), f.aclose(), f.aclose(cancel=True))
        assert future.done()
        await f.aclose()
        await g("stops")
        await asyncio.gather(g.aclose(), g.aclose())
        return told

    assert asyncio.run(main()) == ["Deadlock", "Deadlock"]
