"""The driver for `def`: worker threads.

Threads start when there is something to do for one more, up to `workers`. A free one sleeps on
a bell of its own; the one that sleeps while items linger has a time limit, the others have none.
Only a worker rings another, or a caller that found `need` reached: one wake-up for a batch.

A sleeping worker knows its engine by a weak reference only, so that the engine goes when the
decorated object goes, and its threads with it. Who rings puts the engine into the bell, so
that it stays until the worker is awake.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextvars import Context
from threading import get_ident
from typing import Any
from weakref import ref

from .. import waits
from ..future import BatchFuture
from ..options import Live, kind
from ..outcome import to_raised
from ..tracing import tracers
from . import lifecycle
from .base import Engine
from .batch import Batch
from .looking import CLOSED, OPEN
from .mending import holding, live_on
from .seam import THREADS, Bell, Limit, Seam, collect_again


class Stop:
    """A worker's answer to "what next": nothing, ever."""


STOP = Stop()

lifecycle.after_fork_in_child(collect_again)


class ThreadEngine(Engine):
    """An engine whose batches run in worker threads."""

    def __init__(self, live: Live, takes_more: bool, seam: Seam) -> None:
        super().__init__(live, takes_more, seam)
        self.executor_runner: Any = None  # where the batches run, see `remote`
        self.owns_executor_runner = False  # else it is for all instances
        self._threads: dict[Bell, Any] = {}
        self._idle: list[Bell] = []  # those who sleep
        self._alarms: dict[Bell, float] = {}  # when a sleeper wakes up by itself
        self._leaving: dict[Bell, Any] = {}  # threads that were told to go
        self._hired: dict[int, Bell] = {}  # callers that work during exit, by thread
        self._started = 0
        self._hire_nobody()
        lifecycle.register(self)

    def _hire_nobody(self) -> None:
        bells: set[Bell] = set()
        known = (self._idle, self._threads, self._alarms)

        def ring_all(_: object) -> None:
            # A finalizer may still call the function: the collector clears weak references first.
            # So the engine must not take these workers, which leave, for idle ones.
            for workers in known:
                workers.clear()
            try:
                for bell in list(bells):
                    bell.ring()
            except BaseException:  # a signal handler's, which goes no further than here
                for bell in list(bells):
                    bell.ring()
                raise

        self._bells = bells
        self._weak = ref(self, ring_all)
        self._watch: Bell | None = None  # of the thread that minds the deadlines

    # ---- as a scope: the one engine for all callers ----

    def here(self) -> ThreadEngine:
        return self

    def engines(self) -> list[ThreadEngine]:
        return [self]

    def set_state(self, state: str) -> None:
        """`close`, `closed` and `start` of the engine do it."""

    # ---- who is there ----

    def _is_free(self) -> bool:
        workers = self.options.workers
        return len(self.batches) < workers and (bool(self._idle) or len(self._threads) < workers)

    def _rouse(self) -> None:
        # The note comes last: a handler that raises before it leaves a worker too many awake.
        if self._idle:
            bell = self._idle[-1]
            bell.cargo = self
            bell.ring()
            self._roused = True
            return
        try:
            self._spawn()
            self._roused = True
        except RuntimeError as error:  # no more threads are to be had
            self._no_worker = f"{self.options.name}: no worker thread can be started: {error}"

    def _spawn(self) -> None:
        if self._weak() is None:  # a finalizer calls the function: see `_hire_nobody`
            self._hire_nobody()
            self._next_deadline = math.inf
            lifecycle.register(self)
        bell = self.seam.bell()
        bell.cargo = self
        name = f"batchify:{self.options.name}:{self._started + 1}"
        self._threads[bell] = None
        try:
            self._threads[bell] = self.seam.spawn(
                live_on, (_serve, recover_engine, self._weak, bell), name
            )
        except BaseException:
            del self._threads[bell]
            raise
        self._bells.add(bell)
        self._started += 1

    def _has_alarm(self, when: float) -> bool:
        return any(alarm <= when for alarm in self._alarms.values())

    def _set_alarm(self, when: float) -> None:
        self._rouse()  # who is roused, and finds nothing to run, sleeps until then

    def _stand_by(self) -> None:
        # Later there may be no thread to be had: at exit none starts on 3.12.0 to 3.12.2.
        if self.forming.pending and not self._threads:
            self._rouse()

    def _set_deadline(self, when: float) -> None:
        if self._watch is not None:
            self._watch.ring()
            return
        bell = self._watch = self.seam.bell()
        self._bells.add(bell)
        try:
            name = f"batchify:{self.options.name}:deadlines"
            self.seam.spawn(live_on, (_keep_watch, recover_engine, self._weak, bell), name)
        except RuntimeError:  # no thread to be had: the workers look, too
            self._watch = None
            self._bells.discard(bell)
            self._next_deadline = math.inf

    def watch(self, bell: Bell) -> float | Stop | None:
        """End what is overdue; gives when to look again."""
        if self._watch is not bell:  # closed, or forked
            self._bells.discard(bell)
            return STOP
        return self.expire()

    def _worker_count(self) -> int:
        return len(self._threads)

    def configured(self) -> None:
        super().configured()
        for bell in self._idle[: max(0, len(self._threads) - self.options.workers)]:
            bell.ring()  # there are too many: who wakes up leaves

    def configure(self, option: str, value: object) -> None:
        self.live.change(option, value)
        self.configured()

    def _end_workers(self) -> None:
        # They are told to go for good, whoever starts again: new ones come then.
        left = {**self._leaving, **self._threads}.items()
        self._leaving = {bell: one for bell, one in left if one is not None and bell in self._bells}
        for bell in self._idle:
            bell.ring()
        watch, self._watch = self._watch, None  # first: it looks without the lock
        if watch is not None:
            watch.ring()
            self._next_deadline = math.inf
        self._idle.clear()
        self._alarms.clear()
        self._threads.clear()  # last: whoever is in none of these is not told any more

    def join(self, timeout: float | None) -> None:
        if waits.serves(self) or get_ident() in self._worker_idents:
            timeout = 0.0  # it would wait for itself
        limit = Limit(timeout)
        for bell, thread in list(self._leaving.items()):
            with waits.joining(getattr(thread, "ident", None), timeout) as may_wait:
                if may_wait:
                    thread.join(limit.left())
            if bell not in self._bells:
                self._leaving.pop(bell, None)
        self._end_executor(limit.left())

    def call_when_ended(self, done: Callable[[], object]) -> None:
        if not (self._leaving or (self.owns_executor_runner and self.executor_runner.has_made())):
            done()
            return
        try:
            THREADS.spawn(_join, (self, done), f"batchify:{self.options.name}:close")
        except RuntimeError:  # no thread can be started
            self.join(0.0)
            done()

    # ---- the executor ----

    def check_executor(self, function: Callable[..., Any]) -> None:
        """Refuse a call of `function` whose batch the executor could not run.

        Raises: as `ExecutorRunner.check`.
        """
        if self.state is not OPEN:
            return  # the call is refused for that, and needs no executor
        try:
            self.executor_runner.check(function)
        except BaseException:
            self.reject()
            raise
        self._end_executor(0.0)  # it may have been made after a close

    def _end_executor(self, timeout: float | None) -> None:
        """Shut down the executor that batchify made, if closed, and if not for other instances."""
        if self.owns_executor_runner and self.state is CLOSED:
            self.executor_runner.end(timeout)

    def _reset_workers(self) -> None:
        self._threads.clear()
        self._hired.clear()
        self._worker_idents.clear()
        self._idle.clear()
        self._alarms.clear()
        self._leaving = {}
        self._hire_nobody()

    def holders(self, me: Any) -> list[Any] | None:
        batches = list(self.batches)  # once: they come and go, and none means that one is free
        return None if len(batches) < self.options.workers else [one.thread for one in batches]

    def holders_of(self, batch: Batch, me: Any) -> list[Any] | None:
        return [batch.thread]

    def _put_back(self, batch: Batch) -> None:
        waits.end_to_serve(batch)
        super()._put_back(batch)

    def _recount(self) -> None:
        self._idle[:] = [bell for bell in self._idle if bell in self._threads]
        super()._recount()
        for batch in list(waits.serving_threads.get(get_ident(), ())):
            if batch.engine is self and batch not in self.batches:
                waits.end_to_serve(batch)  # it is over, and a handler broke in before this

    def _lost(self) -> list[Batch]:
        return [batch for batch in list(self.batches) if not batch.thread]

    def _let_slip(self, batch: Batch) -> None:
        """This thread has `batch` in hand no more, though it may not be over."""
        if batch in self.batches:
            waits.end_to_serve(batch)
            batch.thread = 0  # so it is lost

    # ---- exit without new threads ----

    def _hire_caller(self) -> bool:
        if not lifecycle.must_caller_work():
            return False
        bell = self.seam.bell()
        self._threads[bell] = None
        self._hired[get_ident()] = bell
        return True

    def _serve_here(self, future: BatchFuture[Any]) -> None:
        bell = self._hired.pop(get_ident(), None)  # a batch that runs here may call, too
        while bell is not None:
            step = self.next(bell)
            if isinstance(step, Batch):
                self.execute(step)
            elif isinstance(step, float):  # the delay of a `Retry`
                self.seam.sleep_until(bell, step)
            else:
                bell = self._dismiss_caller(bell)
            del step  # a traceback may keep this frame

    @holding
    def _dismiss_caller(self, bell: Bell) -> Bell | None:
        """Return None when the caller is done, or its new bell if items came in meanwhile."""
        with self._lock:
            self._begin()
            self._leave_bed(bell)
            self._stop(bell)
            if self._is_unserved():
                self._hire_caller()
            self._end()
        self._after()
        return self._hired.pop(get_ident(), None)

    # ---- what a worker does ----

    @holding
    def next(self, bell: Bell) -> Batch | float | Stop | None:
        """What the worker of `bell` does next: a batch, or a sleep, which may have an end."""
        with self._lock:
            self._begin()
            if bell in self._threads:
                step = self._step(bell)
            else:  # closed, or forked in the batch function
                step = self._stop(bell)  # opened again meanwhile: its permit is free only now
            self._end()
        self._after()
        return step

    def _step(self, bell: Bell) -> Batch | float | Stop | None:
        """`next`, for one that is to go on (under the lock)."""
        self._worker_idents.add(get_ident())
        self._roused = False
        self._leave_bed(bell)
        while True:
            step = None
            if len(self.batches) < self.options.workers:
                step = self._take()
            else:  # a worker of before a close still runs one
                self._look()
            if isinstance(step, Batch):
                waits.begin_to_serve(step)
                self._look()
                return step
            if self.state is CLOSED or len(self._threads) > self.options.workers:
                return self._stop(bell)
            self._idle.append(bell)
            if step is not None:
                self._alarms[bell] = step
            self._set_need()
            if self._has_seen_all():
                return step
            self._leave_bed(bell)

    def _stop(self, bell: Bell) -> Stop:
        """Let the worker of `bell` go (under the lock)."""
        self._threads.pop(bell, None)
        self._bells.discard(bell)
        self._worker_idents.discard(get_ident())
        self._look()
        return STOP

    @holding
    def recover(self) -> None:
        """Mend what an exception has left that hit a thread of this engine, down to `live_on`."""
        self._free_lock()
        for batch in list(self.batches):
            if batch.thread == get_ident():
                self._let_slip(batch)
        self._mend(is_to_look=True)

    def _leave_bed(self, bell: Bell) -> None:
        if bell in self._idle:
            self._idle.remove(bell)
            self._alarms.pop(bell, None)

    @holding
    def execute(self, batch: Batch) -> None:
        """Run one batch in this thread."""
        fault: BaseException | None = None
        try:
            self._drive(batch)
        except BaseException as error:  # or no memory
            self._note_told(batch)
            fault = error
        finally:
            self._free_lock()  # it, or the function in a call of its own, may have been hit
            self.finish(batch, f"{kind(fault)} interrupted batchify itself")
            waits.end_to_serve(batch)
            if self._ended:
                self._tell_ended()
            # A traceback reaches this frame by `f_back`: it must find, and keep, nothing here.
            del self, batch, fault

    def _drive(self, batch: Batch) -> None:
        context = Context()  # nobody's: never that of the caller who happened to come first
        run: Any = context.run
        if self.executor_runner is not None:
            run = self.executor_runner.runner(batch, context)
        end_trace = context.run(batch.begin_trace) if tracers else None
        answers: list[Any] = []
        while (request := self.go_on(batch, answers)) is not None:
            try:
                answers.append(run(request.function, *request.args, **request.kwargs))
            except BaseException as error:
                answers.append(to_raised(error))
                del error
            request = None  # who hears of the end may look at this frame
        if end_trace is not None:
            end_trace()
        if self.is_observed():
            self.tell_observers(batch, batch.error)
        del self, batch, request, answers, context, run, end_trace  # as in `execute`


def _serve(weak: ref[ThreadEngine], bell: Bell) -> None:
    """The life of a worker thread."""
    while True:
        engine: ThreadEngine | None = bell.cargo or weak()
        bell.cargo = None
        if engine is None:
            return
        step = engine.next(bell)
        while isinstance(step, Batch):
            engine.execute(step)
            del step
            step = engine.next(bell)
        if isinstance(step, Stop):
            del engine  # a traceback may keep this frame
            return
        if step is None:
            del engine
            bell.wait(None)
        else:
            engine.seam.sleep_until(bell, step)


def _join(engine: ThreadEngine, done: Callable[[], object]) -> None:
    try:
        engine.join(None)
    finally:
        done()


def _keep_watch(weak: ref[ThreadEngine], bell: Bell) -> None:
    """The life of the thread that ends what is overdue, however busy the workers are."""
    while True:
        engine = weak()
        when = STOP if engine is None else engine.watch(bell)
        if engine is None or isinstance(when, Stop):
            return
        seam = engine.seam
        del engine
        if when is None:
            bell.wait(None)
        else:
            seam.sleep_until(bell, when)


def recover_engine(weak: ref[ThreadEngine], _: object) -> str | None:
    """See to what an exception has left, which hit a thread between two of its steps."""
    engine = weak()
    if engine is None:
        return None
    engine.recover()
    return engine.options.name
