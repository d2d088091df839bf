"""Events of the whole process: forks, and signals that interrupt calls of its main thread."""

from __future__ import annotations

# Imported now, not by a thread during a fork: the module has fork hooks, which would release a
# lock there that they have not acquired (CPython).
import concurrent.futures.thread  # noqa: F401  # pyright: ignore[reportUnusedImport]
import contextlib
import gc
import os
import random
import select
import signal
import sys
import threading
import traceback
import warnings
from types import FrameType
from typing import Any

from batchify import Deadlock, Forked, QueueFull
from batchify.interpreter import has_gil

from ..limits import LIMIT
from . import plan
from .outcomes import MAY_CANCEL, MAYBE, UNKNOWN, WRONG
from .stage import Pairs, Stage
from .town import Target, Town

OURS = os.path.dirname(__file__)


def is_traced() -> bool:
    """Return True if a tracing tool is active, whose locks a handler or a fork could meet."""
    coverage = sys.modules.get("coverage")
    return coverage is not None and coverage.Coverage.current() is not None


# Without a GIL every dict, list and set has a lock. CPython stops all threads before it forks. But
# a lock that is handed to a thread that has waited for more than 1 ms (`handed_off` in
# Python/lock.c) stays locked in the child, which lacks that thread. Any code may then hang: threads
# that write to one dict, and a child that clears it, hang within 50 forks of 3.13.15 without
# batchify. test_fork_races tests what the engine itself can do about it.
MAY_FORK = hasattr(os, "fork") and has_gil()
NO_FORK = "NOT DONE: no fork among threads without a GIL, as CPython's own child may hang"


def is_firm(target: Target) -> bool:
    """Return True if handlers may raise during calls of this function."""
    return not target.is_ranked  # those may run other callers' callbacks, which belong to the test


class Process:
    """Actions of the main thread in an epoch, while the players run.

    They happen after randomly chosen numbers of items.
    """

    def __init__(self, town: Town) -> None:
        self.town = town
        self.ledger = ledger = town.ledger
        self.rng = rng = random.Random(f"{ledger.seed} process")
        is_main = threading.current_thread() is threading.main_thread()
        acts: list[tuple[int, Any]] = []

        def plan_acts(act: Any, every: int) -> None:
            count = max(1, ledger.items // every)
            acts.extend((rng.randrange(ledger.items * 9 // 10 + 1), act) for _ in range(count))

        if is_main and not is_traced():
            plan_acts(self.storm, plan.ITEMS_PER_STORM)
            if MAY_FORK:
                plan_acts(self.fork, plan.ITEMS_PER_FORK)
            elif hasattr(os, "fork"):
                ledger.count(ledger.events, NO_FORK)
        self.acts = sorted(acts, key=lambda act: act[0], reverse=True)

    def act(self) -> None:
        """Perform the actions that are due."""
        while self.acts and self.ledger.handed >= self.acts[-1][0] and not self.ledger.is_over:
            self.acts.pop()[1]()

    def _targets(self) -> list[Target]:
        return [target for target in self.town.all if target.call is not None]

    # ---- signals ----

    def storm(self) -> None:
        """Send SIGINT and SIGTERM during calls, with a handler that submits or raises."""
        target = self.rng.choice([target for target in self._targets() if is_firm(target)])
        ids = self.ledger.take(400)
        Storm(Stage(self.ledger, self.rng, target, ids, [])).rage()

    # ---- forks ----

    def fork(self) -> None:
        """Fork while everything runs; in the child futures end in `Forked`, and functions work."""
        pairs: Pairs = []
        stages = []
        for target in self.rng.sample(self._targets(), 6):
            ids = self.ledger.take(min(20, target.most))
            stage = Stage(self.ledger, self.rng, target, ids, [])
            call = target.call.options(timeout=1)  # so that a hung fork ends
            stages.append((stage, stage.submit_all(call, may=(QueueFull, Deadlock))))
            pairs += stages[-1][1]
        ours, theirs = os.pipe()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # forking with threads
            pid = os.fork()
        if pid == 0:
            self._live_as_child(pairs, theirs)
        os.close(theirs)
        self._wait_for_child(pid, ours)
        self.ledger.count(self.ledger.events, "fork")
        for stage, own in stages:
            stage.collect(own, LIMIT)

    def _live_as_child(self, pairs: Pairs, report: int) -> None:
        told = "?"
        try:
            self.ledger.forked()
            told = self._look_as_child(pairs)
        except BaseException:
            told = traceback.format_exc()
        finally:
            os.write(report, told.encode())
            os._exit(0)

    def _look_as_child(self, pairs: Pairs) -> str:
        """Return what is wrong in the child, if anything."""
        for n, future in pairs:
            name = self.town.all[self.ledger.home[n]].name
            if not future.done():
                return f"the copy of a future of {name} did not end"
            error = None if future.cancelled() else future.exception(0)
            if not isinstance(error, Forked):
                self.ledger.look(n, future)  # it ended before the fork
                if self.ledger.seen[n] == WRONG:
                    return f"the copy of a future of {name} ended in {error!r}"
        for target in self.rng.sample(self._targets(), 3):
            own = target.call.options(timeout=5)
            target.call.start()
            stage = Stage(self.ledger, self.rng, target, self.ledger.take(5), [])
            for _, future in stage.submit_all(own, may=(QueueFull,)):
                if target.call.linger is None:
                    target.call.flush(LIMIT)
                if not future.cancelled():
                    future.exception(LIMIT)
        return "fine"

    def _wait_for_child(self, pid: int, report: int) -> None:
        is_told, _, _ = select.select([report], [], [], LIMIT)
        told = os.read(report, 10_000).decode() if is_told else "it hangs"
        os.close(report)
        if told != "fine":
            self.ledger.complain(f"the child of a fork: {told or 'it died'}")
            os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


# Not in finalizers, nor while CPython makes a loop (no other code could close the half-made one),
# nor in the callback of a WeakSet: CPython swallows it there, and prints it to stderr.
NOT_THERE = ("__del__", "new_event_loop", "_remove")


class Interrupt(Exception):
    """Raised by the handler."""


class Storm:
    """Submits from the main thread while another thread sends signals."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.ledger = stage.ledger
        half = len(stage.ids) // 2
        self.ids, self.spare = stage.ids[:half], list(stage.ids[half:])
        self.is_armed = False
        self.is_over = threading.Event()
        self.hits = 0

    def rage(self) -> None:
        numbers = (signal.SIGINT, signal.SIGTERM)
        before = [signal.signal(number, self.handle) for number in numbers]
        sender = threading.Thread(target=self.send, args=(numbers,), daemon=True)
        pairs: Pairs = []
        try:
            sender.start()
            gc.disable()  # the engine cannot repair a finalizer that an exception interrupted
            for n in self.ids:
                with contextlib.suppress(Interrupt):
                    self.call(n, pairs)
        finally:
            gc.enable()
            self.is_armed = False
            self.is_over.set()
            sender.join()
            for number, handler in zip(numbers, before, strict=True):
                signal.signal(number, handler)
        self.stage.event("signal handler that raises", self.hits)
        self.stage.collect(pairs, LIMIT)

    def call(self, n: int, pairs: Pairs) -> None:
        """Make one call; if the handler raises in it, the outcome is unknown."""
        ledger, target = self.ledger, self.stage.target
        ledger.prepare(target, n, UNKNOWN | MAYBE | MAY_CANCEL)
        extra = (n % 3,) if target.is_grouped else ()
        more = {"level": n % 2} if target.is_grouped else {}
        try:
            self.is_armed = True
            future = target.call(n, *extra, **more)
            self.is_armed = False
        except Interrupt:
            return
        except BaseException as error:
            self.is_armed = False
            ledger.prepare(target, n)
            ledger.refused(target, n, error, (QueueFull,))
            return
        ledger.prepare(target, n)
        pairs.append((n, future))

    def handle(self, number: int, frame: FrameType | None) -> None:
        """Submit or raise, once per call, and never while the test keeps its records."""
        if not self.is_armed or not self.is_in_the_engine(frame):
            return
        self.is_armed = False
        if number == signal.SIGTERM and self.spare:
            n = self.spare.pop()
            self.ledger.submit_and_forget(self.stage.target, n)
            self.stage.event("signal handler that submits")
            return
        self.hits += 1
        raise Interrupt

    def is_in_the_engine(self, frame: FrameType | None) -> bool:
        """Return True if the interrupted frame is below our call, without test code in between."""
        while frame is not None and frame.f_code is not Storm.call.__code__:
            if frame.f_code.co_filename.startswith(OURS) or frame.f_code.co_name in NOT_THERE:
                return False
            frame = frame.f_back
        return frame is not None

    def send(self, numbers: tuple[signal.Signals, ...]) -> None:
        """Send signals: soon for most calls, later for calls that wait for capacity."""
        main = threading.main_thread().ident
        rng = random.Random(self.ids.start)
        assert main is not None
        while not self.is_over.wait(rng.random() * rng.choice((0, 0.00005, 0.0005))):
            signal.pthread_kill(main, rng.choice(numbers))
