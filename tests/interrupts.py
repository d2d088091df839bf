"""Interrupt the main thread at every opcode of the engine, by a signal or a finalizer.

    python -m tests.interrupts                        every opcode of every scenario, in every mode
    python -m tests.interrupts cancel close -m raise  some of them
    python -m tests.interrupts cancel -m raise --at 17

For a signal, the hook that CPython calls at opcode `k` is one C call that trips SIGINT. CPython
then runs the handler exactly where it would run the handler of a real signal: at its next check, in
that frame or in one that it calls. So nothing is raised where no real signal could raise.
A finalizer may run at any opcode, so for finalizers the hook itself does what the finalizer does.

In the mode `kill` an asynchronous exception hits a worker instead, as if memory were exhausted at
that opcode.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import ctypes
import functools
import gc
import logging
import os
import signal
import sys
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import CancelledError
from dataclasses import dataclass, field
from types import CodeType, FrameType
from typing import Any

import batchify
from batchify import Closed, Deadlock, QueueFull, batched
from batchify.engine.mending import live_on
from batchify.loopfuture import LoopFuture, set_done
from tests.limits import LIMIT
from tests.manual import in_thread
from tests.opcode_watch import HAS_MONITORING, PACKAGE, Monitoring, Watch, of_c

ATTEMPTS = 20_000  # more opcodes than any scenario executes


class Interrupt(Exception):
    """Raised by the handler. The hard case: an event loop continues after it."""


class Stop(KeyboardInterrupt):
    """Raised by the handler like Ctrl-C: an event loop ends."""


class Killed(MemoryError):
    """Raised in a worker by an asynchronous exception."""

    def __init__(self) -> None:  # a second call just before it is raised would be redundant
        super().__init__()
        Watch.end()


# The possible outcomes of an item whose batch ran in the main thread.
ABORTED = (Closed, QueueFull, batchify.BatchAborted, batchify.BadResult)


class Broken(AssertionError):
    """A broken promise."""


# ---- the interrupt ----

# The functions that a task calls when it reaches an `await`.
OF_A_STEP = (
    LoopFuture.get_loop.__code__,
    LoopFuture.add_done_callback.__code__,
    asyncio.BaseEventLoop.call_soon.__code__,
)

_trip = of_c("PyErr_SetInterrupt")
_kill = of_c("PyThreadState_SetAsyncExc", ctypes.c_ulong, ctypes.py_object)


class Injector:
    """Interrupts the main thread in one way at opcode `at` of the package's code."""

    may_fail: tuple[Any, ...] = ()  # possible outcomes of items in every scenario
    may_end: tuple[Any, ...] = ()  # what other threads may get

    def __init__(self, at: int, action: Callable[[], object] | None, error: Any) -> None:
        self.at = at
        self.action = action  # the action of a handler or finalizer
        self.error = error  # raised by the handler; None: this is a finalizer
        self.only: Collection[str] = ()  # count opcodes of these functions only; empty: all
        self.count = 0
        self.place = ""
        self.is_done = False
        self.process = os.getpid()
        self.watch = Watch(self.see)

    def play(self, act: Steps, world: World) -> None:
        """Prepare a scenario, then interrupt its operation."""
        next(act)
        with self:
            next(act, None)

    def __enter__(self) -> Injector:
        signal.signal(signal.SIGINT, self.handle)
        self.watch.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.watch.stop()

    def is_to_hit(self, code: CodeType) -> bool:
        """Return True if this opcode counts."""
        if self.only and code.co_qualname not in self.only:
            return False
        return threading.current_thread() is threading.main_thread()

    def see(self, frame: FrameType) -> Any:
        code = frame.f_code
        if self.is_done or os.getpid() != self.process or not self.is_to_hit(code):
            return None
        self.count += 1
        if self.count <= self.at:
            return None
        name = os.path.relpath(code.co_filename, PACKAGE)
        self.place = f"{name}:{frame.f_lineno} {code.co_qualname} +{frame.f_lasti}"
        return self.hit()

    def hit(self) -> Any:
        if self.error is not None:
            return _trip
        self.is_done = True
        self.watch.stop()
        if self.action is not None:
            self.action()
        return None

    def handle(self, _: int, frame: FrameType | None) -> None:
        self.watch.stop()
        if self.is_done:
            return
        self.is_done = True
        if is_step_of_asyncio(frame):
            return
        if self.action is not None:
            self.action()
        raise self.error


class Killer(Injector):
    """Raises `Killed` in the worker that reaches opcode `at`, counted over all workers.

    The frame that handles it and continues is excluded.
    """

    may_fail = (Killed,)
    may_end = (Killed, *ABORTED)

    def __init__(self, at: int) -> None:
        super().__init__(at, None, None)

    def play(self, act: Steps, world: World) -> None:
        with self:  # watches its threads from their start
            next(act)
            next(act, None)
            world.gate.set()
            world.f.flush(LIMIT)

    def __enter__(self) -> Killer:
        self.watch.start_in_new_threads()
        return self

    def is_to_hit(self, code: CodeType) -> bool:
        is_worker = threading.current_thread().name.startswith("batchify:")
        return is_worker and code is not live_on.__code__

    def hit(self) -> Any:
        self.is_done = True
        return functools.partial(_kill, threading.get_ident(), Killed)


def is_step_of_asyncio(frame: FrameType | None) -> bool:
    """Return True if the handler would raise in asyncio's own code, between two steps of tasks.

    That loses something with any future. If an exception is raised in one of `OF_A_STEP`, a task
    that is about to wait, or to continue in the next step of the loop, never continues, even if it
    is cancelled. The same happens to a waiter whose callback is interrupted: the callbacks of
    `gather` and `wait_for`, and ours, which sets an asyncio future as they do.
    """
    while frame is not None:
        code, below = frame.f_code, frame.f_back
        if code is set_done.__code__ or (
            is_of_asyncio(code) and code.co_name in ("_done_callback", "_release_waiter")
        ):
            return True
        if below is not None and below.f_code.co_name == "_run" and is_of_asyncio(below.f_code):
            return code in OF_A_STEP
        frame = below
    return False


def is_of_asyncio(code: CodeType) -> bool:
    return os.path.dirname(code.co_filename) == os.path.dirname(asyncio.__file__)


# ---- the functions and items that are interrupted ----


@dataclass
class World:
    """A batched function and the records of its items."""

    options: dict[str, Any]
    is_async: bool = False
    known: dict[Any, Any] = field(default_factory=dict)  # futures of calls that returned
    unknown: set[Any] = field(default_factory=set)  # items of calls that were interrupted
    ran: Counter[Any] = field(default_factory=Counter)
    ends: list[Any] = field(default_factory=list)  # futures whose callback was called
    watched: set[Any] = field(default_factory=set)
    made: list[Any] = field(default_factory=list)  # items submitted by handlers and finalizers
    calls: list[Any] = field(default_factory=list)  # items of other threads
    forks: list[str] = field(default_factory=list)  # items that did not end in forked children
    may_fail: tuple[Any, ...] = ()
    may_end: tuple[Any, ...] = ()  # what other threads may get

    def __post_init__(self) -> None:
        self.gate = threading.Event()
        self.gate.set()

        def run(items: list[Any]) -> list[Any]:
            self.ran.update(items)
            assert self.gate.wait(LIMIT)
            return [("done", item) for item in items]

        async def run_async(items: list[Any]) -> list[Any]:
            self.ran.update(items)
            while not self.gate.is_set():
                await asyncio.sleep(0.0005)
            return [("done", item) for item in items]

        self.f: Any = batched(run_async if self.is_async else run, **self.options)

    # ---- operations of scenarios ----

    def call(self, item: Any, how: Any = None) -> Any:
        """Submit from the main thread; the item's state is unknown until the call returns."""
        self.unknown.add(item)
        try:
            future = (how or self.f)(item)
        except (QueueFull, Closed, Deadlock):
            self.unknown.discard(item)
            if self.ran[item]:
                raise Broken(f"{item} was refused, and ran") from None
            return None
        self.known[item] = future
        self.unknown.discard(item)
        return future

    def watch(self, item: Any) -> None:
        self.known[item].add_done_callback(self.ends.append)
        self.watched.add(item)

    def before(self, *items: Any, how: Any = None) -> None:
        """Submit items in advance, which the interrupt must not affect, with callbacks on all."""
        for item in items:
            self.call(item, how)
            self.watch(item)

    def warm(self) -> None:
        self.call("warm").result(LIMIT)

    def busy(self, *items: Any) -> None:
        """Block the worker with the first item, so that the others wait."""
        self.gate.clear()
        self.before(items[0])
        first = self.known[items[0]]
        until(lambda: self.ran[items[0]] or first.done(), "no worker took the first item")
        self.before(*items[1:])

    def other(self, function: Callable[..., Any], *args: Any) -> None:
        """Run an operation in another thread at the same time."""
        self.calls.append(in_thread(function, *args))

    def wait_elsewhere(self, item: Any) -> None:
        """Wait for an item in another thread."""
        self.other(self.known[item].exception if self.may_fail else self.known[item].result, LIMIT)

    def submit_elsewhere(self, item: Any) -> None:
        """Submit in another thread, which may have to wait for capacity."""

        def work() -> None:
            self.known[item] = self.f(item)

        self.other(work)
        call = self.calls[-1]
        until(  # unless another action has freed capacity again
            lambda: (
                self.gate.is_set()
                or (self.may_end and call.is_done())
                or self.f.stats().submitted > self.f.stats().accepted
            ),
            "no caller waits",
        )

    def open(self, delay: float = 0.003) -> None:
        def work() -> None:
            time.sleep(delay)
            self.gate.set()

        self.other(work)

    # ---- actions of handlers and finalizers ----

    def reenter(self) -> None:
        item = ("made", len(self.made))
        try:
            future = self.f.options(timeout=0.01)(item)
        except (Closed, Deadlock, QueueFull):
            return
        self.made.append(item)
        self.known[item] = future

    def meddle(self) -> None:
        """Perform the other operations that a handler might perform."""
        self.gate.set()  # some of them wait
        for act in (
            self.f.stats,
            lambda: [future.cancel() for future in list(self.known.values())[-2:]],
            lambda: self.f.flush(0.001),
            lambda: setattr(self.f, "size", self.f.size),
            lambda: self.known and next(iter(self.known.values())).exception(0.001),
            lambda: list(self.f.map([("mapped", 1), ("mapped", 2)])) and None,
            self.reenter,
        ):
            with contextlib.suppress(
                TimeoutError, Deadlock, CancelledError, asyncio.CancelledError, Closed, QueueFull
            ):
                act()

    def fork(self) -> None:
        """Fork in the middle of the operation, as another thread that holds no lock might."""
        read, write = os.pipe()
        child = fork_among_threads()
        if not child:
            left = [item for item, future in self.known.items() if not future.done()]
            os.write(write, repr(left).encode())
            os._exit(0)
        os.close(write)
        with open(read) as pipe:
            told = pipe.read()
        os.waitpid(child, 0)
        if told != "[]":
            self.forks.append(told or "the child died")

    # ---- what must hold afterwards ----

    def check(self) -> None:
        try:
            in_thread(self._check).result(2 * LIMIT)
        finally:
            self.gate.set()

    def _check(self) -> None:
        self.gate.set()
        if self.forks:
            raise Broken(f"copies in a forked child did not end: {self.forks}")
        for call in self.calls:
            if not call.is_done():
                call.thread.join(LIMIT)
                if not call.is_done():
                    raise Broken("another thread hangs")
            with contextlib.suppress(CancelledError, *self.may_end):  # another action did it
                call.result()
        until(
            lambda: all(future.done() for future in list(self.known.values())),
            lambda: f"never done: {[i for i, f in self.known.items() if not f.done()]}",
        )
        self._check_futures()
        with contextlib.suppress(Closed):
            if self.f("probe").result(LIMIT) != ("done", "probe"):
                raise Broken("the probe got another value")
        self.f.flush(LIMIT)
        self._check_stats()
        self._check_room()
        self.f.close(LIMIT)
        if not isinstance(error_of(lambda: self.f("late")), Closed):
            raise Broken("it is not closed")
        self.f.start()
        if self.f("again").result(LIMIT) != ("done", "again"):
            raise Broken("it does not start again")
        self.f.close(LIMIT)
        self._check_stats()
        if more := [item for item, times in self.ran.items() if times > 1]:
            raise Broken(f"ran twice: {more}")

    def _check_futures(self) -> None:
        for item, future in self.known.items():
            if future.cancelled():
                continue
            error = future.exception(0)
            if isinstance(error, (*ABORTED, *self.may_fail)):
                continue
            if self.is_async and isinstance(error, (Interrupt, Stop)):
                continue  # it became the failure of the running batch
            if error is not None or future.result(0) != ("done", item):
                raise Broken(f"{item} ended in {error or future.result(0)!r}")
            if self.ran[item] != 1:
                raise Broken(f"{item} ran {self.ran[item]} times")
        until(
            lambda: all(self.known[item] in self.ends for item in self.watched),
            lambda: f"no callback: {[i for i in self.watched if self.known[i] not in self.ends]}",
        )
        if len(set(self.ends)) < len(self.ends):
            raise Broken("a callback was called twice")

    def _check_stats(self) -> None:
        stats = self.f.stats()
        if stats.pending or stats.running:
            raise Broken(f"{stats.pending} pending, {stats.running} running at the end")
        ended = stats.succeeded + stats.failed + stats.cancelled + stats.expired
        if stats.accepted != ended or stats.submitted < stats.accepted + stats.rejected:
            raise Broken(f"the counts do not add up: {stats}")

    def _check_room(self) -> None:
        """Check that no capacity was lost or gained."""
        capacity = self.options.get("capacity")
        if capacity is None or self.is_async or self.f.stats().accepted == 0:
            return
        self.gate.clear()
        room = 0
        try:
            while room < capacity + 3:
                self.f.submit_nowait(("room", room))
                room += 1
        except (QueueFull, Closed) as error:
            if isinstance(error, Closed):
                return
        finally:
            self.gate.set()
        if room != self.f.capacity:
            raise Broken(f"capacity for {room} of {self.f.capacity}")
        self.f.flush(LIMIT)


def until(fact: Callable[[], Any], what: Any) -> None:
    end = time.monotonic() + LIMIT
    while not fact():
        if time.monotonic() > end:
            raise Broken(what if isinstance(what, str) else what())
        time.sleep(0.0002)


def fork_among_threads() -> int:
    """Fork without the warning about threads."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()


def error_of(call: Callable[[], Any]) -> Any:
    try:
        call()
    except Exception as error:
        return error
    return None


# ---- the scenarios ----

Steps = Iterator[None]
SCENARIOS: dict[str, tuple[Callable[[World], Steps], dict[str, Any]]] = {}


def scenario(**options: Any) -> Any:
    """Register a function that prepares, yields, and then performs the interrupted operation."""

    def note(function: Any) -> Any:
        SCENARIOS[function.__name__] = function, options
        return function

    return note


@scenario()
def submit_first(w: World) -> Steps:
    yield
    w.call(1)


@scenario(capacity=70)
def submit_idle(w: World) -> Steps:
    w.warm()
    yield
    w.call(1)


@scenario(size=1, capacity=5)
def submit_busy(w: World) -> Steps:
    w.busy("a", "b")
    yield
    w.call(1)
    w.call(2)


@scenario(size=3, linger=0.003)
def submit_lingering(w: World) -> Steps:
    w.warm()
    w.before("a")
    yield
    w.call(1)
    w.call(2)


@scenario(size=1, capacity=2)
def submit_blocked_in_time(w: World) -> Steps:
    w.busy("a", "b")
    w.submit_elsewhere("c")
    w.open()
    yield
    w.call(1, w.f.options(timeout=LIMIT))


@scenario(size=1, capacity=2)
def submit_blocked_too_long(w: World) -> Steps:
    w.busy("a", "b")
    yield
    w.call(1, w.f.options(timeout=0.002))
    w.submit_elsewhere("c")


@scenario(size=1, capacity=2)
def submit_nowait(w: World) -> Steps:
    w.busy("a")
    yield
    w.call(1, w.f.submit_nowait)
    w.call(2, w.f.submit_nowait)


@scenario(capacity=100)
def submit_with_options(w: World) -> Steps:
    w.busy("a", "b")
    yield
    w.call(1, w.f.options(priority=2))
    w.call(2, w.f.options(deadline=3600))


@scenario(key=lambda item: str(item)[:1], size=2, capacity=10)
def submit_keyed(w: World) -> Steps:
    w.busy("a", "b1", "b2", "c1")
    yield
    w.call("b3")
    w.call("c2")
    w.call("d")


@scenario(weight=lambda item: 1.0, max_weight=2.0, linger=0.002)
def submit_weighed(w: World) -> Steps:
    w.warm()
    yield
    w.call(1)
    w.call(2)


@scenario(size=2, capacity=5)
def cancel(w: World) -> Steps:
    w.busy("a", "b", "c")
    w.may_fail = (CancelledError,)
    yield
    w.known["b"].cancel()


@scenario(size=2, capacity=5, key=lambda item: str(item)[:1])
def cancel_keyed(w: World) -> Steps:
    w.busy("a", "b1", "b2", "c")
    yield
    w.known["b1"].cancel()
    w.known["c"].cancel()


@scenario(size=1, capacity=2)
def cancel_makes_room(w: World) -> Steps:
    w.busy("a", "b")
    w.submit_elsewhere("c")
    yield
    w.known["b"].cancel()


@scenario()
def result(w: World) -> Steps:
    w.busy("a", "b")
    w.open()
    yield
    w.known["b"].result(LIMIT)


@scenario()
def callbacks(w: World) -> Steps:
    w.busy("a", "b")
    w.call("c")
    yield
    w.watch("c")
    w.gate.set()
    w.known["a"].result(LIMIT)
    w.call("d").result(LIMIT)
    w.watch("d")


@scenario(size=3, linger=0.1)
def flush(w: World) -> Steps:
    w.before("a", "b")
    yield
    w.f.flush(LIMIT)
    w.call(1)
    w.f.flush(LIMIT)


@scenario(size=3, linger=0.1, key=lambda item: str(item)[:1])
def flush_keyed(w: World) -> Steps:
    w.before("a1", "b1", "b2")
    yield
    w.f.flush(LIMIT)


@scenario(size=2, capacity=6)
def close(w: World) -> Steps:
    w.busy("a", "b", "c")
    for item in "abc":
        w.wait_elsewhere(item)
    w.open()
    yield
    w.f.close(LIMIT)


@scenario(size=2, capacity=6)
def close_cancel(w: World) -> Steps:
    w.may_fail = (Closed,)
    w.busy("a", "b", "c", "d")
    for item in "abc":
        w.wait_elsewhere(item)
    w.open()
    yield
    w.f.close(LIMIT, cancel=True)


@scenario(size=1, capacity=6)
def close_too_late(w: World) -> Steps:
    w.may_fail = (Closed,)
    w.busy("a", "b", "c")
    for item in "abc":
        w.wait_elsewhere(item)
    yield
    with contextlib.suppress(TimeoutError):
        w.f.close(0.002)


@scenario(size=2, capacity=6)
def start(w: World) -> Steps:
    w.warm()
    w.f.close(LIMIT)
    yield
    w.f.start()
    w.call(1)


@scenario()
def stats(w: World) -> Steps:
    w.busy("a", "b")
    yield
    w.f.stats()


@scenario(size=4, linger=0.1, capacity=20)
def set_size(w: World) -> Steps:
    w.before("a", "b", "c")
    yield
    w.f.size = 3


@scenario(size=4, capacity=20)
def set_size_of_chunks(w: World) -> Steps:
    w.busy("a")
    w.other(lambda: list(w.f.map([1, 2, 3, 4])))
    until(lambda: w.f.stats().accepted == 5, "no chunk came")
    yield
    w.f.size = 2


@scenario(size=1, capacity=3)
def set_capacity(w: World) -> Steps:
    w.busy("a", "b", "c")
    w.submit_elsewhere("d")
    yield
    w.f.capacity = 4
    w.f.capacity = 3


@scenario(size=1)
def set_workers(w: World) -> Steps:
    w.busy("a", "b", "c")
    w.open()
    yield
    w.f.workers = 2


@scenario(size=2, capacity=6)
def map_all(w: World) -> Steps:
    w.warm()
    yield
    list(w.f.map(range(5)))


@scenario(size=2, capacity=6)
def map_closed(w: World) -> Steps:
    w.warm()
    yield
    results = w.f.map(iter(range(6)))
    next(results)
    results.close()


@scenario()
def method(w: World) -> Steps:
    class Service:
        @batched
        def run(self, items: list[Any]) -> list[Any]:
            w.ran.update(items)
            return [("done", item) for item in items]

    service = Service()
    w.service = service  # type: ignore[attr-defined]
    yield
    w.call(1, service.run)
    w.call(2, service.run)


@scenario(size=2, capacity=6)
def fork(w: World) -> Steps:
    w.busy("a", "b")
    yield
    child = fork_among_threads()
    if not child:
        os._exit(0)
    os.waitpid(child, 0)
    w.call(1)


def on_loop(work: Callable[[World], Any]) -> Callable[[World], Steps]:
    @functools.wraps(work)
    def steps(w: World) -> Steps:
        loop = asyncio.new_event_loop()
        loop.set_exception_handler(lambda *_: None)
        try:
            yield
            with contextlib.suppress(batchify.BatchifyError):  # for its own items
                loop.run_until_complete(asyncio.wait_for(work(w), LIMIT))
        finally:
            end_loop(loop)

    return steps


def end_loop(loop: Any) -> None:
    """End the loop as `asyncio.run` does."""
    Watch.end()
    try:
        left = asyncio.all_tasks(loop)
        for task in left:
            task.cancel()
        with contextlib.suppress(RuntimeError):  # an interrupted callback may stop the loop here
            loop.run_until_complete(asyncio.sleep(0))
        if left:
            loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        loop.run_until_complete(loop.shutdown_asyncgens())
    finally:
        loop.close()


async def await_some(w: World) -> None:
    await w.call(1)
    both = [w.call(2), w.call(3)]
    await asyncio.gather(*both, return_exceptions=True)


async def fill_up(w: World) -> None:
    futures = [w.call(n) for n in range(4)]
    futures[-1].cancel()
    await asyncio.gather(*futures, return_exceptions=True)


async def drain(w: World) -> None:
    w.call(1)
    w.call(2)
    await w.f.aflush(LIMIT)
    w.call(3)
    await w.f.aclose(LIMIT)


async def admit(w: World) -> None:
    for n in range(3):
        w.unknown.add(n)
        w.known[n] = await w.f.asubmit(n)
        w.unknown.discard(n)
    await w.known[2]


for _work in (await_some, fill_up, drain, admit):
    for _kind in ("def", "async"):
        _options = {"capacity": 2, "size": 2} if _work in (fill_up, admit) else {"size": 2}
        SCENARIOS[f"{_work.__name__}_{_kind}"] = on_loop(_work), _options

# ---- running them ----

MODES = ("raise", "ctrl-c", "submit", "both", "meddle", "meddle-raise", "fork", "kill")


@dataclass
class Failure:
    scenario: str
    mode: str
    at: int
    place: str
    what: str

    def __str__(self) -> str:
        return f"{self.scenario} -m {self.mode} --at {self.at}: {self.place}: {self.what}"


def run_once(
    name: str, mode: str, at: int, only: Collection[str] = ()
) -> tuple[Failure | None, bool]:
    """Interrupt a scenario at one opcode; return what broke, and whether the interrupt came."""
    steps, options = SCENARIOS[name]
    world = World(dict(options), is_async=name.endswith("_async"))
    action = {"submit": world.reenter, "both": world.reenter, "fork": world.fork}.get(mode)
    if mode.startswith("meddle"):
        action = world.meddle
    error = {"raise": Interrupt, "both": Interrupt, "meddle-raise": Interrupt, "ctrl-c": Stop}
    injector = Killer(at) if mode == "kill" else Injector(at, action, error.get(mode))
    injector.only = only
    world.may_end = injector.may_end
    what: str | None = None
    act = steps(world)
    try:
        try:
            injector.play(act, world)
        except (Interrupt, Stop, CancelledError, asyncio.CancelledError, Killed, *ABORTED):
            pass
        finally:
            world.gate.set()
            act.close()
        world.may_fail += injector.may_fail
        world.check()
    except Broken as broken:
        what = str(broken)
    except (Exception, Stop) as error:
        what = f"{type(error).__name__}: {error}"
    except BaseException as error:  # such as pytest-timeout's: the scenario hangs
        error.add_note(str(Failure(name, mode, at, injector.place, "was interrupted")))
        raise
    finally:
        Watch.end()
    failed = None if what is None else Failure(name, mode, at, injector.place, what)
    return failed, injector.is_done


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Turn off the garbage collector, the log and other signal handlers."""
    before = signal.getsignal(signal.SIGINT)
    sys.unraisablehook = lambda _: None  # exceptions in fork hooks
    level = logging.getLogger("batchify").level
    logging.getLogger("batchify").setLevel(logging.CRITICAL + 1)
    gc.collect()
    if HAS_MONITORING:
        Monitoring.set_up(True)
    try:
        yield
    finally:
        if HAS_MONITORING:
            Monitoring.set_up(False)
        gc.collect()  # failed futures are logged when they are collected
        logging.getLogger("batchify").setLevel(level)
        sys.unraisablehook = sys.__unraisablehook__
        signal.signal(signal.SIGINT, before)


def run(
    name: str, mode: str, first: int = 0, step: int = 1, only: Collection[str] = ()
) -> tuple[int, list[Failure]]:
    """Interrupt a scenario at every `step`-th opcode, or `only` at those of some functions.

    Return the number of interrupts, and what broke.
    """
    count = 0
    failures: list[Failure] = []
    if name == mode == "fork":  # concurrent.futures.thread has a plain lock held during a fork
        return count, failures
    gc.collect()  # else a fork takes the locks of all engines of earlier scenarios
    for at in range(first, ATTEMPTS, step):
        failed, came = run_once(name, mode, at, only)
        if failed is not None:
            failures.append(failed)
        if not came:
            break
        count += 1
    return count, failures


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("scenarios", nargs="*", help="default: all")
    parser.add_argument("-m", "--mode", action="append", choices=MODES, help="default: all")
    parser.add_argument("--at", type=int, help="only this opcode")
    parser.add_argument("--first", type=int, default=0, help="the first opcode")
    parser.add_argument("--step", type=int, default=1, help="only every n-th opcode")
    given = parser.parse_args()
    total = 0
    broken: list[Failure] = []
    with quiet():
        for name in given.scenarios or SCENARIOS:
            counts = []
            for mode in given.mode or MODES:
                if given.at is not None:
                    failed, came = run_once(name, mode, given.at)
                    count, failures = int(came), [failed] if failed else []
                else:
                    count, failures = run(name, mode, given.first, given.step)
                counts.append(
                    f"{mode} {count}" + (f" ({len(failures)} BROKEN)" if failures else "")
                )
                total += count
                broken += failures
                for failure in failures[:40]:
                    print("  " + str(failure)[:300], flush=True)
            print(f"{name}: {', '.join(counts)}", flush=True)
    print(f"{total} interrupts, {len(broken)} broken")
    return bool(broken)


if __name__ == "__main__":
    sys.exit(main())
