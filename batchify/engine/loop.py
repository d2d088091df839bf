"""The driver for `async def`: batches are tasks on the caller's own loop, without threads.

Each loop has a `LoopEngine` of its own, with `workers` batches at a time. A batch takes its
items in the first step of its task: with `linger=0` that is everything of this tick of the loop.
Callers without a loop share one loop in a background thread.

The end of a loop: an async generator that the loop closes (`shutdown_asyncgens`, part of
`asyncio.run`) runs what still waits. A loop closed without that drops its timers, one of which
owns an object that ends what is left when it goes.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import inspect
import types
import warnings
from asyncio import _get_running_loop as running_loop
from collections.abc import AsyncGenerator, Callable, Generator, Sequence
from contextvars import Context, copy_context
from threading import get_ident
from typing import Any
from weakref import ref

from .. import waits
from ..forming import Route
from ..future import BatchFuture
from ..loopfuture import LoopFuture, Port, set_done
from ..options import Live
from ..outcome import to_raised
from ..tracing import tracers
from . import lifecycle
from .base import Countdown, Engine
from .batch import Batch
from .mending import holding, mended
from .seam import LOOK, YEAR, Handle, Limit, Seam

_CONTEXT = Context()  # what batches run in: nothing but the mark that they do
_CONTEXT.run(waits.in_batch.set, True)


class LoopEngine(Engine):
    """An engine whose batches run on one event loop."""

    can_await = True

    def __init__(
        self,
        live: Live,
        takes_more: bool,
        seam: Seam,
        port: Port,
        home: Any,
        on_loop_closed: Callable[[Port], None],
    ) -> None:
        super().__init__(live, takes_more, seam)
        self.port = port
        self.home = home  # keeps the background thread, while this engine may need it
        self._on_loop_closed = on_loop_closed
        self._tasks: dict[asyncio.Task[None], Batch | None] = {}
        self._timer: Handle | None = None
        self._alarm = 0.0
        self._deadline_timer: Handle | None = None
        self._weak: ref[LoopEngine] = ref(self)

    # ---- who is there ----

    def _is_free(self) -> bool:
        return len(self._tasks) < self.options.workers and not self.port.loop.is_closed()

    def _rouse(self) -> None:
        if running_loop() is self.port.loop:
            self._start_task()
        elif not self.port.call(self._come):
            self._no_worker = f"{self.options.name}: the event loop is closed"
            return
        self._roused = True

    @mended
    def _come(self) -> None:
        """Called for from another thread: somebody here may have taken the permit meanwhile."""
        with self._lock:
            self._begin()
            self._roused = False
            self._look()
            self._end()
        self._after()

    def _start_task(self) -> None:
        # Not loop.create_task: an eager factory would take the first item alone.
        work = self._work()
        try:
            task = asyncio.Task(
                work,
                loop=self.port.loop,
                name=f"batchify:{self.options.name}",
                context=_CONTEXT.copy(),  # not that of the caller that came first
            )
        except BaseException:
            work.close()
            raise
        self._tasks[task] = None
        task.add_done_callback(self._task_ended, context=Context())

    def _has_alarm(self, when: float) -> bool:
        return self._timer is not None and self._alarm <= when

    def _set_alarm(self, when: float) -> None:
        if running_loop() is not self.port.loop:
            self.port.call(self._look_again)
            return
        if self._timer is not None:
            self._timer.cancel()
        self._alarm = when
        self._timer = self.seam.call_at(self.port.loop, when, self._on_alarm)

    def _on_alarm(self) -> None:
        self._timer = None
        self._look_again()

    def _set_deadline(self, when: float) -> None:
        if running_loop() is not self.port.loop:
            self.port.call(self._on_deadline)
            return
        if self._deadline_timer is not None:
            self._deadline_timer.cancel()
        self._deadline_timer = self.seam.call_at(self.port.loop, when, _expire, self._weak)

    def _on_deadline(self) -> None:
        self._deadline_timer = None
        when = self.expire()
        if when is not None:
            self._set_deadline(when)

    def _worker_count(self) -> int:
        return len(self.batches)

    def _end_workers(self) -> None:
        return

    def join(self, timeout: float | None) -> None:
        if running_loop() is self.port.loop:
            return  # the caller would wait for itself
        # Without a limit this would hang if user code blocks the loop until the close returns.
        limit = Limit(self.options.exit_timeout if timeout is None else timeout)
        bell = self.seam.bell()
        with waits.joining(self.port.thread, None) as may_wait:
            if not may_wait:
                return
            self.call_when_ended(bell.ring)
            while not bell.wait(min(LOOK, limit.left() or 0.0)):
                if not (limit.left() and self.can_end()):
                    return

    def call_when_ended(self, done: Callable[[], object]) -> None:
        if not (self.can_end() and self.port.call(self._call_when_ended, done)):
            done()

    def _call_when_ended(self, done: Callable[[], object], _: object = None) -> None:
        for task in self._tasks:
            again = functools.partial(self._call_when_ended, done)
            task.add_done_callback(again, context=Context())
            return
        # In the next step: the last batch may have scheduled its observers for this one.
        self.port.loop.call_soon(done, context=Context())

    def can_end(self) -> bool:
        if self.home is not None:
            return not self.home.is_ended()
        return self.port.loop.is_running()

    def _reset_workers(self) -> None:
        self._tasks.clear()
        self._timer = self._deadline_timer = None

    def holders(self, me: Any) -> list[Any] | None:
        if waits.is_blocked(self.port.thread, me):
            return [self.port.thread]
        batches = list(self._tasks.values())  # once, as for threads; None is about to look
        return None if len(batches) < self.options.workers or None in batches else batches

    def holders_of(self, batch: Batch, me: Any) -> list[Any] | None:
        if waits.is_blocked(self.port.thread, me):
            return [self.port.thread]
        return [batch]

    def _lost(self) -> list[Batch]:
        known = list(self._tasks.values())
        return [batch for batch in list(self.batches) if batch not in known]

    # ---- in and out ----

    def submit_here(self, route: Route) -> tuple[Any, ...]:
        """What the hot path of this loop needs at hand."""
        self.has_loop_callers = True
        return self, route, self.port, self.intake, self.intake.append

    def _serve_here(self, future: BatchFuture[Any]) -> None:
        if self.home is not None and not isinstance(future, LoopFuture):
            self.home.run_until(future)

    def _new_future(self) -> BatchFuture[Any]:
        return self._loop_future(self.port.loop)

    def _post(self, futures: Sequence[BatchFuture[Any]]) -> None:
        if self.home is None:  # all its futures were made on this loop
            self.port.post(futures, self.options)  # type: ignore[arg-type]
        else:  # by callers without a loop, and by batches that run on this one
            super()._post(futures)

    # ---- one batch ----

    async def _work(self) -> None:
        """Run batches until there are none: the body of a task."""
        task = asyncio.current_task()
        assert task is not None
        batch: Batch | None = None
        try:
            while (batch := self._next(task)) is not None:
                waits.serving_tasks[task] = batch
                await self._drive(batch)
                batch = None
                waits.serving_tasks.pop(task, None)
                if not self._is_to_look(task):
                    return
                # Others come to their turn, and who was told may have more: a look at the next
                # step of the loop takes less than half of what another task would.
                await _step()
        except BaseException:  # a signal handler raised: some may be done, and not told
            batch = self._tasks.get(task)
            if batch is not None:
                self._note_told(batch)
            raise
        finally:
            waits.serving_tasks.pop(task, None)
            self._leave(task)
            # A traceback reaches this frame by `f_back`: it must find, and keep, nothing here.
            del self, batch, task

    @holding
    def _next(self, task: asyncio.Task[None]) -> Batch | None:
        """The batch that is next for `task`; None ends it."""
        with self._lock:
            self._begin()
            self._roused = False
            batch = self._take()
            if not isinstance(batch, Batch):
                self._end()
                return None  # all gone, or cancelled meanwhile; _leave looks on
            batch.thread = get_ident()
            self._tasks[task] = batch
            if self._timer is not None and not self.forming.pending:
                self._timer.cancel()
                self._timer = None
            self._look()
            self._end()
        self._after()
        return batch

    @holding
    def _is_to_look(self, task: asyncio.Task[None]) -> bool:
        """Is `task`, whose batch is over, to look for another? Then nobody else need be roused.

        Not when its batch left something that the next one would find: a variable in the context,
        or a request to cancel it.
        """
        if len(copy_context()) > len(_CONTEXT) or task.cancelling():
            return False
        with self._lock:
            batch = self._tasks.get(task)
            if batch is None or batch.left or len(self._tasks) > self.options.workers:
                return False  # forked in the batch function, say; _leave sees to it
            self._begin()
            self._tasks[task] = None
            self.batches.discard(batch)
            self._roused = True
            self._set_need()
            self._end()
        return True

    @mended
    def _task_ended(self, task: asyncio.Task[None]) -> None:
        """After the task: it may have been cancelled before its first step."""
        if not task.cancelled():
            task.exception()  # a fault of the engine itself: the items got it
        if task in self._tasks:
            self._leave(task)

    @mended
    def _leave(self, task: asyncio.Task[None]) -> None:
        with self._lock:
            self._begin()
            batch = self._tasks.get(task)
            if batch is None:  # perhaps it was the one that was roused, and never looked
                self._roused = False
            else:
                if batch.left:
                    self._abort(batch, "the batch's task was cancelled; submit the items again")
                self.batches.discard(batch)
            self._tasks.pop(task, None)
            if not self.port.loop.is_closed():
                self._look()
            self._end()
        self._after()

    async def _drive(self, batch: Batch) -> None:
        # In the context of this task, which ends with this batch then: see `_is_to_look`.
        end_trace = batch.begin_trace() if tracers else None
        answers: list[Any] = []
        request: Any = None
        try:
            while (request := self.go_on(batch, answers)) is not None:
                try:
                    answers.append(request.function(*request.args, **request.kwargs))
                    if inspect.isawaitable(answers[0]):
                        answers.append(await answers.pop())
                except BaseException as error:
                    if isinstance(error, GeneratorExit) and running_loop() is not self.port.loop:
                        raise  # the loop went away: nothing can be awaited any more
                    answers.append(to_raised(error))
                    del error
                request = None  # who hears of the end may look at this frame
            if self.is_observed():
                self._tell_observers_soon(batch, batch.error)
        finally:
            if end_trace is not None:
                end_trace()
            del self, batch, request, answers, end_trace  # as in `_work`

    def _tell_observers_soon(self, batch: Batch, error: BaseException | None) -> None:
        """Tell them after the wake-ups, which were posted before."""
        # A closure: what is passed to a handle is shown in the log when the loop is slow.
        tell = self.tell_observers
        self.port.loop.call_soon(lambda: tell(batch, error), context=Context())

    # ---- the end of the loop ----

    async def drained(self) -> None:
        """Run what waits, before the loop closes; bounded by `exit_timeout`."""
        end = self.seam.clock() + self.options.exit_timeout
        while futures := self.hurry():
            over = self.port.loop.create_future()
            Countdown(futures, lambda over=over: self.port.call(set_done, over))  # type: ignore[misc]
            try:
                await asyncio.wait_for(over, max(0.0, end - self.seam.clock()))
            except TimeoutError:
                lifecycle.give_up(self)
                for task in self._tasks:  # they hang: the warning has told of them
                    task._log_destroy_pending = False  # type: ignore[attr-defined]
                    task.cancel()
                return

    async def cancel_settled(self) -> None:
        """Cancel the batches that have given all their results, and wait until they have ended.

        Such a batch runs the code behind the last `yield` of an async generator, such as a wait
        for a rate limiter. If it were still suspended when the loop closes, asyncio would log
        "Task was destroyed but it is pending!".
        """
        batches = self._tasks.items()
        settled = [task for task, batch in batches if batch is not None and not batch.left]
        for task in settled:
            task.cancel()
        if settled:
            await asyncio.wait(settled, timeout=self.options.exit_timeout)

    def loop_closed(self) -> None:
        """The loop is closed: what is left can never run."""
        for task, batch in list(self._tasks.items()):
            if batch is None or not batch.left:  # no item depends on it: asyncio need not log it
                task._log_destroy_pending = False  # type: ignore[attr-defined]
            if batch is None:
                task.get_coro().close()
            waits.serving_tasks.pop(task, None)  # it never goes on to do so itself
        self.closed()
        self._on_loop_closed(self.port)


@types.coroutine
def _step() -> Generator[None, None, None]:
    """Go on in the next step of the loop: `asyncio.sleep(0)`."""
    yield


def _expire(weak: ref[LoopEngine]) -> None:
    """A deadline has come; the timer may be for an item that is done, and keeps no engine."""
    engine = weak()
    if engine is not None:
        engine._on_deadline()


class _AtClose:
    """Owned by a timer of a loop: goes when the loop is closed and drops its timers."""

    def __init__(self, port: Port) -> None:
        self._port = ref(port)

    def __call__(self) -> None:
        return

    def __del__(self) -> None:
        port = self._port() if hasattr(self, "_port") else None
        if port is not None and port.loop.is_closed():  # else `attend` was broken off
            for engine in list(port.engines):
                engine.loop_closed()


async def _guard(port: Port, name: object) -> AsyncGenerator[None, None]:
    """Suspended while the loop lives; its end comes before the loop's."""
    try:
        yield
    finally:
        if port.guard is not None and port.guard[0] is name:  # else its `attend` was broken off
            port.is_ending = True
            # A batch may submit to another function: look until nothing is left anywhere.
            while busy := [engine for engine in list(port.engines) if engine.hurry()]:
                await asyncio.gather(*(engine.drained() for engine in busy))
            # Not before: it may be the wait for a limiter that a later batch depends on.
            await asyncio.gather(*(engine.cancel_settled() for engine in list(port.engines)))


def attend(port: Port) -> None:
    """Be told of the end of the running loop, in both ways."""
    port.loop.call_later(YEAR, _AtClose(port), context=Context())  # it keeps no caller's
    name = object()
    guard = _guard(port, name)
    with contextlib.suppress(StopIteration), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # it may start while the loop shuts its generators down
        guard.__anext__().send(None)
    port.guard = (name, guard)  # last: whoever comes next makes good what was broken off
