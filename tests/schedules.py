"""Schedules: run the engine under a deterministic scheduler, seeded and replayable.

    python -m tests.schedules                                    some of each level
    python -m tests.schedules --schedules 1000000 --jobs 2       a long run
    python -m tests.schedules --scenario entry --level opcode --seed 4711    one, with its switches

Each scenario is the body of a schedule's first thread; `baton` decides which thread runs when. At
the end each item must have ended exactly once, with its own value, and have run at most once. The
counts must agree with that, and no thread may be left.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import gc
import os
import subprocess
import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from contextvars import copy_context
from random import Random
from typing import Any, NamedTuple

from batchify import (
    BatchAborted,
    BatchFuture,
    BatchifyError,
    Closed,
    DeadlineExceeded,
    Deadlock,
    QueueFull,
    Retry,
    RetryExhausted,
    waits,
)
from batchify.decorator import Batched
from batchify.engine import background
from batchify.future import RESULT
from batchify.interpreter import has_gil
from batchify.loopfuture import LoopFuture, Port
from batchify.options import Options
from tests.baton import LEVELS, Broken, Sim, baton, new_lock, run
from tests.manual import batched_with

Scenario = Callable[[Sim], None]
SCENARIOS: dict[str, Scenario] = {}


def scenario(body: Scenario) -> Scenario:
    SCENARIOS[body.__name__.replace("_", "-")] = body
    return body


_options: dict[Any, Options] = {}


def batched_in(sim: Sim, function: Callable[..., Any], **options: Any) -> Batched:
    """Return `batched_with(sim, function, ...)`; its options are checked once for all schedules."""
    key = tuple(sorted(options.items()))
    if key not in _options:
        tracer = sys.gettrace()
        sys.settrace(None)  # else the first schedule would have other steps than the next ones
        _options[key] = batched_with(sim, function, **options)._self_scopes.live.now
        sys.settrace(tracer)
    return Batched(function, _options[key], sim)


class World:
    """A batched function, its callers, and the outcome of every item."""

    def __init__(self, sim: Sim, takes: float = 0.0, **options: Any) -> None:
        self.sim = sim
        self.ran: Counter[Any] = Counter()
        self.batches: list[list[Any]] = []
        self.accepted: list[tuple[Any, BatchFuture[Any]]] = []
        self.refused: Counter[type] = Counter()
        self.poison: set[Any] = set()
        self.fatal: set[Any] = set()
        self.again: Counter[Any] = Counter()  # how often an item must still be retried
        self.may_run: Counter[Any] = Counter()  # more often than once
        self.capacity = options.get("capacity")
        self.f: Any = batched_in(sim, self.function(takes), **options)

    def function(self, takes: float) -> Callable[[list[Any]], list[Any]]:
        # It must not refer to the decorated object.
        sim, ran, batches = self.sim, self.ran, self.batches
        poison, fatal, again = self.poison, self.fatal, self.again

        def function(items: list[Any]) -> list[Any]:
            for item in items:
                ran[item] += 1
            batches.append(list(items))
            sim.step()
            if takes:
                sim.sleep(takes * sim.rng.choice([1, 1, 3]))
            if poison.intersection(items):
                raise ValueError("poison")
            if fatal.intersection(items):
                raise SystemExit
            results: list[Any] = []
            for item in items:
                again[item] -= 1
                is_again = again[item] >= 0
                results.append(Retry() if is_again else ("done", item))
            return results

        return function

    def call(self, item: Any, submit: Callable[[Any], Any] | None = None) -> Any:
        """Submit an item; return the future, or None if the call is refused."""
        try:
            future = (submit or self.f)(item)
        except (Closed, QueueFull) as error:
            self.refused[type(error)] += 1
            return None
        self.accepted.append((item, future))
        if self.capacity is not None:  # an item with a future has capacity
            held = [item for item, future in list(self.accepted) if not future.done()]
            assert len(held) <= self.capacity, f"{held} are held"
        return future

    def ask(self, item: Any, submit: Callable[[Any], Any] | None = None) -> None:
        """Submit an item, and wait for its outcome."""
        future = self.call(item, submit)
        if future is not None:
            self.meet(item, future)

    def meet(self, item: Any, future: Any, timeout: float | None = None) -> str:
        """Wait for the outcome of an item, and check that it is a possible one."""
        try:
            value = future.result(timeout)
        except concurrent.futures.CancelledError:
            assert not self.ran[item], f"{item} was cancelled, and ran"
            return "cancelled"
        except DeadlineExceeded:
            assert not self.ran[item], f"{item} expired, and ran"
            return "expired"
        except TimeoutError:
            assert timeout is not None
            return "late"
        except BatchAborted as error:
            return "failed" if isinstance(error.__cause__, SystemExit) else "wrong"
        except (ValueError, Closed, RetryExhausted) as error:
            return "failed" if isinstance(error, BatchifyError) or self.poison else "wrong"
        assert value == ("done", item), f"{item} got {value}"
        assert self.ran[item] >= 1, f"{item} has a result, and did not run"
        return "succeeded"

    def audit(self) -> None:
        """Check what must hold at any time."""
        stats = self.f.stats()
        capacity = self.f.capacity
        if capacity is not None:
            assert stats.pending + stats.running <= capacity, stats
        assert min(stats.pending, stats.running, stats.workers) >= 0, stats
        assert stats.running <= self.f.size * self.f.workers, stats

    def check(self) -> None:
        """Close, and check the outcomes and counts."""
        self.f.close()
        self.settle_accounts()

    def settle_accounts(self) -> None:
        stats = self.f.stats()
        ends: Counter[str] = Counter()
        for item, future in self.accepted:
            assert future.done(), f"{item} is not done"
            ends[self.meet(item, future)] += 1
        for item, count in self.ran.items():
            assert count <= 1 + self.may_run[item], f"{item} ran {count} times"
        for name in ("succeeded", "failed", "cancelled", "expired"):
            assert getattr(stats, name) == ends[name], (name, ends, stats)
        refused = sum(self.refused.values())
        assert stats.rejected == refused, (stats, self.refused)
        assert stats.accepted == len(self.accepted), stats
        assert stats.submitted == stats.accepted + refused, stats
        assert (stats.pending, stats.running) == (0, 0), stats
        assert stats.batches == len(self.batches), stats
        sizes = [len(batch) for batch in self.batches]
        assert stats.sizes.count == len(sizes), stats
        self.sim.step()

    def go(self, *calls: Callable[[], object]) -> None:
        """Run `calls`, each in a thread, and wait for all."""
        for task in [self.sim.go(call) for call in calls]:
            task.join()

    def asking(self, *items: Any) -> Callable[[], None]:
        """Return a caller that submits one item and waits for it, then the next."""

        def ask() -> None:
            for item in items:
                self.ask(item)

        return ask

    def throwing(self, *items: Any) -> Callable[[], None]:
        """Return a caller that submits all items, then waits for all."""

        def throw() -> None:
            futures = [(item, self.call(item)) for item in items]
            for item, future in futures:
                if future is not None:
                    self.meet(item, future)

        return throw


# ---- the scenarios ----


@scenario
def entry(sim: Sim) -> None:
    """Race callers with workers: no wake-up is lost."""
    choice = sim.rng.choice
    w = World(
        sim,
        takes=choice([0.0, 0.0, 1.0]),
        size=choice([1, 2, 3]),
        workers=choice([1, 2]),
        linger=choice([0.0, 0.0, 1.0]),
        capacity=choice([10_000, 3, None]),
    )
    w.f(("first", 0)).result()  # the engine exists
    w.ran.clear()
    w.batches.clear()
    before = w.f.stats()
    w.go(w.asking("a", "b"), w.throwing("c", "d"), *[w.asking("e")] * choice([0, 1]), w.audit)
    w.f.close()
    after = w.f.stats()
    assert after.succeeded - before.succeeded == len(w.accepted) == sum(w.ran.values())
    assert set(w.ran.values()) == {1}
    for item, future in w.accepted:
        assert future.result() == ("done", item)


@scenario
def first_call(sim: Sim) -> None:
    """Make the first call in several threads at once: one engine, no superfluous thread."""
    workers = sim.rng.choice([1, 2])
    w = World(sim, size=2, workers=workers)

    def count() -> None:
        for _ in range(5):
            assert w.f.stats().workers <= workers

    w.go(w.asking("a", "e"), w.asking("b", "f"), w.throwing("c", "d"), count)
    count()
    w.check()


@scenario
def close_against_submit(sim: Sim) -> None:
    """Race calls with a close: a call is refused, or its item runs."""
    choice = sim.rng.choice
    cancel = choice([False, True])
    w = World(
        sim,
        choice([0.0, 1.0]),
        size=2,
        workers=choice([1, 2]),
        linger=choice([0.0, 5.0]),
        capacity=choice([2, 100]),
    )

    def close() -> None:
        w.f.close(cancel=cancel)
        for _, future in list(w.accepted):
            assert future.done() or future.running()
        if not cancel:
            assert all(future.done() for _, future in list(w.accepted))

    w.go(w.throwing("a", "b"), w.asking("c", "d"), close)
    w.check()


@scenario
def close_with_timeout(sim: Sim) -> None:
    """Give up a slow batch in a close; its late result changes nothing."""
    w = World(sim, 3.0, size=1, workers=sim.rng.choice([1, 2]))

    def close() -> None:
        try:
            w.f.close(timeout=sim.rng.choice([1.0, 3.0, 4.0]))
        except TimeoutError:
            pass
        assert all(future.done() for _, future in list(w.accepted))

    w.go(w.throwing("a", "b"), w.asking("c"), close)
    sim.rest()  # the abandoned batch has ended
    w.f.start()
    w.ask("after")
    w.check()


@scenario
def close_against_close_and_start(sim: Sim) -> None:
    """Race closes and starts: the last one decides, and no item is lost."""
    w = World(sim, sim.rng.choice([0.0, 1.0]), size=2, workers=sim.rng.choice([1, 2]))
    w.go(
        w.throwing("a", "b"),
        w.f.close,
        w.f.start,
        w.asking("c", "d"),
        lambda: w.f.close(cancel=sim.rng.choice([False, True])),
    )
    w.f.close()
    w.f.start()
    w.ask("after")
    assert w.ran["after"] == 1
    w.check()


@scenario
def start_before_the_worker_is_gone(sim: Sim) -> None:
    """Start an engine again while an old worker is still leaving."""
    w = World(sim, size=1)

    def restart() -> None:
        for item in "bcd":
            w.f.start()
            w.ask(item)

    w.go(w.asking("a"), w.f.close, restart)
    w.check()


@scenario
def workers_side_by_side(sim: Sim) -> None:
    """Run two batches that wait for each other at once, whichever thread woke their workers."""
    here = {item: sim.bell() for item in "ab"}

    def function(items: list[str]) -> list[str]:
        here[items[0]].ring()
        here["b" if items[0] == "a" else "a"].wait(None)
        return items

    f = batched_in(sim, function, size=1, workers=2)
    tasks = [sim.go(lambda item=item: f(item).result()) for item in "ab"]
    assert [task.result() for task in tasks] == ["a", "b"]
    f.close()


@scenario
def cancel_against_start(sim: Sim) -> None:
    """Race cancel with start: a cancelled item never runs, any other gets its result."""
    choice = sim.rng.choice
    w = World(
        sim,
        size=choice([1, 2, 3]),
        workers=choice([1, 2]),
        linger=choice([0.0, 1.0]),
        capacity=choice([3, None]),
    )

    def submit_and_cancel(*items: str) -> Callable[[], None]:
        def body() -> None:
            futures = [(item, w.call(item)) for item in items]
            item, future = futures[choice([0, -1])]
            cancel(item, future)
            for item, future in futures:
                w.meet(item, future)

        return body

    def cancel(item: str, future: BatchFuture[Any]) -> None:
        if future.cancel():
            assert future.cancelled()
            assert not w.ran[item]
        else:
            assert future.running() or future.done()

    def cancel_all() -> None:
        for item, future in list(w.accepted):
            cancel(item, future)

    w.go(submit_and_cancel("a", "b", "c"), submit_and_cancel("d"), cancel_all)
    w.check()


def drop_against_submit(sim: Sim) -> None:
    """Drop the decorated object while its items wait: they run, and the threads end."""
    choice = sim.rng.choice
    w = World(
        sim,
        choice([0.0, 1.0]),
        size=choice([1, 2]),
        workers=choice([1, 2]),
        linger=choice([0.0, 1.0]),
    )
    held = [w.f] * 3
    ran = w.ran
    del w.f

    def submit(*items: str, keep: bool) -> Callable[[], None]:
        def body() -> None:
            f = held.pop()
            futures = [f(item) for item in items]
            del f
            if not keep:
                del futures
                gc.collect()  # the engine and its items refer to each other
                return
            for item, future in zip(items, futures, strict=True):
                assert future.result() == ("done", item)

        return body

    def drop() -> None:
        held.pop()
        gc.collect()

    w.go(submit("a", "b", keep=choice([True, False])), submit("c", keep=False), drop)
    sim.rest()
    assert ran == dict.fromkeys("abc", 1), ran


if has_gil():
    # Without a GIL, finalizers run in the thread that created the object, even inside the
    # scheduler, so their order cannot be chosen or repeated.
    scenario(drop_against_submit)


@scenario
def flush_against_submit(sim: Sim) -> None:
    """Race flush with submit: a flush returns when all earlier items are done."""
    choice = sim.rng.choice
    w = World(
        sim,
        choice([0.0, 1.0, 1.0]),
        size=choice([2, 9]),
        linger=None,
        workers=choice([1, 2]),
        capacity=choice([100, None]),
    )

    for item in choice(["", "wxyz"]):
        w.call(item)

    def flush() -> None:
        before = list(w.accepted)
        w.f.flush()
        assert all(future.done() for _, future in before)

    def submit(*items: str) -> Callable[[], None]:
        def body() -> None:
            for item in items:
                w.call(item)

        return body

    w.go(submit("a", "b", "c"), submit("d"), flush, flush)
    w.check()


@scenario
def room_against_release(sim: Sim) -> None:
    """Wait for capacity, some callers with a timeout: no caller is forgotten, no capacity lost."""
    choice = sim.rng.choice
    w = World(
        sim,
        choice([0.0, 1.0]),
        size=choice([1, 2]),
        capacity=2,
        workers=choice([1, 2]),
        linger=choice([0.0, 0.5, None]),
    )

    def patiently(timeout: float, *items: str) -> Callable[[], None]:
        def body() -> None:
            for item in items:
                w.ask(item, w.f.options(timeout=timeout))

        return body

    def nowait() -> None:
        w.call("n", w.f.submit_nowait)

    if w.f.linger is None:
        sim.go(lambda: [sim.sleep(20), w.f.flush(), sim.sleep(20), w.f.close()])
    w.go(
        w.throwing("a", "b", "c", "d"),
        patiently(choice([0.0, 1.0, 2.0]), "e", "f"),
        patiently(1.0, "g"),
        nowait,
        w.audit,
    )
    w.check()


@scenario
def cancel_against_room(sim: Sim) -> None:
    """Cancel items: that frees capacity for waiting callers."""
    w = World(sim, size=2, capacity=2, linger=None)

    def fill() -> None:
        futures = [(item, w.call(item)) for item in "ab"]
        for _, future in futures:
            future.cancel()

    w.go(fill, lambda: w.call("c"), lambda: w.call("d"), w.audit)
    w.check()


@scenario
def room_by_cancel(sim: Sim) -> None:
    """Free capacity at once by a cancel, however long the running batch takes."""
    gate = sim.bell()
    function = gate.wait
    f = batched_in(
        sim,
        lambda items: items if items != ["long"] else [function(None)],
        size=1,
        capacity=2,
        workers=1,
    )
    long = f("long")
    first = f("first")
    second = sim.go(lambda: f("second"), name="second")
    assert first.cancel() == first.cancelled()
    if first.cancelled():
        second.join()
        assert not long.done()
    gate.ring()
    assert long.result() is True
    assert second.result().result() == "second"
    f.close()
    assert f.stats().accepted == 3


@scenario
def deadline_against_start(sim: Sim) -> None:
    """Race start with deadline: an item starts in time, or it expires, never both."""
    choice = sim.rng.choice
    w = World(sim, 1.0, size=choice([1, 2]), capacity=choice([2, 100]), linger=choice([0.0, 1.0]))

    def soon(deadline: float, *items: str) -> Callable[[], None]:
        def body() -> None:
            futures = [(item, w.call(item, w.f.options(deadline=deadline))) for item in items]
            for item, future in futures:
                if future is not None:
                    w.meet(item, future)

        return body

    w.go(soon(choice([0.0, 1.0]), "a", "b"), soon(1.0, "c"), w.throwing("d", "e"))
    w.check()


@scenario
def result_against_settle(sim: Sim) -> None:
    """Race waits with settle: each waiter gets the result or, with a timeout, a TimeoutError."""
    w = World(sim, 1.0, size=sim.rng.choice([1, 2]))
    w.poison.update(sim.rng.choice(["", "a"]))
    futures = [w.call(item) for item in "ab"]

    def wait(timeout: float | None, *order: int) -> Callable[[], None]:
        def body() -> None:
            for n in order:
                if w.meet("ab"[n], futures[n], timeout) == "late":
                    assert timeout is not None

        return body

    def wait_for_both() -> None:
        done, late = concurrent.futures.wait(futures)
        assert len(done) == 2
        assert not late

    w.go(wait(None, 0, 1), wait(1.0, 1, 0), wait(0.0, 0), wait_for_both)
    w.check()


@scenario
def callbacks_against_settle(sim: Sim) -> None:
    """Race callbacks with settle: each is called exactly once, with a finished future."""
    w = World(sim, size=2, workers=sim.rng.choice([1, 2]))
    called: Counter[str] = Counter()

    def watch(name: str, future: BatchFuture[Any]) -> None:
        is_added = False  # else the future is done already, and the thread that adds it calls it

        def callback(given: Any) -> None:
            assert given is future
            called[name] += 1
            if is_added and not all(other.done() for other in in_batch_of(given)):
                called["early"] += 1
            if name == "a1":
                given.add_done_callback(lambda _: called.update(["inner"]))
            if name == "b2":
                raise SystemExit

        with contextlib.suppress(SystemExit):  # if it is done already
            future.add_done_callback(callback)
        is_added = True

    def in_batch_of(future: Any) -> list[Any]:
        item = next(i for i, f in w.accepted if f is future)
        batch = next(b for b in w.batches if item in b)
        return [f for i, f in list(w.accepted) if i in batch]

    def submit(item: str) -> Callable[[], None]:
        def body() -> None:
            future = w.call(item)
            for n in range(2):
                watch(f"{item}{n}", future)
            w.meet(item, future)

        return body

    first = w.call("b")
    w.go(submit("a"), lambda: watch("b2", first), lambda: watch("b3", first))
    w.check()
    assert called == {"a0": 1, "a1": 1, "inner": 1, "b2": 1, "b3": 1}, called


@scenario
def configure_against_all(sim: Sim) -> None:
    """Change limits meanwhile: no item is lost, and the new limits apply at the end."""
    choice = sim.rng.choice
    w = World(
        sim,
        choice([0.0, 1.0]),
        size=choice([2, 3]),
        workers=choice([1, 3]),
        capacity=4,
        linger=choice([0.0, 2.0]),
    )

    def configure() -> None:
        w.f.workers = choice([1, 2])
        w.f.size = choice([1, 2])
        w.f.capacity = choice([2, 5])
        w.f.linger = 0.0

    w.capacity = None
    w.go(w.throwing("a", "b", "c", "d", "e"), w.asking("g", "h"), configure)
    sim.rest()
    w.audit()
    w.check()


@scenario
def workers_against_close(sim: Sim) -> None:
    """Reduce workers, close and start at once: superfluous workers end."""
    w = World(sim, 1.0, size=1, workers=3)

    def fewer() -> None:
        w.f.workers = 1

    def restart() -> None:
        w.f.close()
        w.f.start()

    w.go(w.throwing("a", "b", "c"), fewer, restart)
    w.f.start()
    w.ask("d")
    sim.rest()
    assert w.f.stats().workers <= 1
    w.check()


@scenario
def poison_and_retry(sim: Sim) -> None:
    """Fail and retry items: each failed caller has its own error, and each retry is allowed."""
    choice = sim.rng.choice
    w = World(sim, size=choice([1, 3]), workers=choice([1, 2]), capacity=choice([3, 100]))
    w.poison.update(choice(["", "a", "b"]))
    w.fatal.update(choice(["", "", "c"]))
    for item in "cd":
        w.again[item] = choice([0, 1, 3])
        w.may_run[item] = min(2, w.again[item])
    w.may_run["a"] = w.may_run["b"] = 0
    w.go(
        w.throwing("a", "b", "c"), w.asking("d"), *[lambda: w.f.close(cancel=True)] * choice([0, 1])
    )
    w.check()
    errors = [future.exception() for _, future in w.accepted]
    objects = [id(error) for error in errors if error is not None]
    assert len(set(objects)) == len(objects)


@scenario
def nested(sim: Sim) -> None:
    """Submit to the own function from a batch without waiting: that item runs too."""
    holder: list[Any] = []
    ran: Counter[Any] = Counter()

    def function(items: list[Any]) -> list[Any]:
        ran.update(items)
        sim.step()
        for item in items:
            if item in "abc":
                holder[0](item.upper())
        return items

    f = batched_in(sim, function, size=2, workers=sim.rng.choice([1, 2]))
    holder.append(f)
    tasks = [sim.go(lambda item=item: f(item).result()) for item in "abc"]
    assert [task.result() for task in tasks] == list("abc")
    f.close()
    assert ran == dict.fromkeys("abcABC", 1), ran
    holder.clear()


@scenario
def rings(sim: Sim) -> None:
    """Make batches of two functions wait for each other: one gets `Deadlock`, none hangs."""
    held: dict[str, Any] = {}
    met: Counter[str] = Counter()

    def waits_for(other: str) -> Callable[[list[int]], list[int]]:
        def function(items: list[int]) -> list[int]:
            if items[0] > 0:
                try:
                    held[other](items[0] - 1).result()
                except Deadlock:
                    met["deadlock"] += 1
            return items

        return function

    held["a"] = batched_in(sim, waits_for("b"), size=1)
    held["b"] = batched_in(sim, waits_for("a"), size=1)
    tasks = [sim.go(lambda name=name: held[name](2).result()) for name in "ab"]
    assert [task.result() for task in tasks] == [2, 2]
    held["a"].close()
    held["b"].close()
    assert not waits.serving_threads
    assert not waits._waits_for
    held.clear()


class Loop:
    """The parts of an event loop that a port and the background thread need, run by one thread."""

    def __init__(self, sim: Sim) -> None:
        self.bell = sim.bell()
        self.todo: deque[Any] = deque()
        self.is_stopping = self.has_closed = False

    def call_soon_threadsafe(self, function: Callable[..., Any], *args: Any) -> None:
        if self.has_closed:
            raise RuntimeError("Event loop is closed")
        self.todo.append((function, args))
        self.bell.ring()

    def run_forever(self) -> None:
        while not self.is_stopping or self.todo:
            while self.todo:
                function, args = self.todo.popleft()
                function(*args)
            if not self.is_stopping:
                self.bell.wait(None)
        self.is_stopping = False

    def stop(self) -> None:
        self.is_stopping = True
        self.bell.ring()

    def is_closed(self) -> bool:
        return self.has_closed

    def close(self) -> None:
        self.has_closed = True

    def shutdown_asyncgens(self) -> None:
        return

    def run_until_complete(self, _: object) -> None:
        return


@scenario
def ports(sim: Sim) -> None:
    """Post finished futures to one loop from several threads: each is woken there once."""
    loop: Any = Loop(sim)
    port = Port(loop)
    woken: Counter[int] = Counter()

    def future(n: int) -> LoopFuture[int]:
        one: LoopFuture[int] = LoopFuture()
        one._s = RESULT
        one._callback = lambda _: woken.update([n])
        one._context = copy_context()
        return one

    def post(*numbers: int) -> Callable[[], None]:
        return lambda: [port.post([future(n)], None) for n in numbers] and None

    running = sim.go(loop.run_forever)
    for task in [sim.go(post(1, 2)), sim.go(post(3)), sim.go(post(4, 5))]:
        task.join()
    sim.rest()
    assert woken == dict.fromkeys(range(1, 6), 1), woken
    loop.stop()
    running.join()


@scenario
def background_loop(sim: Sim) -> None:
    """Use the background loop from functions that come and go: each gets a running loop."""

    def use() -> None:
        for _ in range(3):
            home = background.new_home(sim)
            is_run = sim.bell()
            home.port.call(is_run.ring)
            is_run.wait(None)  # forever, on a loop that has ended
            del home

    before = background._lock, background._new_loop, background._background
    background._lock, background._new_loop = new_lock(), lambda: Loop(sim)
    background._background = None  # the loop of an earlier test may not have ended yet
    try:
        for task in [sim.go(use), sim.go(use)]:
            task.join()
        sim.rest()
        assert background._background is None
    finally:
        background._lock, background._new_loop, background._background = before


@scenario
def map_against_all(sim: Sim) -> None:
    """Submit whole batches by `map` while other threads submit, cancel and change the size."""
    choice = sim.rng.choice
    w = World(
        sim,
        choice([0.0, 1.0]),
        size=2,
        workers=choice([1, 2]),
        capacity=choice([4, 100]),
        linger=choice([0.0, 1.0]),
    )
    found: list[Any] = []

    def mapped() -> None:
        found.extend(w.f.map([10, 11, 12, 13, 14]))

    def smaller() -> None:
        w.f.size = 1

    w.go(mapped, w.throwing("a", "b"), *[smaller] * choice([0, 1]))
    assert found == [("done", item) for item in (10, 11, 12, 13, 14)]
    assert all(w.ran[item] == 1 for item in (10, 11, 12, 13, 14))
    w.f.close()
    stats = w.f.stats()
    assert stats.succeeded == 7 == stats.accepted, stats
    assert (stats.pending, stats.running) == (0, 0), stats


@scenario
def map_against_room(sim: Sim) -> None:
    """Share the capacity between whole batches of `map` and single calls."""
    gates = [sim.bell() for _ in range(8)]
    left = list(gates)

    def function(items: list[int]) -> list[int]:
        left.pop().wait(None)
        return items

    f = batched_in(sim, function, size=2, capacity=4, linger=5.0)
    came: list[Any] = []
    found: list[int] = []
    mapped = sim.go(lambda: found.extend(f.map([1, 2, 3, 4])), name="mapped")
    callers = [sim.go(lambda item=item: came.append(f(item))) for item in (10, 11, 12)]
    sim.rest()
    futures = f._scope().here().left()
    alone = [future for future in futures if not future._is_chunk]
    inside = sum(future._count for future in futures if future._is_chunk)
    outside = {id(future) for future in (*alone, *came) if not future.done()}
    assert inside + len(outside) <= 4, (inside, len(outside))
    for gate in gates:
        gate.ring()
    for task in (mapped, *callers):
        task.join()
    assert found == [1, 2, 3, 4]
    assert sorted(future.result() for future in came) == [10, 11, 12]
    f.close()


def first_letter(item: str) -> str:
    return item[0]


def weight_of(item: str) -> float:
    return 1 + len(item) % 2


@scenario
def kinds(sim: Sim) -> None:
    """Submit items with several keys, priorities and weights, and cancel some."""
    choice = sim.rng.choice
    w = World(
        sim,
        choice([0.0, 1.0]),
        size=3,
        workers=choice([1, 2]),
        linger=choice([0.0, 1.0]),
        key=first_letter,
        weight=weight_of,
        max_weight=3,
        capacity=choice([4, 100]),
    )

    def mixed(*items: str) -> Callable[[], None]:
        def body() -> None:
            futures = []
            for n, item in enumerate(items):
                futures.append((item, w.call(item, w.f.options(priority=n % 2))))
            if futures[0][1] is not None and futures[0][1].cancel():
                assert not w.ran[items[0]]
            for item, future in futures:
                if future is not None:
                    w.meet(item, future)

        return body

    w.go(mixed("a1", "b1", "a22"), mixed("b2", "c1"), w.asking("a3"))
    w.check()
    assert all(len({item[0] for item in batch}) == 1 for batch in w.batches)
    assert not w.f._scope().here().routes  # no unused group is kept


# ---- running them ----


class Found(Exception):
    """A failed schedule, with the command that repeats it."""


class Length(NamedTuple):
    """The number of steps of an uninterrupted scenario, in total and in each file."""

    seam: int
    steps: int
    files: dict[str, int]


_lengths: dict[tuple[str, str], Length] = {}


def length_of(name: str, level: str) -> Length:
    key = (name, level)
    if key not in _lengths:
        run(SCENARIOS[name], f"{name}:warm-up", level, 0)  # fill imports and caches
        sim = run(SCENARIOS[name], f"{name}:length", level, 0)
        files = dict(sorted(sim.counts.items()))
        _lengths[key] = Length(sim.steps - sum(files.values()), sim.steps, files)
    return _lengths[key]


def run_one(name: str, level: str, seed: int, is_traced: bool = False) -> Sim:
    """Run one schedule; raise `Found` if it fails."""
    try:
        length = length_of(name, level)
        focus, steps = "", length.steps
        rng = Random(f"{name}:{level}:{seed}:focus")
        if length.files and rng.random() < 0.75:  # all switches in one file, which has fewer places
            focus = rng.choice(list(length.files))
            steps = length.seam + length.files[focus]
        return run(SCENARIOS[name], f"{name}:{level}:{seed}", level, steps, focus, is_traced)
    except Broken as error:
        again = f"python -m tests.schedules --scenario {name} --level {level} --seed {seed}"
        raise Found(f"{again}\n{error}") from None


def explore(
    level: str, count: int, first: int = 0, names: Iterable[str] = (), seconds: float = 1e9
) -> int:
    """Run `count` schedules of the scenarios in turn; return how many there was time for."""
    names = list(names) or list(SCENARIOS)
    end = time.monotonic() + seconds
    with baton():
        for n in range(count):
            run_one(names[n % len(names)], level, first + n // len(names))
            if n % 256 == 255:
                gc.collect()
            if n >= len(names) and time.monotonic() > end:
                return n + 1
    gc.collect()
    return count


# The shares of each level in the schedules and in the time.
SHARES = {"seam": (0.8, 0.6), "line": (0.1, 0.2), "opcode": (0.1, 0.2)}


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.schedules",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--schedules", type=int, default=20_000, help="how many in total")
    parser.add_argument("--scenario", choices=sorted(SCENARIOS), action="append", default=[])
    parser.add_argument("--level", choices=LEVELS, help="default: 80 %% seam, 20 %% finer")
    parser.add_argument("--seed", type=int, help="run one schedule and print its switches")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--jobs", type=int, default=1, help="number of processes")
    parser.add_argument("--seconds", type=float, default=1e9, help="maximum run time")
    asked = parser.parse_args()
    if asked.seed is not None:
        with baton():
            for name in asked.scenario or SCENARIOS:
                run_one(name, asked.level or "seam", asked.seed, is_traced=True)
        return 0
    if asked.jobs > 1:
        return _in_processes(asked.jobs, asked.schedules, asked.first)
    shares = {asked.level: (1.0, 1.0)} if asked.level else SHARES
    for level, (share, time_share) in shares.items():
        began = time.monotonic()
        count = explore(
            level,
            int(asked.schedules * share),
            asked.first,
            asked.scenario,
            asked.seconds * time_share,
        )
        took = time.monotonic() - began
        print(
            f"{level:7} {count:9} schedules of {len(asked.scenario or SCENARIOS)} scenarios "
            f"in {took:.1f} s, {count / took:.0f} a second, from seed {asked.first}",
            flush=True,
        )
    return 0


def _in_processes(jobs: int, schedules: int, first: int) -> int:
    """Run the schedules in processes with different seeds."""
    share = schedules // jobs
    arguments = list(sys.argv[1:])
    at = arguments.index("--jobs")
    del arguments[at : at + 2]
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    processes = []
    for n in range(jobs):
        if cores:
            os.sched_setaffinity(0, {cores[n % len(cores)]})
        command = [sys.executable, "-m", "tests.schedules", *arguments]
        command += ["--schedules", str(share), "--first", str(first + n * share)]
        processes.append(subprocess.Popen(command))
    return max(abs(process.wait()) for process in processes)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Found as found:
        print(found, flush=True)
        os._exit(1)  # the threads of that schedule stay blocked and cannot be joined
