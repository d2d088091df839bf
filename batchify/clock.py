"""The manual clock for users' tests: time passes only when the test advances it.

Each block has its own queues and its own time; engines and threads are the real ones.
`testing` and the pytest plugin offer it to users.
"""

from __future__ import annotations

import asyncio
import warnings
from asyncio import _get_running_loop as running_loop
from collections.abc import Callable, Coroutine
from datetime import timedelta
from threading import get_ident
from typing import Any

from . import waits
from .decorator import restore_seam, use_seam
from .engine import lifecycle
from .engine.base import Countdown
from .engine.manual import DIGITS, ManualSeam
from .interpreter import monotonic
from .logs import items
from .loopfuture import port_of, set_done
from .options import seconds as seconds_of

MIN_EXIT_WAIT = 1.0  # real seconds that the end of a block waits for running batches, at least
MAX_TAKE_WAIT = 10.0  # real seconds that an advance waits for a worker to take a due batch, at most
QUIET_STEPS = 3  # a loop is idle after this many idle steps: one step may only schedule the next
BUSY_STEPS = 20  # a loop gets this many steps before `patience` applies: a batch starts in a few


def manual_clock(*, patience: float = 5.0) -> ManualClock:
    """Return a clock that replaces real time for all batched functions in its block.

    Write `with manual_clock() as clock:`, or `async with`. Time passes only when the test calls
    `clock.advance(seconds)`, or, on an event loop, `await clock.aadvance(seconds)`.

    The clock applies to `linger`, `options(deadline=)`, `options(timeout=)` (the wait for
    capacity), `Retry(after=)`, the aging of priorities, and the times in `stats()` and in events
    for observers. Real time still applies to callers that wait, to `result(timeout)`,
    `flush(timeout)` and `close(timeout)`, and to `exit_timeout`, so that a failing test does not
    hang.

    The clock applies to every batched function in every thread, including those decorated before
    the block. In the block each function has a new queue, with the options and observers that it
    has outside, and open or closed as it is outside. `stats()` starts at zero; changed options,
    `close` and `start` are undone when the block ends. Items submitted before the block stay on the
    real clock. Blocks may be nested; the inner block has its own clock.

    At the end of the block all accepted items are run without lingering, and the block waits for
    them. On an event loop only `async with` waits; after `with` they run when the loop continues.
    The block waits for `patience` seconds, at least for one second. After that, running batches
    continue, items that have not started fail with `Closed`, and a RuntimeWarning gives their
    number.

    Args:
        patience: real seconds that an advance waits for a batch to finish. If a batch takes longer,
            it probably waits for something that the test does later, so the advance leaves it
            running. With 0, batches have started when an advance returns, but may still run.

    Raises:
        TypeError: `patience` is not a number.
        ValueError: `patience` is negative, or not a valid number of seconds.
    """
    return ManualClock(seconds_of("patience", patience))


class ManualClock:
    """The clock of one block, returned by `manual_clock`."""

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._seam = ManualSeam()
        self._is_open = False
        self._is_over = False
        self._is_moving = False

    @property
    def now(self) -> float:
        """Return the seconds by which the clock was advanced so far."""
        return round(self._seam.now, DIGITS)

    def advance(self, seconds: float | timedelta) -> None:
        """Advance the clock, stopping at each time at which something becomes due.

        At each stop, all batches that are ready run to their end, in worker threads and on loops in
        other threads, before the clock moves on. For example, a `Retry(after=0.1)` from a batch
        that is dispatched at 0.3 seconds runs at 0.4. So when this method returns, everything that
        became due was dispatched, its batches have finished and their futures are done.
        `advance(0)` runs what is due now.

        This method does not wait for batches that take longer than `patience` in real time (see
        `manual_clock`), nor for batches on a loop that await something outside of batchify, such as
        a socket. Callers in other threads were notified, but may not have run yet.

        Args:
            seconds: how far, in seconds or as a timedelta, rounded to nanoseconds.

        Raises:
            RuntimeError: it was called on a thread that runs an event loop (use `aadvance` there),
                in a batch, during another advance, or outside of the block.
            TypeError: `seconds` is not a number.
            ValueError: `seconds` is negative, or not a valid number of seconds.
        """
        if running_loop() is not None:
            raise RuntimeError(
                "advance() would block the event loop; use await clock.aadvance(...)"
            )
        _run(self.aadvance(seconds))

    async def aadvance(self, seconds: float | timedelta) -> None:
        """Advance the clock from a coroutine; the loop's other tasks run until all of them wait.

        For everything else see `advance`.
        """
        end = round(self._seam.now + seconds_of("seconds", seconds), DIGITS)
        if not self._is_open:
            raise RuntimeError("the manual clock can be advanced only inside its block")
        if get_ident() in waits.serving_threads or waits.serving_batch() is not None:
            raise RuntimeError(
                "a batch cannot advance the clock: advance() would wait for that batch"
            )
        if self._is_moving:
            raise RuntimeError("the clock is being advanced by another call")
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
            raise RuntimeError("a manual clock has one block only; call manual_clock() again")
        self._is_open = True
        use_seam(self._seam)
        return self

    def __exit__(self, *_: object) -> None:
        if running_loop() is None:
            _run(self.__aexit__())
            return
        self._flush()
        self._end()
        self._flush()  # items that another thread submitted in the meantime

    async def __aenter__(self) -> ManualClock:
        return self.__enter__()

    async def __aexit__(self, *_: object) -> None:
        until = monotonic() + max(self._patience, MIN_EXIT_WAIT)
        try:
            await self._finish(until)
        finally:
            self._end()
        if await self._finish(until):  # items that another thread submitted in the meantime
            await self._settle()  # until the workers have updated their counts
        for engine in self._engines():
            if lifecycle.can_run(engine):
                _close(engine)

    def _end(self) -> None:
        self._is_open, self._is_over = False, True
        restore_seam(self._seam)
        self._seam.stop()

    def _engines(self) -> list[Any]:
        every = lifecycle.all_engines()
        return [one for one in every if hasattr(one, "left") and one.seam is self._seam]

    def _flush(self) -> list[Any]:
        """Dispatch all items; return the futures of those that a thread or loop can still run."""
        futures = []
        for engine in self._engines():
            left = engine.hurry(is_ending=False)
            if lifecycle.can_run(engine):
                futures += left
        return futures

    async def _finish(self, until: float) -> bool:
        """Wait for all items, including those that batches submit; return False at time `until`."""
        port = port_of(asyncio.get_running_loop())
        before: dict[int, int] | None = None
        while True:
            futures = self._flush()
            if not futures:
                before, last = lifecycle.batches_of(self._engines()), before
                if before == last:
                    return True
                continue
            done = port.loop.create_future()
            countdown = Countdown(futures, lambda done=done: port.call(set_done, done))  # type: ignore[misc]
            try:
                await asyncio.wait_for(done, max(0.0, until - monotonic()))
            except TimeoutError:
                return False
            finally:
                countdown.give_up()

    # ---- wait until nothing is left to do at the current time ----

    async def _settle(self) -> None:
        """Wait until all threads and loops sleep, or wait for something outside of batchify."""
        while True:
            stirred = self._seam.stirred
            await self._wait_for_threads()
            loops = {
                engine.port.loop: engine.home is not None
                for engine in self._engines()
                if hasattr(engine, "port")
            }
            loops.setdefault(asyncio.get_running_loop(), False)
            had_work = [
                await self._run_loop(loop, is_background)
                for loop, is_background in loops.items()
                if is_background or loop.is_running()
            ]
            if self._seam.stirred == stirred and not any(had_work):
                return

    async def _wait_for_threads(self) -> None:
        """Wait until all worker threads sleep, or run batches that take longer than `patience`."""
        port = port_of(asyncio.get_running_loop())
        at_rest = port.loop.create_future()
        self._seam.when_at_rest(lambda: port.call(set_done, at_rest))
        try:
            await asyncio.wait_for(at_rest, self._patience)
        except TimeoutError:
            end = monotonic() + MAX_TAKE_WAIT
            # Polled, because taking a batch sends no notification.
            while not self._seam.leave_alone(everybody=monotonic() > end):  # noqa: ASYNC110
                await asyncio.sleep(0.001)

    async def _run_loop(self, loop: asyncio.AbstractEventLoop, is_background: bool) -> bool:
        """Wait until all tasks of a loop wait; return True if there was anything to run.

        Args:
            loop: the event loop.
            is_background: True for batchify's own loop, which may not have started to run yet.
        """
        port = port_of(asyncio.get_running_loop())
        idle = port.loop.create_future()
        watcher = _IdleWatcher(loop, self._patience, lambda: port.call(set_done, idle))
        try:
            loop.call_soon_threadsafe(watcher.begin)
        except RuntimeError:  # the loop was closed in the meantime
            return True
        end = monotonic() + self._patience + MIN_EXIT_WAIT
        while not idle.done():
            if not is_background and not loop.is_running():  # the loop ended in the meantime
                return True
            if monotonic() > end:  # the loop's thread is blocked
                return False
            await asyncio.wait([idle], timeout=0.05)
        if watcher.error is not None:
            raise watcher.error
        return watcher.had_work


class _IdleWatcher:
    """Calls back when all tasks of a loop wait.

    It uses callbacks instead of a task, because the loop may end first and would cancel a task.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, patience: float, on_idle: Callable[[], object]
    ) -> None:
        self._loop, self._patience, self._on_idle = loop, patience, on_idle
        self._idle_steps = self._steps = 0
        self.had_work = False
        self.error: BaseException | None = None

    def begin(self) -> None:
        self._end = monotonic() + self._patience
        self._loop.call_soon(self._step)

    def _step(self) -> None:
        self._steps += 1
        try:
            self._idle_steps = 0 if _is_busy(self._loop) else self._idle_steps + 1
        except Exception as error:  # the loop has tasks of an unknown type
            self.error = error
            self._on_idle()
            return
        self.had_work = self._steps > QUIET_STEPS
        if self._steps > BUSY_STEPS and monotonic() > self._end:
            self.had_work = False  # a task polls, for example; do not wait for it again
        elif self._idle_steps < QUIET_STEPS:
            self._loop.call_soon(self._step)
            return
        self._on_idle()


def _is_busy(loop: Any) -> bool:
    """Return True if anything runs in the next step of this loop."""
    if getattr(loop, "_ready", None):  # asyncio's own loops
        return True
    return any(_can_run(task) for task in asyncio.all_tasks(loop))


def _can_run(task: Any) -> bool:
    waiter = task._fut_waiter
    return waiter is None or waiter.done()


def _close(engine: Any) -> None:
    """End the items that have not started, and the workers; running batches finish later."""
    is_idle = not engine.batches
    count = engine.closed(abandon=False)
    if is_idle:
        engine.join(MIN_EXIT_WAIT)
    if count:
        warnings.warn(
            f"{engine.options.name}: {items(count)} had not started at the end of the manual "
            f"clock's block and failed with Closed",
            RuntimeWarning,
            stacklevel=2,
        )


def _run(coroutine: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine on a new loop, without changing the thread's current loop."""
    with asyncio.Runner(loop_factory=asyncio.new_event_loop) as runner:
        runner.run(coroutine)
