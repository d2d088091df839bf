"""A clock that the tests of users move by hand."""

from __future__ import annotations

import asyncio
import warnings
from asyncio import _get_running_loop as running_loop
from collections.abc import Callable, Coroutine
from datetime import timedelta
from threading import get_ident
from typing import Any

from . import waits
from .decorator import stand_down, stand_in
from .engine import lifecycle
from .engine.base import Countdown
from .engine.manual import DIGITS, ManualSeam
from .interpreter import monotonic
from .loopfuture import port_of, set_done
from .options import seconds as seconds_of

AT_THE_END = 1.0  # the least real seconds that the end of a block waits for what runs
ON_THE_WAY = 10.0  # and the most that an advance waits for a worker to take the batch that is due
QUIET = 3  # steps of a loop in which nothing happened: one may only have called the next
BUSY = 20  # steps in which something did before `patience` counts: a batch begins in a few


def manual_clock(*, patience: float = 5.0) -> ManualClock:
    """Within the block, the times of all batched functions are those of a clock that you move.

    `with manual_clock() as clock:`, or `async with`. The clock stands still but for
    `clock.advance(seconds)`, on an event loop `await clock.aadvance(seconds)`. By it go `linger`,
    `options(deadline=)`, `options(timeout=)` (the wait for room), `Retry(after=)`, the patience of
    priorities and the times that `stats()` and observers are told. In real time stay the waits of
    callers, `result(timeout)`, `flush(timeout)`, `close(timeout)`, and `exit_timeout`: a test that
    fails does not hang.

    It holds for every batched function in every thread, also for those decorated before. Each has
    a queue of its own in the block, with options and observers as they are outside, open or closed
    likewise: `stats()` begin at nothing, and changes of options, `close` and `start` end with the
    block. Items that were submitted before stay where they are, on the real clock. Blocks may be
    nested: the inner one has a clock of its own.

    At the end of the block nothing lingers any more: what was accepted is run, and waited for (on
    an event loop by `async with` only; after `with` it runs as the loop goes on). What takes longer
    than `patience`, or a second, is not waited for: what runs goes on, what has not started ends
    in `Closed`, and a RuntimeWarning counts it.

    Args:
        patience: real seconds that an advance waits for a batch to end. One that takes longer is
            taken to wait for something that the test is going to do, and goes on by itself. With 0,
            batches have started when an advance returns, and may not have ended.

    Raises:
        TypeError: `patience` is no number.
        ValueError: it is negative, or no number of seconds.
    """
    return ManualClock(seconds_of("patience", patience))


class ManualClock:
    """The clock of a block; made by `manual_clock`."""

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._seam = ManualSeam()
        self._is_open = False
        self._is_over = False
        self._is_moving = False

    @property
    def now(self) -> float:
        """The seconds by which it was advanced."""
        return round(self._seam.now, DIGITS)

    def advance(self, seconds: float | timedelta) -> None:
        """Let time pass, step by step: everything that becomes due does so at its own time.

        After each step all batches that are ready are run to their end, in worker threads and on
        loops that run in other threads, before the next step: a `Retry(after=0.1)` of a batch that
        leaves after 0.3 seconds runs at 0.4. So when this returns, whatever became due has left,
        its batches have ended and their futures are done. `advance(0)` lets happen what is to
        happen now.

        The exceptions go on by themselves: batches that take longer than `patience` in real time
        (see `manual_clock`), and those on a loop that await what is not of batchify, say a socket.
        Callers in other threads have been woken, no more.

        Args:
            seconds: how long, in seconds or as a timedelta, to the nanosecond.

        Raises:
            RuntimeError: on a thread that runs an event loop (await `aadvance`), in a batch, while
                another advance goes on, or outside of the block.
            TypeError: `seconds` is no number.
            ValueError: it is negative, or no number of seconds.
        """
        if running_loop() is not None:
            raise RuntimeError("advance would block the event loop: await clock.aadvance(...)")
        _run(self.aadvance(seconds))

    async def aadvance(self, seconds: float | timedelta) -> None:
        """`advance` on an event loop, whose tasks run until each awaits what is not there yet."""
        end = round(self._seam.now + seconds_of("seconds", seconds), DIGITS)
        if not self._is_open:
            raise RuntimeError("the clock can be advanced in its block only")
        if get_ident() in waits.serving_threads or waits.serving_batch() is not None:
            raise RuntimeError("a batch cannot advance the clock: the advance would wait for it")
        if self._is_moving:
            raise RuntimeError("the clock is being advanced")
        self._is_moving = True
        try:
            await self._settle()
            while (when := self._seam.next_due(end)) is not None:
                self._seam.move(when)
                await self._settle()
            self._seam.move(end)
        finally:
            self._seam.mind_all()
            self._is_moving = False

    def __repr__(self) -> str:
        return f"<ManualClock at {self.now:g} s>"

    # ---- the block ----

    def __enter__(self) -> ManualClock:
        if self._is_open or self._is_over:
            raise RuntimeError("a manual clock has one block: make another one")
        self._is_open = True
        stand_in(self._seam)
        return self

    def __exit__(self, *_: object) -> None:
        if running_loop() is None:
            _run(self.__aexit__())
            return
        self._hurry()
        self._end()
        self._hurry()  # what another thread has submitted meanwhile

    async def __aenter__(self) -> ManualClock:
        return self.__enter__()

    async def __aexit__(self, *_: object) -> None:
        until = monotonic() + max(self._patience, AT_THE_END)
        try:
            await self._finish(until)
        finally:
            self._end()
        if await self._finish(until):  # as above
            await self._settle()  # the workers have put everything away
        for engine in self._engines():
            if lifecycle.can_run(engine):
                _close(engine)

    def _end(self) -> None:
        self._is_open, self._is_over = False, True
        stand_down(self._seam)
        self._seam.stop()

    def _engines(self) -> list[Any]:
        every = lifecycle.all_engines()
        return [one for one in every if hasattr(one, "left") and one.seam is self._seam]

    def _hurry(self) -> list[Any]:
        """Let everything leave; gives the futures of what is left where somebody can run it."""
        futures = []
        for engine in self._engines():
            left = engine.hurry(is_ending=False)
            if lifecycle.can_run(engine):
                futures += left
        return futures

    async def _finish(self, until: float) -> bool:
        """Wait until nothing is left, also of what batches submit meanwhile; False when late."""
        port = port_of(asyncio.get_running_loop())
        before: dict[int, int] | None = None
        while True:
            futures = self._hurry()
            if not futures:
                before, last = lifecycle.batches_of(self._engines()), before
                if before == last:
                    return True
                continue
            over = port.loop.create_future()
            countdown = Countdown(futures, lambda over=over: port.call(set_done, over))  # type: ignore[misc]
            try:
                await asyncio.wait_for(over, max(0.0, until - monotonic()))
            except TimeoutError:
                return False
            finally:
                countdown.give_up()

    # ---- until nothing is left to do at this time ----

    async def _settle(self) -> None:
        """Let everybody run who is to, until all sleep or wait for what no clock brings."""
        while True:
            stirred = self._seam.stirred
            await self._rest()
            loops = {
                engine.port.loop: engine.home is not None
                for engine in self._engines()
                if hasattr(engine, "port")
            }
            loops.setdefault(asyncio.get_running_loop(), False)
            went_on = [
                await self._goes_on(loop, is_background)
                for loop, is_background in loops.items()
                if is_background or loop.is_running()
            ]
            if self._seam.stirred == stirred and not any(went_on):
                return

    async def _rest(self) -> None:
        """Wait until all worker threads sleep, or are in batches that take too long."""
        port = port_of(asyncio.get_running_loop())
        over = port.loop.create_future()
        self._seam.when_at_rest(lambda: port.call(set_done, over))
        try:
            await asyncio.wait_for(over, self._patience)
        except TimeoutError:
            end = monotonic() + ON_THE_WAY
            # Who takes a batch tells nobody.
            while not self._seam.leave_alone(everybody=monotonic() > end):  # noqa: ASYNC110
                await asyncio.sleep(0.001)

    async def _goes_on(self, loop: asyncio.AbstractEventLoop, is_background: bool) -> bool:
        """Let the tasks of a loop run until all wait; was there anything to run?

        That in the background may not run yet, just after the first call.
        """
        port = port_of(asyncio.get_running_loop())
        told = port.loop.create_future()
        look = _Look(loop, self._patience, lambda: port.call(set_done, told))
        try:
            loop.call_soon_threadsafe(look.begin)
        except RuntimeError:  # it was closed meanwhile
            return True
        end = monotonic() + self._patience + AT_THE_END
        while not told.done():
            if not is_background and not loop.is_running():  # it ended meanwhile
                return True
            if monotonic() > end:  # its thread is blocked
                return False
            await asyncio.wait([told], timeout=0.05)
        if look.error is not None:
            raise look.error
        return look.went_on


class _Look:
    """Calls back when all tasks of a loop wait. No task itself: a loop may end before it does."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, patience: float, tell: Callable[[], object]
    ) -> None:
        self._loop, self._patience, self._tell = loop, patience, tell
        self._quiet = self._steps = 0
        self.went_on = False
        self.error: BaseException | None = None

    def begin(self) -> None:
        self._end = monotonic() + self._patience
        self._loop.call_soon(self._step)

    def _step(self) -> None:
        self._steps += 1
        try:
            self._quiet = 0 if _is_busy(self._loop) else self._quiet + 1
        except Exception as error:  # a task of another kind, of which nothing is known
            self.error = error
            self._tell()
            return
        self.went_on = self._steps > QUIET
        if self._steps > BUSY and monotonic() > self._end:
            self.went_on = False  # it polls, say: that is for itself
        elif self._quiet < QUIET:
            self._loop.call_soon(self._step)
            return
        self._tell()


def _is_busy(loop: Any) -> bool:
    """Is there anything that runs in the next step of this loop?"""
    if getattr(loop, "_ready", None):  # asyncio's own loops
        return True
    return any(_can_go_on(task) for task in asyncio.all_tasks(loop))


def _can_go_on(task: Any) -> bool:
    waiter = task._fut_waiter
    return waiter is None or waiter.done()


def _close(engine: Any) -> None:
    """End what did not start, and the workers; what runs ends by itself."""
    is_idle = not engine.batches
    count = engine.closed(abandon=False)
    if is_idle:
        engine.join(AT_THE_END)
    if count:
        warnings.warn(
            f"{engine.options.name}: {count} items had not started at the end of a manual clock's "
            f"block; they ended in Closed",
            RuntimeWarning,
            stacklevel=2,
        )


def _run(coroutine: Coroutine[Any, Any, None]) -> None:
    """Run it on a loop of its own; the thread's current loop stays what it is."""
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        runner.run(coroutine)
