"""A seam on which one thread runs at a time, when the test says so, and time stands still.

The threads and the engine's code are real, but a thread runs only when the test releases it, and
stops where it would sleep. So after each step the whole process is at rest without waiting, a run
depends on the test's actions only, and a blocked call can be inspected.
"""

from __future__ import annotations

import faulthandler
import threading
from _thread import allocate_lock
from collections import deque
from collections.abc import Callable
from typing import Any

from batchify.engine.mending import live_on
from batchify.engine.seam import Seam
from tests.limits import LIMIT


class Vanished(BaseException):
    """Ends a thread that does not exist in the child of a fork."""


class Turns(Seam):
    """The seam; it also decides which thread may run."""

    def __init__(self) -> None:
        self.now = 0.0
        self.ready: deque[Turn] = deque()  # in the order in which they were woken
        self.turns: list[Turn] = []  # the threads that live
        self.vanished: list[Turn] = []
        self.running: Turn | None = None  # None: the test itself
        self.is_stuck = False  # a thread did not stop
        self.back = locked()  # released when a thread stops

    # ---- called by the engine ----

    def clock(self) -> float:
        return self.now

    def bell(self) -> TurnBell:
        return TurnBell(self)

    def spawn(self, target: Callable[..., None], args: tuple[Any, ...], name: str) -> Turn:
        if target is live_on:  # it would also continue after `Vanished`
            target, _, *args = args  # type: ignore[assignment]
        turn = Turn(self, target, tuple(args))
        self.turns.append(turn)
        self.ready.append(turn)
        return turn

    # ---- called by the test ----

    def call(self, function: Callable[..., Any], *args: Any) -> Turn:
        """Call `function(*args)` in a thread, and run it until it sleeps or ends."""
        turn = Turn(self, function, args)
        self.turns.append(turn)
        self.run_turn(turn)
        return turn

    def run_turn(self, turn: Turn) -> None:
        """Run a thread until it sleeps or ends."""
        self.running = turn
        turn.thread.go.release()
        if not self.back.acquire(timeout=LIMIT):
            self.is_stuck = True
            faulthandler.dump_traceback()
            raise AssertionError("a thread neither sleeps nor ends")
        self.running = None

    def settle(self) -> None:
        """Run all threads that were woken, until all sleep."""
        while self.ready:
            self.run_turn(self.ready.popleft())

    def next_alarm(self) -> float | None:
        """Return the time of the next timeout of a sleeping thread."""
        return min((t.end for t in self.turns if t.end is not None), default=None)

    def wake_due(self) -> None:
        """Wake the threads whose timeout has passed."""
        for turn in [t for t in self.turns if t.end is not None and t.end <= self.now]:
            turn.wake(is_rung=False)

    def blink(self) -> None:
        """Wake each sleeping or idle thread for an instant.

        Without a GIL, an object that other threads have released is freed when the thread that
        created it runs.
        """
        for thread in [*(turn.thread for turn in [*self.turns, *self.vanished]), *idle]:
            thread.blink()

    def vanish(self, but: Turn | None = None) -> None:
        """Remove all threads but one, as in the child of a fork."""
        gone = [turn for turn in self.turns if turn is not but]
        for turn in gone:
            if turn.bell is not None:
                turn.bell.sleeper = None  # nothing wakes it
        self.vanished += gone
        self.turns = [turn for turn in self.turns if turn is but]
        self.ready.clear()

    def bury(self) -> None:
        """End all threads by an exception raised in their sleep."""
        while (self.turns or self.vanished) and not self.is_stuck:
            self.vanish()
            turn = self.vanished.pop()
            turn.is_vanished = True
            while not turn.is_done:
                self.run_turn(turn)


class Turn:
    """The work of one thread, from its start to its end."""

    def __init__(self, seam: Turns, target: Callable[..., Any], args: tuple[Any, ...]) -> None:
        self.seam = seam
        self.work: Any = (target, args)
        self.value: Any = None
        self.error: tuple[type, tuple[Any, ...]] | None = (
            None  # no exception object: it holds frames
        )
        self.bell: TurnBell | None = None  # the bell at which it sleeps
        self.end: float | None = None  # and its timeout
        self.was_rung = False
        self.is_done = self.is_vanished = False
        self.joiners: list[TurnBell] = []
        self.thread = idle.pop() if idle else Thread()
        self.thread.turn = self

    def run(self) -> None:
        (target, args), self.work = self.work, None
        if not self.is_vanished:
            try:
                self.value = target(*args)
            except BaseException as error:
                self.error = (type(error), error.args)
        del target, args
        self.is_done = True
        if self in self.seam.turns:
            self.seam.turns.remove(self)
        for bell in self.joiners:
            bell.ring()

    def sleep(self, bell: TurnBell, end: float | None) -> bool:
        """Hand control to the test, and sleep until the test runs this thread again."""
        if self.is_vanished:
            raise Vanished
        self.bell, self.end, bell.sleeper = bell, end, self
        self.seam.back.release()
        self.thread.stand()
        if self.is_vanished:
            raise Vanished
        return self.was_rung

    def wake(self, is_rung: bool) -> None:
        assert self.bell is not None
        self.bell.sleeper = self.bell = self.end = None
        self.was_rung = is_rung
        self.seam.ready.append(self)

    def join(self, timeout: float | None = None) -> None:
        if not self.is_done and self not in self.seam.vanished:
            bell = self.seam.bell()
            self.joiners.append(bell)
            bell.wait(timeout)


class TurnBell:
    """A bell at which a thread stops until the test runs it again."""

    def __init__(self, seam: Turns) -> None:
        self.seam = seam
        self.cargo: Any = None
        self.sleeper: Turn | None = None
        self.is_rung = False

    def ring(self, _: object = None) -> None:
        if self.sleeper is None:
            self.is_rung = True
        else:
            self.sleeper.wake(is_rung=True)

    def wait(self, timeout: float | None) -> bool:
        if self.is_rung:
            self.is_rung = False
            return True
        if timeout is not None and not timeout > 0:
            return False
        me = self.seam.running
        assert me is not None, "this call must not block"
        return me.sleep(self, None if timeout is None else self.seam.now + timeout)


class Thread:
    """A real thread, reused for many turns, because starting one is slow."""

    def __init__(self) -> None:
        self.go = locked()
        self.turn: Turn | None = None
        self.blinked: Any = None
        threading.Thread(target=self._live, daemon=True).start()

    def stand(self) -> None:
        """Wait, in this thread, until the test runs it."""
        self.go.acquire()
        while self.blinked is not None:
            blinked, self.blinked = self.blinked, None
            blinked.release()
            self.go.acquire()

    def blink(self) -> None:
        """Wake this thread for an instant."""
        blinked = self.blinked = locked()
        self.go.release()
        assert blinked.acquire(timeout=LIMIT)

    def _live(self) -> None:
        while True:
            self.stand()
            turn = self.turn
            assert turn is not None
            turn.run()
            self.turn = None
            idle.append(self)
            back = turn.seam.back
            del turn
            back.release()


idle: list[Thread] = []


def locked() -> Any:
    lock = allocate_lock()
    lock.acquire()
    return lock
