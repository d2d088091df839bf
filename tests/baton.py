"""A deterministic scheduler: real threads pass a baton, so that exactly one runs at a time.

At every *step* a random generator with a seed decides which thread runs next. Steps are the calls
of the engine's seam (clock, bells, threads) and of its lock; on the finer levels, also every line
or every opcode of the engine's modules. The same seed gives the same run.

Time is virtual: when all threads wait, the clock jumps to the next timeout. If all threads wait
and none has a timeout, the run is a deadlock, and the report shows where each thread waits.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import logging
import math
import os
import sys
import threading
import traceback
from _thread import allocate_lock
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any, ClassVar

import batchify
from batchify.engine.seam import Seam
from tests.frozen import frozen
from tests.limits import LIMIT

LEVELS = ("seam", "line", "opcode")
STEPS = {"seam": 20_000, "line": 400_000, "opcode": 2_000_000}  # more is a livelock

PACKAGE = str(Path(batchify.__file__).parent) + os.sep
# The files in which a switch between two opcodes may matter.
TRACED = tuple(
    PACKAGE + name
    for name in (
        "future.py",
        "loopfuture.py",
        "waits.py",
        "scopes.py",
        "bulk.py",
        "engine" + os.sep,
        "forming" + os.sep,
    )
)


class Broken(AssertionError):
    """A schedule in which something went wrong."""


class Task:
    """One thread of a schedule."""

    def __init__(self, name: str, function: Callable[..., Any], args: tuple[Any, ...]) -> None:
        self.name = name
        self.call: tuple[Callable[..., Any], tuple[Any, ...]] | None = (function, args)
        self.priority = 0.0
        self.is_blocked = False
        self.until: float | None = None  # when its wait times out
        self.is_done = False
        self.joining: list[Task] = []
        self.value: Any = None
        self.runner: Runner
        self.sim: Sim

    def join(self, timeout: float | None = None) -> None:
        """Wait for its end, like `Thread.join`."""
        if not self.is_done and not (timeout is not None and timeout <= 0):
            self.joining.append(self.sim.running())
            self.sim.block(timeout)

    def result(self) -> Any:
        """Wait for its end and return its result."""
        self.join()
        return self.value


class Runner(threading.Thread):
    """A real thread, reused by one schedule after another."""

    free: ClassVar[list[Runner]] = []

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.gate = allocate_lock()
        self.gate.acquire()
        self.task: Task | None = None
        self.start()

    def run(self) -> None:
        while True:
            self.gate.acquire()
            task, self.task = self.task, None
            assert task is not None
            self._live(task)
            sim = task.sim
            del task
            self.free.append(self)
            sim.pass_on()
            del sim

    def _live(self, task: Task) -> None:
        assert task.call is not None
        function, args = task.call
        task.call = None
        sim = task.sim
        before = sys.gettrace()
        try:
            if sim.tracer is not None:
                sys.settrace(sim.tracer)
            try:
                task.value = function(*args)
            finally:
                if sim.tracer is not None:
                    sys.settrace(before)
        except BaseException:
            sim.fail(f"{task.name} raised\n{traceback.format_exc()}")
        sim.end(task)


class Sim(Seam):
    """One schedule; also the seam of the engines that run in it."""

    def __init__(
        self, seed: str, level: str, length: float, focus: str = "", is_traced: bool = False
    ) -> None:
        self.rng = Random(seed)
        self.level = level
        self.now = 100.0
        self.steps = 0
        self.tasks: list[Task] = []
        self.current: Task | None = None
        self.failure: str | None = None
        self.over = allocate_lock()
        self.over.acquire()
        self.resting: Task | None = None
        self.bells = 0
        self.switches: list[tuple[int, str]] = []
        self.due = self.switch_at = math.inf
        self.is_traced = is_traced
        self.counts: Counter[str] = Counter()  # the steps in each file, if no thread is interrupted
        self.tracer = None if level == "seam" else self._tracer(focus, not length)
        self._plan(length)

    # ---- which thread runs next ----

    def _plan(self, length: float) -> None:
        """Choose how threads are scheduled: a random walk, or PCT of some depth.

        PCT (Burckhardt et al., ASPLOS 2010): the thread of highest priority runs, and at
        depth - 1 steps the running thread gets the lowest. Without a length no thread is
        interrupted.
        """
        rng = self.rng
        self.is_pct = rng.random() < 0.5
        self.haste = rng.choice((0.0, 0.0, 0.1, 0.4))  # how often a timeout comes early
        self.changes: list[int] = []
        self.gap = math.inf
        if length and self.is_pct:
            depth = rng.randint(1, 5)
            self.changes = sorted(rng.randint(1, int(length * 1.2) + 1) for _ in range(depth))
        elif length:
            most = length / 2 if self.level == "seam" else length / 4
            self.gap = math.exp(rng.uniform(0, math.log(max(most, 2))))
        self._next_switch()

    def _next_switch(self) -> None:
        if self.changes:
            self.due = self.changes.pop(0)
        elif self.is_pct or self.gap == math.inf:
            self.due = math.inf
        else:
            self.due = self.steps + 1 + int(self.rng.expovariate(1 / self.gap))
        self.due = min(self.due, STEPS[self.level])
        self.switch_at = self.due

    def step(self) -> None:
        """Switch to another thread, perhaps."""
        self.steps += 1
        if self.steps >= self.switch_at and self.current is not None:
            self._switch(self.current)

    def _switch(self, me: Task) -> None:
        if self.steps >= STEPS[self.level]:
            self._stop(f"no end after {self.steps} steps")
        if self.steps >= self.due:
            if self.is_pct:
                me.priority = -float(self.steps)
            if self.haste and self.rng.random() < self.haste:
                self._pass_time()
            self._next_switch()
        else:  # a thread of higher priority was woken
            self.switch_at = self.due
        self._hand_over(me, self._pick(me))

    def _pick(self, me: Task | None = None) -> Task | None:
        ready = [task for task in self.tasks if not task.is_blocked]
        if not ready:
            return None
        if self.is_pct:
            return max(ready, key=lambda task: task.priority)
        if me is not None and len(ready) > 1:
            ready = [task for task in ready if task is not me]
        return ready[self.rng.randrange(len(ready))] if len(ready) > 1 else ready[0]

    def _pick_later(self) -> Task | None:
        """Return the next thread to run; if all wait, after the next timeout."""
        to = self._pick()
        if to is None and (self._pass_time() or self._end_rest()):
            to = self._pick()
        return to

    def _end_rest(self) -> bool:
        if self.resting is None:
            return False
        self.wake(self.resting)
        return True

    def _hand_over(self, me: Task, to: Task | None) -> None:
        if to is me or to is None:
            return
        self._note(to)
        self.current = to
        to.runner.gate.release()
        me.runner.gate.acquire()

    def _note(self, to: Task) -> None:
        self.switches.append((self.steps, to.name))
        if self.is_traced:
            frame = sys._getframe(2)
            places = []
            while frame is not None and len(places) < 3:
                file = frame.f_code.co_filename
                if file.startswith(PACKAGE):
                    places.append(f"{file[len(PACKAGE) :]}:{frame.f_lineno}")
                frame = frame.f_back  # type: ignore[assignment]
            who = self.current.name if self.current else "-"
            print(f"{self.steps:7} {self.now:8.2f} {who:>24} -> {to.name:24} {' < '.join(places)}")

    def _pass_time(self) -> bool:
        """Advance the clock to the next timeout."""
        ends = [task.until for task in self.tasks if task.until is not None]
        if not ends:
            return False
        self.now = max(self.now, min(ends))
        for task in self.tasks:
            if task.until is not None and task.until <= self.now:
                self.wake(task)
        return True

    def running(self) -> Task:
        """Return the running thread."""
        assert self.current is not None
        return self.current

    def block(self, timeout: float | None = None) -> None:
        """Block the running thread until another wakes it or `timeout` has passed."""
        me = self.running()
        me.is_blocked = True
        me.until = None if timeout is None else self.now + timeout
        to = self._pick_later()
        if to is None:
            self._stop("deadlock: every thread waits")
        self._hand_over(me, to)

    def rest(self) -> None:
        """Block the running thread until all others have ended or wait without a timeout."""
        self.resting = self.running()
        self.block()
        self.resting = None

    def wake(self, task: Task) -> None:
        task.is_blocked = False
        task.until = None
        if self.is_pct and self.current is not None and task.priority > self.current.priority:
            self.switch_at = self.steps + 1

    # ---- the threads ----

    def go(self, function: Callable[..., Any], *args: Any, name: str = "") -> Task:
        """Start a thread."""
        task = Task(
            name or f"{getattr(function, '__name__', 'call')}{len(self.tasks)}", function, args
        )
        task.priority = self.rng.random()
        task.sim = self
        task.runner = Runner.free.pop() if Runner.free else Runner()
        task.runner.task = task
        self.tasks.append(task)
        return task

    def end(self, task: Task) -> None:
        task.is_done = True
        self.tasks.remove(task)
        for other in task.joining:
            if other.is_blocked:
                self.wake(other)

    def pass_on(self) -> None:
        """Switch to the next thread when the running one has ended, or end the run."""
        to = self._pick_later()
        if self.failure is not None or not self.tasks:
            self.current = None
            self.over.release()
        elif to is None:
            self.fail("deadlock: every thread that is left waits\n" + self.stacks())
            self.current = None
            self.over.release()
        else:
            self._note(to)
            self.current = to
            to.runner.gate.release()

    def fail(self, why: str) -> None:
        if self.failure is None:
            self.failure = why

    def _stop(self, why: str) -> None:
        """Abandon the schedule; its threads stay blocked."""
        self.fail(f"{why}\n{self.stacks()}")
        me = self.running()
        self.current = None
        self.over.release()
        me.runner.gate.acquire()

    def stacks(self) -> str:
        frames = sys._current_frames()
        text = []
        for task in self.tasks:
            frame = frames.get(task.runner.ident or 0)
            how = "waits" if task.is_blocked else "can run"
            lines = traceback.format_stack(frame)[-12:] if frame is not None else []
            kept = [line for line in lines if "baton.py" not in line]
            text.append(f"--- {task.name} ({how}, until {task.until})\n{''.join(kept)}")
        return "\n".join(text)

    def run(self, body: Callable[[Sim], None]) -> None:
        """Run `body(self)` as the first thread, until all threads have ended."""
        first = self.go(body, self, name="main")
        self.current = first
        first.runner.gate.release()
        if not self.over.acquire(True, LIMIT):
            self.fail(f"stuck outside of the schedule, or slow\n{self.stacks()}")
        if self.failure is not None:
            Runner.free.clear()  # some of its threads stay blocked
            raise Broken(self.failure)

    # ---- the seam ----

    def clock(self) -> float:
        self.step()
        return self.now

    def bell(self) -> SimBell:
        return SimBell(self)

    def spawn(self, target: Callable[..., None], args: tuple[Any, ...], name: str) -> Task:
        self.step()
        task = self.go(target, *args, name=name)
        self.step()
        return task

    def sleep(self, seconds: float) -> None:
        """Sleep in virtual time, in a batch or a caller."""
        self.block(seconds)

    # ---- finer steps ----

    def _tracer(self, focus: str, is_counting: bool) -> Any:
        is_fine = self.level == "opcode"
        wanted = "opcode" if is_fine else "line"
        files = PACKAGE + focus if focus else TRACED

        def local(frame: Any, event: str, arg: Any) -> Any:
            if event == wanted:  # like `step`, with one frame less
                self.steps += 1
                if self.steps >= self.switch_at and self.current is not None:
                    self._switch(self.current)
            return local

        def counting(frame: Any, event: str, arg: Any) -> Any:
            if event == wanted:
                self.counts[frame.f_code.co_filename[len(PACKAGE) :]] += 1
                self.step()
            return counting

        chosen = counting if is_counting else local

        def tracer(frame: Any, event: str, arg: Any) -> Any:
            if not frame.f_code.co_filename.startswith(files):
                return None
            frame.f_trace_opcodes = is_fine
            frame.f_trace_lines = not is_fine
            return chosen

        return tracer


class SimBell:
    """A bell whose sleeper waits for the baton."""

    def __init__(self, sim: Sim) -> None:
        self.sim = sim
        self.cargo: Any = None
        self.is_rung = False
        self.sleeper: Task | None = None
        sim.bells += 1
        self.number = sim.bells

    def __hash__(self) -> int:
        return self.number  # so that sets of bells have the same order in each run

    def ring(self, _: object = None) -> None:
        self.sim.step()
        self.is_rung = True
        if self.sleeper is not None and self.sleeper.is_blocked:
            self.sim.wake(self.sleeper)
        self.sim.step()

    def wait(self, timeout: float | None) -> bool:
        if self.sim.current is None:  # at exit, after an abandoned schedule
            return self.is_rung
        self.sim.step()
        if not self.is_rung and not (timeout is not None and not timeout > 0):
            self.sleeper = self.sim.running()
            self.sim.block(timeout)
            self.sleeper = None
        was_rung, self.is_rung = self.is_rung, False
        return was_rung


class SimLock:
    """A re-entrant lock; the scheduler knows which threads wait for it."""

    outside = object()  # the owner if no schedule runs

    def __init__(self, sim: Sim) -> None:
        self.sim = sim
        self.owner: Any = None
        self.depth = 0
        self.waiting: list[Task] = []

    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool:
        me: Any = self.sim.current or self.outside
        if self.owner is me:
            self.depth += 1
            return True
        self.sim.step()
        while self.owner is not None:
            if not blocking:
                return False
            self.waiting.append(me)
            self.sim.block()
        self.owner, self.depth = me, 1
        return True

    def release(self) -> None:
        if self.owner is not (self.sim.current or self.outside):
            raise RuntimeError("cannot release un-acquired lock")
        self.depth -= 1
        if not self.depth:
            self.owner = None
            waiting, self.waiting = self.waiting, []
            for task in waiting:  # the first thread gets it
                self.sim.wake(task)
            self.sim.step()

    __enter__ = acquire

    def __exit__(self, *_: object) -> None:
        self.release()

    def locked(self) -> bool:
        return self.owner is not None

    def _is_owned(self) -> bool:
        return self.owner is (self.sim.current or self.outside)


class SimEvent:
    """A `threading.Event` for waiters in concurrent.futures."""

    def __init__(self, sim: Sim) -> None:
        self.bell = SimBell(sim)
        self.is_true = False

    def set(self) -> None:
        self.is_true = True
        self.bell.ring()

    def clear(self) -> None:
        self.is_true = False

    def wait(self, timeout: float | None = None) -> bool:
        if not self.is_true:
            self.bell.wait(timeout)
        return self.is_true


# ---- replacements of the real locks ----

_now: list[Sim] = []  # the running schedule


def new_lock() -> Any:
    return SimLock(_now[-1]) if _now else threading.RLock()


@contextlib.contextmanager
def baton() -> Iterator[None]:
    """Replace the engine's locks by the scheduler's, so that schedules can run in the block."""
    names = ("mending", "entry", "base", "threads")
    modules: list[Any] = [importlib.import_module(f"batchify.engine.{name}") for name in names]
    future: Any = importlib.import_module("batchify.future")
    scopes: Any = importlib.import_module("batchify.scopes")
    futures: Any = importlib.import_module("concurrent.futures._base")
    ours = SimpleNamespace(
        RLock=new_lock,
        Lock=new_lock,
        Condition=lambda lock=None: threading.Condition(new_lock() if lock is None else lock),
        Event=lambda: SimEvent(_now[-1]) if _now else threading.Event(),
        local=threading.local,
        get_ident=threading.get_ident,
    )
    before: list[tuple[Any, str, Any]] = []

    def put(owner: Any, name: str, value: Any) -> None:
        before.append((owner, name, getattr(owner, name)))
        setattr(owner, name, value)

    for module in modules:
        if hasattr(module, "RLock"):
            put(module, "RLock", new_lock)
    for module in (future, scopes, futures):
        put(module, "threading", ours)
    put(logging.getLogger("batchify"), "disabled", True)  # its locks are real ones
    is_collecting = gc.isenabled()
    gc.disable()  # finalizers run only where the schedule collects garbage
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    if cores is not None:
        # Passing the baton between two cores takes three times as long. Other processes use
        # other cores.
        os.sched_setaffinity(0, {sorted(cores)[os.getpid() % len(cores)]})
    Runner.free.clear()  # their threads could run on any core
    try:
        with frozen():  # a collection in a schedule then takes no time
            yield
    finally:
        if cores is not None:
            os.sched_setaffinity(0, cores)
        if is_collecting:
            gc.enable()
        for owner, name, value in reversed(before):
            setattr(owner, name, value)


def run(
    body: Callable[[Sim], None],
    seed: str,
    level: str,
    length: float,
    focus: str = "",
    is_traced: bool = False,
) -> Sim:
    """Run one schedule of `body`; raise `Broken` if it fails.

    Args:
        body: the first thread.
        seed: determines all random choices.
        level: which operations are steps.
        length: the approximate number of steps; 0: no thread is interrupted.
        focus: the file of the engine in which lines and opcodes are steps.
        is_traced: True to print the switches.
    """
    sim = Sim(seed, level, length, focus, is_traced)
    _now.append(sim)
    try:
        sim.run(body)
    finally:
        _now.pop()
    return sim
