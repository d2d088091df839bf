"""A seam on which time stands still until somebody moves it; see `batchify.clock`.

Real threads and real loops: only the time is not. It knows who sleeps until when, and which of its
threads are awake: when all sleep, nothing is left to be done at this time.
"""

from __future__ import annotations

import contextlib
import threading
from asyncio import AbstractEventLoop
from collections.abc import Callable
from contextvars import Context
from typing import Any, NamedTuple
from weakref import WeakSet

from .. import waits
from . import lifecycle
from .seam import THREADS, Bell, Handle, Seam, ThreadBell

DIGITS = 9  # of a second: what differs by less is the same time, as 0.1 + 0.2 and 0.3 are to be


class Worker:
    """A thread that sleeps at the bells of a `ManualSeam`, and nowhere else for long."""

    ident: int | None = None  # once it runs

    def __init__(self, seam: ManualSeam) -> None:
        self.seam = seam

    def batch(self) -> Any:
        """The batch that it has in hand, or None; whose items have all ended is as good as over."""
        batches = waits.serving_threads.get(self.ident or 0, ())
        return next((one for one in tuple(batches) if any(f._s is one for f in one.futures)), None)


class Sleep(NamedTuple):
    """Who sleeps at a bell (None: a thread that the seam did not start), and until when."""

    worker: Worker | None
    until: float | None


class ManualSeam(Seam):
    """A machine whose time moves by `move` alone."""

    def __init__(self) -> None:
        self.now = 0.0
        self.stirred = 0  # how often somebody was woken, started or called: it only grows
        self._begin()
        _seams.add(self)

    def _begin(self) -> None:
        self._lock = threading.RLock()  # a finalizer may ring
        self._awake: set[Worker] = set()
        self._left_alone: dict[Worker, Any] = {}  # some of them, and what they have in hand
        self._sleeps: dict[ManualBell, Sleep] = {}
        self._timers: dict[Timer, None] = {}  # in the order in which they were set
        self._tell: Callable[[], object] | None = None  # that all sleep

    # ---- what the engine asks for ----

    def clock(self) -> float:
        return self.now

    def bell(self) -> ManualBell:
        return ManualBell(self)

    def spawn(self, target: Callable[..., None], args: tuple[Any, ...], name: str) -> Any:
        if not any(isinstance(one, ManualBell) for one in args):
            return THREADS.spawn(target, args, name)  # the background loop's, which others share
        worker = Worker(self)
        with self._lock:
            self._awake.add(worker)
            self.stirred += 1
        try:
            return THREADS.spawn(_live, (self, worker, target, args), name)
        except BaseException:
            self.rested(worker)
            raise

    def sleep_until(self, bell: Bell, when: float) -> None:
        assert isinstance(bell, ManualBell)
        self.sleep(bell, when, None)

    def call_at(
        self, loop: AbstractEventLoop, when: float, callback: Callable[..., object], *args: Any
    ) -> Handle:
        timer = Timer(self, loop, when, lambda: callback(*args))
        with self._lock:
            self._timers[timer] = None
        return timer

    # ---- who sleeps ----

    def sleep(self, bell: ManualBell, until: float | None, timeout: float | None) -> bool:
        """Sleep until `bell` is rung, `until` by this clock, `timeout` real seconds at most."""
        worker: Worker | None = getattr(_here, "worker", None)
        if worker is not None and worker.seam is not self:  # of another block, around this one
            worker = None
        with self._lock:
            if ThreadBell.wait(bell, 0):
                return True
            if until is not None and until <= self.now:
                return False
            self._sleeps[bell] = Sleep(worker, until)
            if worker is not None:
                self.rested(worker)
        try:
            return ThreadBell.wait(bell, timeout)
        finally:
            with self._lock:
                self._woken(bell)  # unless who rang has noted it

    def ring(self, bell: ManualBell) -> None:
        """Ring `bell`; who sleeps there is awake from now on."""
        with self._lock:  # both at once: it may sleep again in a moment
            ThreadBell.ring(bell)
            self._woken(bell)

    def rested(self, worker: Worker) -> None:
        """Note that `worker` sleeps, or is gone."""
        with self._lock:
            self._awake.discard(worker)
            if self._tell is not None and self.is_at_rest():
                tell, self._tell = self._tell, None
                tell()

    def _woken(self, bell: ManualBell) -> None:
        sleep = self._sleeps.pop(bell, None)
        if sleep is not None:
            self.stirred += 1
            if sleep.worker is not None:
                self._awake.add(sleep.worker)

    def is_at_rest(self) -> bool:
        """Do all workers sleep, but for those that are left alone with what they have in hand?"""
        left_alone = self._left_alone
        return all(
            one in left_alone and left_alone[one] is one.batch() for one in self._awake.copy()
        )

    def when_at_rest(self, tell: Callable[[], object]) -> None:
        """Call `tell()` when `is_at_rest`, once, in whichever thread."""
        with self._lock:
            if self.is_at_rest():
                tell()
            else:
                self._tell = tell

    def leave_alone(self, *, everybody: bool) -> bool:
        """Wait no more for the batches that run now; `is_at_rest` then?

        Args:
            everybody: nor for who has no batch in hand, and is about to take one, perhaps.
        """
        with self._lock:
            for worker in self._awake:
                batch = worker.batch()
                if batch is not None or everybody:
                    self._left_alone[worker] = batch
            return self.is_at_rest()

    def mind_all(self) -> None:
        """Leave nobody alone any more."""
        with self._lock:
            self._left_alone.clear()

    # ---- time ----

    def next_due(self, end: float) -> float | None:
        """The next time up to `end` that somebody waits for."""
        with self._lock:
            times = [sleep.until for sleep in self._sleeps.values() if sleep.until is not None]
            times += [timer.when for timer in self._timers]
        return min((when for when in times if round(when, DIGITS) <= end), default=None)

    def move(self, when: float) -> None:
        """Let it be `when`, if it is not later, and wake those whose time has come."""
        with self._lock:
            self.now = now = max(self.now, when)
            for bell, sleep in list(self._sleeps.items()):
                if sleep.until is not None and sleep.until <= now:
                    bell.ring()
            due = [timer for timer in self._timers if timer.when <= now]
            due.sort(key=lambda timer: timer.when)
            self.stirred += len(due)
        for timer in due:
            timer.fire()

    def forget(self, timer: Timer) -> None:
        """`timer` was cancelled, or its time has come."""
        with self._lock:
            self._timers.pop(timer, None)

    def stop(self) -> None:
        """It never moves again: let go of the engines that wait for that."""
        with self._lock:
            self._timers.clear()


class ManualBell(ThreadBell):
    """A bell whose sleeper is known."""

    __slots__ = ("_seam",)

    def __init__(self, seam: ManualSeam) -> None:
        super().__init__()
        self._seam = seam

    def ring(self, _: object = None) -> None:
        self._seam.ring(self)

    def wait(self, timeout: float | None) -> bool:
        """Sleep until rung, at most `timeout` real seconds."""
        return self._seam.sleep(self, None, timeout)


class Timer:
    """What is to be called on a loop at a time by the clock of a `ManualSeam`."""

    def __init__(
        self, seam: ManualSeam, loop: AbstractEventLoop, when: float, call: Callable[[], object]
    ) -> None:
        self.when = when
        self._seam = seam
        self._loop = loop
        self._call: Callable[[], object] | None = call

    def fire(self) -> None:
        """Its time has come."""
        self._seam.forget(self)
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._run, context=Context())

    def _run(self) -> None:
        if self._call is not None:  # else it was cancelled meanwhile
            self._call()

    def cancel(self) -> None:
        self._seam.forget(self)
        self._call = None


class _Here(threading.local):
    worker: Worker  # in the threads that a seam has started


_here = _Here()


def _live(
    seam: ManualSeam, worker: Worker, target: Callable[..., None], args: tuple[Any, ...]
) -> None:
    """The life of a worker's thread."""
    worker.ident = threading.get_ident()
    _here.worker = worker
    try:
        target(*args)
    finally:
        seam.rested(worker)


_seams: WeakSet[ManualSeam] = WeakSet()


def _forked() -> None:
    """In the child of a fork: no thread is here, and one may have held the lock."""
    for seam in list(_seams):
        seam._begin()


lifecycle.after_fork_in_child(_forked)
