"""Calls from finalizers and signal handlers, which may come at any instant: contract 3."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import signal
import sys
import threading
import time
import weakref
from collections.abc import Iterator
from typing import Any

import pytest

from batchify import (
    BatchFuture,
    Closed,
    DeadlineExceeded,
    Deadlock,
    ItemTooHeavy,
    QueueFull,
    Retry,
    batched,
    scopes,
)
from batchify.distribution import Recorder
from batchify.engine import lifecycle
from batchify.engine.seam import ThreadSeam
from tests.limits import LIMIT
from tests.manual import Gated, ManualSeam, batched_with, in_thread, until
from tests.own_process import in_own_process


class Garbage:
    """Garbage in a cycle, whose finalizer submits."""

    def __init__(self, f: Any, item: Any, made: list[Any]) -> None:
        self.me = self
        self.f, self.item, self.made = f, item, made

    def __del__(self) -> None:
        try:
            self.made.append(self.f(self.item))
        except Closed:
            self.made.append(None)
        except Deadlock:  # it ran in a worker, during a batch, when the queue was full
            pass


@pytest.fixture
def busy_collector() -> Any:
    before = gc.get_threshold()
    gc.set_threshold(3, 2, 2)
    yield
    gc.set_threshold(*before)


@pytest.mark.usefixtures("busy_collector")
@pytest.mark.parametrize("capacity", [None, 50])
def test_finalizers_that_submit_at_any_instant(capacity: int | None) -> None:
    made: list[Any] = []
    plain: list[Any] = []
    f = batched(lambda items: list(items), size=7, workers=2, capacity=capacity)

    def work(who: int) -> None:
        for n in range(1500):
            Garbage(f, ("garbage", who, n), made)
            plain.append((("plain", who, n), f(("plain", who, n))))
            if n % 10 == 0:
                f(("cancelled", who, n)).cancel()

    calls = [in_thread(work, who) for who in range(3)]
    for call in calls:
        call.result(LIMIT)
    gc.collect()
    f.flush(LIMIT)
    assert all(future.result(LIMIT) == item for item, future in plain)
    assert {future.result(LIMIT)[0] for future in made} == {"garbage"}
    assert len(made) > 1000
    stats = f.stats()
    assert stats.accepted == stats.succeeded + stats.cancelled
    assert stats.pending == stats.running == 0


@pytest.mark.usefixtures("busy_collector")
def test_finalizers_that_submit_while_it_closes() -> None:
    for _ in range(10):
        made: list[Any] = []
        f = batched(lambda items: list(items), size=3)
        for n in range(50):
            Garbage(f, n, made)
            f(n)
        f.close(LIMIT)
        for n in range(20):
            Garbage(f, n, made)
        gc.collect()
        for future in made:
            if future is not None and not isinstance(future.exception(LIMIT), Closed):
                assert isinstance(future.result(0), int)


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="needs interval timers")
def test_signal_handlers_that_submit_and_raise(monkeypatch: pytest.MonkeyPatch) -> None:
    # In any program an exception of a handler is lost in a finalizer or a weakref callback;
    # pytest's own hook may be interrupted again while it formats that.
    monkeypatch.setattr(sys, "unraisablehook", lambda _: None)
    assert threading.current_thread() is threading.main_thread()
    made: list[BatchFuture[int]] = []
    interrupts = 0

    class Interrupt(Exception):
        pass

    def is_in_work(frame: Any) -> bool:
        """Otherwise it would raise between two rounds, where nothing catches it."""
        while frame is not None and frame.f_code is not work.__code__:
            frame = frame.f_back
        return frame is not None

    def handler(_: int, frame: Any) -> None:
        nonlocal interrupts
        interrupts += 1
        made.append(f(-interrupts))
        if interrupts % 2 and is_in_work(frame):
            raise Interrupt

    f = batched(lambda items: list(items), size=5, workers=2, capacity=200)
    kept: list[BatchFuture[int]] = []
    n = 0

    def work() -> None:
        nonlocal n
        while interrupts < 200:
            n += 1
            future = f(n)
            kept.append(future)
            if n % 3 == 0:
                assert future.result(LIMIT) == n
            elif n % 7 == 0:
                future.cancel()

    # By CPU time, because pytest-timeout uses the timer for real time.
    before = signal.signal(signal.SIGPROF, handler)
    signal.setitimer(signal.ITIMER_PROF, 0.0005, 0.0005)
    try:
        while interrupts < 200:
            with contextlib.suppress(Interrupt):
                work()
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
    f.flush(LIMIT)
    assert all(future.done() for future in made + kept)
    f.close(LIMIT)
    stats = f.stats()
    assert stats.accepted == stats.succeeded + stats.cancelled


class Interrupting(ManualSeam):
    """A seam whose clock runs other code first when it is read under the engine's lock."""

    def __init__(self) -> None:
        super().__init__()
        self.todo: list[Any] = []
        self.engine: Any = None

    def clock(self) -> float:
        if self.todo and self.engine._lock._is_owned():
            self.todo.pop()()
        return super().clock()


def test_the_deadline_of_a_call_from_within_a_call_counts() -> None:
    seam, made = Interrupting(), []
    f = batched_with(seam, lambda items: items, linger=None)
    seam.engine = f._scope()
    f.options(deadline=100)("first")
    seam.rest()
    seam.todo.append(lambda: made.append(f.options(deadline=5)("inner")))
    outer = f.options(deadline=200)("outer")
    assert len(made) == 1
    seam.advance(5)
    assert type(made[0].exception(LIMIT)) is DeadlineExceeded
    f.flush(LIMIT)
    assert outer.result(LIMIT) == "outer"


def test_a_nested_call_may_wait_for_capacity_and_notices_a_close() -> None:
    """A caller has its future, so it must be settled here."""
    seam, gated, made = Interrupting(), Gated(), []
    f = batched_with(seam, gated, size=1, capacity=1, workers=2)
    seam.engine = f._scope()
    first = f("first")
    gated.wait_started(1)
    seam.todo.append(lambda: made.append(f("inner")))
    with pytest.raises(QueueFull):
        f.submit_nowait("outer")
    [inner] = made
    stats = f.stats()
    assert (stats.submitted, stats.accepted, stats.rejected) == (3, 1, 1)
    closing = in_thread(f.close)
    assert type(inner.exception(LIMIT)) is Closed
    gated.open()
    closing.result()
    assert first.result(0) == ("done", "first")
    stats = f.stats()
    assert (stats.submitted, stats.accepted, stats.rejected) == (3, 1, 2)


class Interrupt(Exception):
    pass


def interrupt() -> None:
    raise Interrupt


@contextlib.contextmanager
def at(*steps: tuple[str, int, Any]) -> Iterator[list[Any]]:
    """Run actions during calls of the engine in this thread, one after the other.

    Each `act()` runs a number of lines after a function of that name has begun. Return the actions
    that did not run.
    """
    left = list(steps)
    lines = -1

    def trace(frame: Any, event: str, _: Any) -> Any:
        nonlocal lines
        if not left or "batchify" not in frame.f_code.co_filename:
            return None
        if frame.f_code.co_name == "pass_lock":  # a trace function can raise where no handler could
            return None
        name, line, act = left[0]
        if lines < 0 and event == "call" and frame.f_code.co_name == name:
            lines = 0
        elif lines >= 0 and event == "line":
            lines += 1
        if lines > line or lines == line == 0:
            lines = -1
            del left[0]
            sys.settrace(None)
            act()
            sys.settrace(trace)
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        yield left
    finally:
        sys.settrace(before)


# Each test that interrupts calls runs in a separate process: CPython may continue to handle the
# exception of a trace function, and make it the context of all later exceptions in the thread.


@pytest.mark.parametrize("options", [{}, {"key": str}], ids=str)
@pytest.mark.parametrize("begin", ["_have_wait", "hasten"])
def test_a_call_from_within_a_call_is_not_lost_by_a_handler_that_raises(
    begin: str, options: dict[str, Any]
) -> None:
    in_own_process("test_reentry", f"_lose_no_call({begin!r}, {bool(options)})")


def _lose_no_call(begin: str, is_keyed: bool) -> None:
    """Interrupt each line of the dispatch of a call whose future is known."""
    options: dict[str, Any] = {"key": str} if is_keyed else {}
    for line in range(1000):
        gated, made = Gated(), []
        f = batched(gated, size=1, capacity=1, **options)
        f("first")
        gated.wait_started(1)
        nested = (begin, 0, lambda f=f, made=made: made.append(f("inner")))
        with (
            contextlib.suppress(QueueFull, TimeoutError, Interrupt),
            at(nested, ("_look_again", line + 1, interrupt)) as left,
        ):
            f.submit_nowait("outer") if begin == "_have_wait" else f.close(0)
        closing = in_thread(f.close)
        assert type(made[0].exception(LIMIT)) is Closed, line
        gated.open()
        closing.result()
        if left:
            break
    assert line > 20


@pytest.mark.parametrize("options", [{}, {"key": str}], ids=str)
def test_callers_waiting_for_capacity_notice_a_close_that_a_handler_interrupted(
    options: dict[str, Any],
) -> None:
    in_own_process("test_reentry", f"_break_off_a_close({bool(options)})")


def _break_off_a_close(is_keyed: bool) -> None:
    options: dict[str, Any] = {"key": str} if is_keyed else {}
    for line in range(1000):
        gated = Gated()
        f = batched(gated, size=1, capacity=1, **options)
        f("first")
        gated.wait_started(1)
        blocked = in_thread(f, "blocked")
        until(lambda f=f: f.stats().submitted == 2)
        with (
            contextlib.suppress(TimeoutError, Interrupt),
            at(("seal", line + 1, interrupt)) as left,
        ):
            f.close(0)
        closing = in_thread(f.close)
        with pytest.raises(Closed):
            blocked.result()
        gated.open()
        closing.result()
        if left:
            break
    assert line > 20


class Token:
    """A key that one can watch."""


@pytest.mark.parametrize("is_keyed", [True, False])
def test_nothing_is_kept_of_calls_that_a_handler_broke_off(is_keyed: bool) -> None:
    in_own_process("test_reentry", f"_break_off_calls({is_keyed})")


def _break_off_calls(is_keyed: bool) -> None:
    """Make calls with different keys or extra arguments, interrupted at each line."""
    kept: list[weakref.ref[Token]] = []
    f: Any
    if is_keyed:
        f = batched(lambda items: items, key=lambda item: item)
    else:
        f = batched(lambda items, extra: items)
    for line in range(1000):
        token = Token()
        kept.append(weakref.ref(token))
        with contextlib.suppress(Interrupt), at(("_submit", line + 1, interrupt)) as left:
            f(token) if is_keyed else f(line, token)
        del token
        if left:
            break
    assert line > 20
    last = ["last"] if is_keyed else ["last", "extra"]
    assert f(*last).result(LIMIT) == "last"
    f.close(LIMIT)  # a worker may still hold its last batch
    gc.collect()
    count = sum(ref() is not None for ref in kept)
    assert not count, f"{count} of {len(kept)} are kept"


def test_a_count_that_a_handler_interrupts_keeps_the_others_correct() -> None:
    in_own_process("test_reentry", "_break_off_a_count()")


def _break_off_a_count() -> None:
    """Interrupted at each line of the code that handles a number for the first time."""
    for line in range(100):
        recorder = Recorder()
        recorder.add([1.0, 3.0])
        with contextlib.suppress(Interrupt), at(("add", line + 1, interrupt)) as left:
            recorder.add([2.0])
        recorder.add([3.0, 4.0])
        found = recorder.distribution()
        twos = found.count - 4
        assert twos in (0, 1), line
        assert [found.quantile(n / found.count) for n in range(1, found.count + 1)] == [
            1.0, *[2.0] * twos, 3.0, 3.0, 4.0,
        ], line  # fmt: skip
        if left:
            break
    assert line > 3


def test_a_call_in_the_middle_of_stats_is_looked_at() -> None:
    f = batched(lambda items: items)
    made: list[Any] = []
    with at(("_worker_count", 0, lambda: made.append(f(1)))):
        f.stats()
    assert made[0].result(LIMIT) == 1


def test_a_call_in_the_middle_of_one_that_comes_late_is_refused() -> None:
    """No later call happens to dispatch the items of a closed function."""
    f = batched(lambda items: items, linger=None)
    made: list[Any] = []
    with at(
        ("crowded", 0, lambda: in_thread(f.close).result()),
        ("_come_late", 0, lambda: made.append(f("inner"))),
    ):
        assert f("outer").result(LIMIT) == "outer"
    assert type(made[0].exception(LIMIT)) is Closed


def test_a_call_that_is_refused_in_the_middle_of_a_change_does_not_look() -> None:
    """At any line, when another call was just recorded for a later dispatch."""
    made: list[Any] = []

    def call_twice(f: Any) -> None:
        made.append(f("inner"))
        with contextlib.suppress(ItemTooHeavy):
            f("too heavy")

    for line in range(1000):
        f = batched(lambda items: items, linger=None, weight=len, max_weight=5)
        futures = [f("a"), f("b")]
        with at(("_move", line, lambda f=f: call_twice(f))) as left:
            f.flush(LIMIT)
        f.flush(LIMIT)
        if left:
            break
        futures += made
        made.clear()
        assert [future.result(0) for future in futures] == ["a", "b", "inner"], line
        stats = f.stats()
        assert (stats.submitted, stats.rejected, stats.succeeded) == (4, 1, 3), line
    assert line > 20


def test_two_calls_in_the_middle_of_a_change_are_both_looked_at() -> None:
    f = batched(lambda items: items, size=2, linger=None)
    f(0)
    f.flush(LIMIT)
    made: list[Any] = []
    with at(
        ("force", 0, lambda: made.append(f(1))),
        ("_have_future_wait", 0, lambda: made.append(f(2))),
    ):
        f._scope().push()
    assert [future.result(LIMIT) for future in made] == [1, 2]


async def _who_waits_is_cancelled_while_a_close_seals() -> None:
    gated = Gated()
    f = batched(gated, size=1, capacity=1)
    f("first")
    await asyncio.to_thread(gated.wait_started, 1)
    waiting = f("second")
    with pytest.raises(TimeoutError), at(("_forget_about", 0, waiting.cancel)):
        f.close(0.01)
    assert waiting.cancelled()
    stats = f.stats()
    assert (stats.submitted, stats.accepted, stats.rejected) == (2, 1, 0)
    gated.open()


def test_a_waiting_call_is_cancelled_while_a_close_seals() -> None:
    asyncio.run(_who_waits_is_cancelled_while_a_close_seals())


def broken_off(work: Any, engine: Any, after: int) -> bool:
    """Do `work`, and raise at line number `after` of those that move items.

    Return False if there are fewer lines.
    """
    lines = 0

    def local(frame: Any, event: str, arg: Any) -> Any:
        nonlocal lines
        if event == "line" and engine._lock._is_owned():
            lines += 1
            if lines == after:
                raise Interrupt
        return local

    def tracer(frame: Any, event: str, arg: Any) -> Any:
        file = frame.f_code.co_filename
        return local if "forming" in file or file.endswith("running.py") else None

    before = sys.gettrace()
    sys.settrace(tracer)
    try:
        work()
    except Interrupt:
        return True
    finally:
        sys.settrace(before)
    return False


@pytest.mark.parametrize("is_mend_hit", [False, True])
@pytest.mark.parametrize("is_grouped", [False, True])
@pytest.mark.parametrize("is_moved", [False, True])
def test_a_change_that_is_broken_off_is_mended(
    is_grouped: bool, is_moved: bool, is_mend_hit: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The caller that made it repairs it; if that is interrupted too, the next caller does."""
    key = (lambda item: "one") if is_grouped else None
    for after in range(1, 200):
        f = batched_with(
            ManualSeam(), lambda items: items, size=4, linger=None, capacity=6, key=key
        )
        futures = [f(n) for n in range(3)]
        engine = f._scope()
        if is_moved:
            f.capacity = 5
        if is_mend_hit:
            recount, me = type(engine.forming).recount, threading.get_ident()

            def hit(forming: Any, running: int, recount: Any = recount) -> None:
                if threading.get_ident() != me:  # handlers raise in the main thread only
                    recount(forming, running)
                    return
                monkeypatch.undo()
                raise Interrupt

            monkeypatch.setattr(type(engine.forming), "recount", hit)
        was_broken = broken_off(futures[1].cancel, engine, after)
        monkeypatch.undo()
        live = [future for future in futures if not future.done()]
        stats = f.stats()
        assert stats.pending == len(live)
        assert stats.running == 0
        assert stats.accepted == stats.cancelled + len(live)
        for n in range(f.capacity - len(live)):  # no capacity is lost or gained
            live.append(f.submit_nowait(n))
        f.flush(LIMIT)
        assert all(future.done() for future in live)
        f.close(LIMIT)
        if not was_broken:
            return
    raise AssertionError("it never comes to an end")


@pytest.mark.parametrize("kind", ["plain", "moved", "grouped", "chunk"])
def test_a_mend_that_is_broken_off_is_mended(kind: str) -> None:
    """A thread was interrupted between taking and starting a batch, and during the repair too."""
    key = (lambda item: "one") if kind == "grouped" else None
    for after in range(1, 400):
        gated = Gated()
        f = batched_with(ManualSeam(), gated, size=9, linger=0, capacity=9, key=key)
        engine: Any = f._scope()
        futures: list[Any] = [f("busy")]
        gated.wait_started(1)
        if kind == "chunk":
            futures += engine.submit_chunks(gated, [[0, 1, 2]], lambda: f)
        else:
            futures += [f(n) for n in range(3)]
        if kind == "moved":
            f.capacity = 10
        with engine._lock:
            engine._begin()
            assert engine._take().futures == futures[1:]
        was_broken = broken_off(f.stats, engine, after)
        gated.open()
        f.flush(LIMIT)
        assert all(future.done() for future in futures)
        found = [future.result(0) for future in futures[1:]]
        done = [("done", n) for n in range(3)]
        assert found == ([done] if kind == "chunk" else done)
        f.close(LIMIT)
        if not was_broken:
            return
    raise AssertionError("it never comes to an end")


@pytest.mark.parametrize("kind", ["function", "method"])
def test_a_call_in_the_middle_of_the_first_call(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a finalizer or a handler, while the queue is made: both go to the same one."""

    class Owner:
        @batched
        def method(self, items: list[str]) -> list[str]:
            return items

    owner = Owner()
    f = owner.method if kind == "method" else batched(lambda items: items)
    futures: list[BatchFuture[str]] = []
    takes_more = scopes.takes_more

    def interrupted(function: Any) -> bool:
        if not futures:
            monkeypatch.setattr(scopes, "takes_more", takes_more)
            futures.append(f("in between"))
        return takes_more(function)

    monkeypatch.setattr(scopes, "takes_more", interrupted)
    futures.append(f("first"))
    assert [future.result(LIMIT) for future in futures] == ["in between", "first"]
    assert f.stats().succeeded == 2
    f.close(LIMIT)


def test_a_handler_that_raises_where_a_thread_starts_is_heard(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """CPython raises a KeyError instead, when the new thread runs already."""

    class Alarm(Exception):
        pass

    begin = getattr(threading, "_start_joinable_thread", None) and "_start_joinable_thread"
    begin = begin or "_start_new_thread"
    real = getattr(threading, begin)

    def start(*args: Any, **kwargs: Any) -> None:
        monkeypatch.undo()
        known = set(threading._limbo)  # type: ignore[attr-defined]
        real(*args, **kwargs)
        until = time.monotonic() + LIMIT
        while known & set(threading._limbo) and time.monotonic() < until:  # type: ignore[attr-defined]
            time.sleep(0.001)
        raise Alarm

    @batched
    def f(items: list[int]) -> list[int]:
        return items

    monkeypatch.setattr(threading, begin, start)
    with pytest.raises(Alarm) as caught:
        f(1)
    assert caught.value.__context__ is None or not isinstance(caught.value.__context__, KeyError)
    assert f(2).result(LIMIT) == 2
    f.close(LIMIT)


def test_a_map_that_the_collector_closes_in_the_middle_of_a_call() -> None:
    """Its generator is a frame of ours, and no part of the call that holds the lock."""
    gated = Gated()
    f = batched_with(ThreadSeam(), gated, size=2, workers=1, capacity=20)
    engine: Any = f._scope()

    async def main() -> BatchFuture[Any]:
        cycle: list[Any] = [f.map(list(range(18)), window=18)]
        cycle.append(cycle)
        gated.release()
        assert next(cycle[0]) == ("done", 0)
        gated.wait_started(2)
        futures = [f(100 + n) for n in range(4)]  # the whole capacity
        del cycle
        route, terms = engine.way(gated, 200, (), {}, lambda: f)
        # It gets capacity when the next one is cancelled; then the collector is called, in C.
        waiting = engine.submit(route, 200, terms, admitted=gc.collect)
        assert futures[0].cancel()
        return waiting

    gc.disable()
    try:
        waiting = asyncio.run(main())
    finally:
        gc.enable()
    gated.open()
    assert waiting.result(LIMIT) == ("done", 200)
    f.flush(LIMIT)
    assert f.stats().cancelled > 1


class Once:
    """Its finalizer cancels a future."""

    def __init__(self, future: Any) -> None:
        self.future = future

    def __del__(self) -> None:
        self.future.cancel()


@pytest.mark.parametrize(
    ("inside", "act"),
    [
        ("accept", lambda f: None),  # in the worker, which looks for a batch
        ("take_chunk", lambda f: None),
        ("force", lambda f: f.flush(LIMIT)),
        ("configure", lambda f: setattr(f, "size", 2)),
    ],
)
def test_a_finalizer_cancels_many_items_in_the_middle_of_a_change(
    inside: str, act: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    gated = Gated()
    f = batched_with(ThreadSeam(), gated, size=4, workers=1)
    f(0)
    gated.wait_started(1)
    engine = f._scope()
    [chunk] = engine.submit_chunks(gated, [[1, 2, 3, 4]], lambda: f)
    real = getattr(engine.forming, inside)
    left = [chunk]

    def interrupted(*args: Any) -> Any:
        if inside == "take_chunk" and left:
            Once(left.pop())
        given = real(*args)
        if left:
            Once(left.pop())
        return given

    monkeypatch.setattr(engine.forming, inside, interrupted)
    call = in_thread(act, f)
    if inside in ("force", "configure"):  # else in the worker, which takes the chunk
        until(lambda: not left)
    gated.open()
    call.result()
    assert f(5).result(LIMIT) == ("done", 5)
    f.flush(LIMIT)
    assert not left
    assert chunk.cancelled()
    stats = f.stats()
    assert (stats.cancelled, stats.succeeded, stats.pending, stats.running) == (4, 2, 0, 0)


@pytest.mark.parametrize("priority", [0, 1])
def test_a_flushed_batch_that_is_broken_off_is_flushed_when_it_runs(priority: int) -> None:
    is_first = True

    def work(items: list[int]) -> list[Any]:
        nonlocal is_first
        retried, is_first = is_first, False
        return [Retry(after=3600.0) if retried else item for item in items]

    f = batched_with(ManualSeam(), work, size=9, linger=5.0, workers=1)
    future = f.options(priority=priority)(1)
    engine: Any = f._scope()
    with engine._lock:
        engine._begin()
        engine._look()
        engine.forming.force()
        batch = engine._take()
        assert batch.is_flushed
        batch.thread = 0  # its worker was interrupted here
    engine._mend()
    engine.push()
    assert future.result(LIMIT) == 1


def making_its_engine(monkeypatch: pytest.MonkeyPatch, act: Any) -> Any:
    """Return a function that calls `act(function)` while its first engine is created."""

    @batched
    async def f(items: list[int]) -> list[int]:
        return items

    f.stats()  # its scope
    register = lifecycle.register

    def registering(engine: Any) -> None:
        monkeypatch.setattr(lifecycle, "register", register)
        act(f)
        register(engine)

    monkeypatch.setattr(lifecycle, "register", registering)
    return f


def test_a_new_engine_that_a_handler_broke_off_is_not_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Otherwise neither an exit nor a fork would know of its items."""

    def interrupt(_: Any) -> None:
        raise KeyboardInterrupt

    f = making_its_engine(monkeypatch, interrupt)
    with pytest.raises(KeyboardInterrupt):
        f(1)
    assert f(2).result(LIMIT) == 2
    assert f._scope().here() in lifecycle.all_engines()
    f.close(LIMIT)


def test_a_function_that_is_closed_while_its_engine_is_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    f = making_its_engine(monkeypatch, lambda f: f.close(LIMIT))
    for n in range(2):
        with pytest.raises(Closed):
            f(n)
    f.start()
    assert f(3).result(LIMIT) == 3
    f.close(LIMIT)


def test_a_loop_is_attended_though_a_handler_broke_that_off() -> None:
    """The remaining items end when it is closed."""
    loop: Any = asyncio.new_event_loop()
    call_later = loop.call_later

    def interrupted(*args: Any, **kwargs: Any) -> Any:
        loop.call_later = call_later
        raise KeyboardInterrupt

    @batched(linger=60)
    async def f(items: list[int]) -> list[int]:
        return items

    async def main() -> Any:
        loop.call_later = interrupted
        with pytest.raises(KeyboardInterrupt):
            f(1)
        return f(2)

    future = loop.run_until_complete(main())
    assert not future.done()
    loop.close()
    gc.collect()
    assert isinstance(future.exception(0), Closed)


def test_a_call_in_the_middle_of_a_cancel_that_is_too_late_is_looked_at() -> None:
    f = batched(lambda items: items, size=2, linger=60)
    future = f("outer")
    engine: Any = f._scope()
    until(lambda: engine._idle)  # else the worker dispatches
    begin = engine._begin
    made: list[Any] = []

    def beginning() -> None:
        engine._begin = begin
        begin()
        assert future.cancel()  # as a finalizer, under the lock
        made.extend([f("one"), f("two")])

    engine._begin = beginning
    assert future.cancel()
    assert [one.result(LIMIT) for one in made] == ["one", "two"]  # no other call looked
    assert f.stats().cancelled == 1
    f.close(LIMIT)


@pytest.mark.parametrize("key", [None, str])
def test_a_cancel_in_the_middle_of_the_same_cancel_counts_once(key: Any) -> None:
    f = batched(lambda items: items, size=3, linger=60, key=key)
    future = f(1)
    f.size = 4  # moves it on from the intake
    engine: Any = f._scope()
    end = engine.forming.end

    def ending(entry: Any, *args: Any) -> Any:
        engine.forming.end = end
        assert entry.cancel()  # as a finalizer, under the lock
        return end(entry, *args)

    engine.forming.end = ending
    assert future.cancel()
    other = f(2)
    stats = f.stats()
    assert (stats.accepted, stats.cancelled, stats.pending) == (2, 1, 1)
    f.flush(LIMIT)
    assert other.result(0) == 2
    f.close(LIMIT)


def test_items_that_are_cancelled_in_the_middle_of_their_take() -> None:
    has_begun, may_end = threading.Event(), threading.Event()

    @batched(size=2, capacity=3)
    def f(items: list[int]) -> list[int]:
        has_begun.set()
        assert may_end.wait(LIMIT)
        return items

    first = f(0)
    assert has_begun.wait(LIMIT)
    futures = [f(1), f(2)]
    calls = []
    for n in (3, 4):  # one gets capacity when the first has ended, the other does not
        calls.append(in_thread(f, n))
        until(lambda n=n: f.stats().submitted == n + 1)  # type: ignore[misc]
    engine: Any = f._scope()
    take = engine.forming.take

    def taking(*args: Any) -> None:
        engine.forming.take = take
        futures[:] = engine.forming.line.entries
        assert [future.cancel() for future in futures] == [True] * 3  # as a finalizer
        take(*args)

    engine.forming.take = taking
    may_end.set()
    assert first.result(LIMIT) == 0
    assert calls[1].result().result(LIMIT) == 4
    assert f.stats().cancelled == 3
    f.close(LIMIT)
