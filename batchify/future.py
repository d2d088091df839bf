"""`BatchFuture`: the promise for one item.

A true `concurrent.futures.Future` that holds three words instead of a condition, a lock and four
lists: the stock one costs 1.6 KB and some 13 us an item, more than all the rest of a batch.

The state, in `_s`, is one of

    Route    pending: lies in the intake of `state.engine`
    Waiting  pending, but not accepted: waits for room
    Line, Group, Delayed, Chunk   pending, accepted and sorted by the forming
    Batch    running
    RESULT, ERROR, CANCELLED   done

`_v` is the item, then the result or a `Failure`. Who changes the state holds the engine's lock,
and stores `_v` before `_s`. Readers take no lock.

Who wants to be told of the end registers in `engine.watched`. Both sides first write, then look
(the watcher: registers, then reads the state; the engine: stores the state, then looks for
watchers), and users' callbacks are taken by an atomic `del`, so each is called exactly once, and
the caller's side needs no lock that a signal handler or `__del__` could meet. They stay
registered until all are told: when a handler raises in between, somebody tells the others later.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import CancelledError, Future, InvalidStateError
from contextvars import copy_context
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, NoReturn, TypeVar

from . import progress, waits
from .logs import error_text
from .terms import NO_TERMS, Terms
from .unasked import ErrorReport
from .waiters import Waiters

if TYPE_CHECKING:
    from .engine.base import Engine

R = TypeVar("R")

log = logging.getLogger("batchify")


class Done:
    """A final state."""

    __slots__ = ("name",)

    def __init__(self, name: str) -> None:
        self.name = name


RESULT = Done("FINISHED")
ERROR = Done("FINISHED")
CANCELLED = Done("CANCELLED_AND_NOTIFIED")


class Failure:
    """The error of one item, with the traceback that it starts from at every raise.

    It knows whether a caller asked for it. If none did, `unasked` logs it when it is gone.
    """

    __slots__ = ("_number", "_report", "_text", "error", "traceback")

    def __init__(self, error: BaseException, traceback: TracebackType | None = None) -> None:
        self._report: ErrorReport | None = None  # first: `__del__` reads it
        self._number = 0
        self.error = error
        self.traceback = traceback
        self._text = error_text(error, traceback)

    def __del__(self) -> None:
        if self._report is not None:
            self._report.note_gone(self._number)

    def report_to(self, report: ErrorReport) -> None:
        """Add this error, which a future is about to get, to a report, unless it is in one."""
        if self._report is None:
            self._number = report.add(self._text)
            self._report = report

    def note_asked(self) -> None:
        """Note that a caller asked for this error: it is not logged."""
        if self._report is not None:
            self._report.note_asked(self._number)

    def retrieve(self) -> BaseException:
        """Return the error, with its traceback, to a caller who asked for it."""
        self.note_asked()
        return self.error.with_traceback(self.traceback)

    def throw(self) -> NoReturn:
        try:
            raise self.retrieve()
        finally:
            del self  # no cycle through this frame


class Refused(Failure):
    """The error of a call on a loop that waited for room and got none."""

    __slots__ = ()


class Alone:
    """In the place of an outcome of many: the future of an item that goes on by itself."""

    __slots__ = ("future",)

    def __init__(self, future: BatchFuture[Any]) -> None:
        self.future = future


class View:
    """The face of a future towards `concurrent.futures.wait` and `as_completed`.

    They want a condition, under which alone the state changes, and a list of waiters. Made when
    they first look; kept in the future's `__dict__`, whose `setdefault` makes it exactly once.
    A condition for the whole batch would deadlock: two waits over two batches take the
    conditions in the order of the futures' ids.
    """

    __slots__ = ("condition", "is_done", "waiters")

    def __init__(self) -> None:
        self.condition = threading.Condition()
        self.is_done = False
        self.waiters: list[Any] = Waiters()

    def finish(self, future: BatchFuture[Any]) -> None:
        with self.condition:
            self.is_done = True
            for waiter in self.waiters:
                if future._s is RESULT:
                    waiter.add_result(future)
                elif future._s is ERROR:
                    waiter.add_exception(future)
                else:
                    waiter.add_cancelled(future)


# Who is to be told. In a list: a user's callback, called once; the list is empty from then on. In
# a tuple: the engine's own, for whom it is no harm to be told once more.
Poke = list[Callable[[Any], object]] | tuple[Callable[[Any], object]]


class _Callbacks(threading.local):
    """Those that this thread is to run.

    A callback that leads to further callbacks has them run after it, not inside it: chains of
    any length need no stack. Each stays here until it was run: when a signal handler raises in
    between, `run_callbacks` goes on.
    """

    def __init__(self) -> None:
        self.queue: deque[tuple[Poke, BatchFuture[Any], Engine]] = deque()
        self.is_busy = False


_callbacks = _Callbacks()


def fire(pokes: deque[Poke], future: BatchFuture[Any], engine: Engine) -> None:
    """Tell everyone who watches a future, whoever calls this and however often."""
    queue = _callbacks.queue
    while True:
        try:
            copied = pokes.copy()
            break
        except RuntimeError:  # without a GIL: somebody added theirs while it was copied
            continue
    for poke in copied:
        # In the order in which they came: who flushes hears of the end after the callbacks.
        if queue or poke.__class__ is list:
            queue.append((poke, future, engine))
        else:
            poke[0](future)
    if queue:
        run_callbacks()


def run_callbacks() -> None:
    """Run the callbacks of futures that are done, unless this thread does so further down."""
    callbacks = _callbacks
    queue = callbacks.queue
    while queue and not callbacks.is_busy:  # once more: a finalizer may come before it is not
        callbacks.is_busy = True
        try:
            _run_all(queue)  # not here: from CPython 3.12 on the jump of a loop may be in no `try`
        finally:
            callbacks.is_busy = False


def _run_all(queue: deque[tuple[Poke, BatchFuture[Any], Engine]]) -> None:
    while queue:
        poke, future, engine = queue[0]
        _run_callback(poke, future, engine)
        queue.popleft()


def _run_callback(poke: Poke, future: BatchFuture[Any], engine: Engine) -> None:
    if poke.__class__ is tuple:
        poke[0](future)
        return
    try:
        callback = poke[0]
        del poke[0]  # type: ignore[union-attr]  # only one thread can
    except IndexError:
        return
    try:
        callback(future)
    except BaseException as error:  # also SystemExit: the neighbours must hear too
        log.error("%s: a done-callback raised %s", engine.options.name, error_text(error))
    if future._s is ERROR:
        future._v.note_asked()


class BatchFuture(Future[R], Generic[R]):
    """The result of one item, to come.

    A `concurrent.futures.Future` that can also be awaited, in any event loop, more than once
    and by several tasks. Made by calling a batched function, never directly.
    """

    __slots__ = ("_s", "_t", "_v")

    _s: Any  # the state, see the top of this module
    _v: Any  # the item, then the result or a Failure
    _t: float  # when it was submitted, by the engine's clock
    # These lie in the `__dict__` of the few futures that have them: no word for the others.
    _terms: Terms = NO_TERMS  # what the call asked for
    _count: int = 1  # how many items it stands for, that are not done
    _is_chunk: bool = False  # its result is a list of outcomes
    _origin: Any = None  # where its call came from, see `tracing`

    # A Python __init__ would cost a quarter of a submit (1.24x, one thread).
    __init__ = object.__init__

    def result(self, timeout: float | None = None) -> R:
        """Wait for the end and give the result.

        Args:
            timeout: how many seconds to wait at most; None or `inf`: no limit.

        Raises:
            concurrent.futures.CancelledError: the future was cancelled.
            TimeoutError: the future is not done in time. The item stays queued or running.
            Deadlock: this wait could never end.
            Exception: the error of this item, or of its whole batch.
        """
        if self._s is RESULT:
            return self._v  # type: ignore[no-any-return]
        try:
            if self._s.__class__ is not Done:
                self._wait(timeout)
            if self._s is RESULT:
                return self._v  # type: ignore[no-any-return]
            if self._s is CANCELLED:
                raise self._make_cancelled_error()
            raise self._v.retrieve()
        finally:
            del self  # no cycle through this frame

    def exception(self, timeout: float | None = None) -> BaseException | None:
        """Wait for the end and give the error, or None. Raises as `result` does."""
        if self._s is RESULT:
            return None
        try:
            if self._s.__class__ is not Done:
                self._wait(timeout)
            if self._s is RESULT:
                return None
            if self._s is CANCELLED:
                raise self._make_cancelled_error()
            failure: Failure = self._v
            failure.note_asked()
            return failure.error
        finally:
            del self  # as in `result`

    def done(self) -> bool:
        """True when there is a result, an error or a cancellation."""
        return self._s.__class__ is Done

    def cancelled(self) -> bool:
        """True when the future was cancelled."""
        return self._s is CANCELLED

    def running(self) -> bool:
        """True while its batch runs."""
        state = self._s
        return state.__class__ is not Done and bool(state.is_running)

    def cancel(self) -> bool:
        """Remove the item from the queue, if its batch has not started.

        Returns:
            True if the future is cancelled, by this call or before; False if it is too late.
        """
        engine = self._engine()
        return self._s is CANCELLED if engine is None else engine.cancel(self)

    def add_done_callback(self, fn: Callable[[Any], object]) -> None:
        """Call `fn(future)` at the end, in the thread that brings it; at once when done.

        Those that are added before the end run after all futures of the batch are done. They run
        in the context of who adds them.
        They occupy the worker: keep them short. What they raise is logged.
        """
        # All C: no signal handler can raise after it was taken and before `fn` has begun.
        call: Any = copy_context().run
        if not self._watch([partial(call, fn)]):
            try:
                fn(self)
            except Exception as error:
                log.error("a done-callback of a finished future raised %s", error_text(error))
            if self._s is ERROR:
                self._v.note_asked()

    def __await__(self) -> Generator[Any, None, R]:
        try:
            if self._s.__class__ is not Done:
                from .loopfuture import foreign_await

                yield from foreign_await(self)
            return self.result()
        finally:
            del self  # no cycle through this frame

    def __repr__(self) -> str:
        state = self._s
        engine = self._engine()
        if engine is not None:
            text = "running" if state.__class__ is not Done and state.is_running else "pending"
            return f"<BatchFuture of {engine.options.name}, {text}>"
        if self._s is CANCELLED:
            return "<BatchFuture, cancelled>"
        return "<BatchFuture, finished>" if self._s is RESULT else "<BatchFuture, failed>"

    # ---- how it waits ----

    def _engine(self) -> Engine | None:
        """The engine, None when it is done."""
        while True:
            state = self._s
            if state.__class__ is Done:
                return None
            engine: Engine | None = state.engine
            if engine is not None:  # else the state has just changed
                return engine

    def _function_name(self) -> str:
        """Return the name of the batched function; "f" if the future is done."""
        engine = self._engine()
        return "f" if engine is None else engine.options.name

    def _watch(self, poke: Poke) -> bool:
        """Have `poke` told of the end; False when that has come already."""
        engine = self._engine()
        if engine is None:
            return False
        watched = engine.watched
        pokes = watched.get(self)
        if pokes is None:
            pokes = watched.setdefault(self, deque())
        pokes.append(poke)
        if not engine.has_gil:
            engine.pass_lock()
        if self._s.__class__ is Done:  # the end may have missed us
            if poke.__class__ is tuple:  # at once: who waits in a callback would wait for its turn
                poke[0](self)
            fire(pokes, self, engine)
            watched.pop(self, None)
        return True

    def _unwatch(self, engine: Engine, poke: Poke) -> None:
        try:
            engine.watched[self].remove(poke)
        except (LookupError, ValueError):  # an IndexError: changed by the `__eq__` of another
            return

    def _wait(self, timeout: float | None, call: str = "result()") -> None:
        engine = self._engine()
        if engine is None:
            return
        engine.refuse_to_wait()
        may_hold_up = waits.may_hold_up()  # else nobody depends on this thread
        if may_hold_up:
            waits.check(self, call)
        poke: Poke | None = None
        rung = False
        try:
            bell = engine.seam.bell()
            poke = (bell.ring,)
            if not self._watch(poke):
                return
            if may_hold_up:
                with waits.waiting(self, timeout):
                    rung = bell.wait(timeout)
            elif timeout is not None:
                rung = bell.wait(timeout)
            else:
                rung = bell.wait(progress.FIRST_LOOK) or progress.wait(bell, engine)
            if not rung and self._s.__class__ is not Done:
                raise TimeoutError(
                    f"{engine.options.name}: no result within {timeout:g} s; "
                    f"the item is still queued or running"
                )
        finally:
            if poke is not None and not rung:
                self._unwatch(engine, poke)
            del self, engine  # no cycle through this frame

    def _make_cancelled_error(self) -> BaseException:
        return CancelledError()

    # ---- what concurrent.futures.wait and as_completed, and nobody else, look at ----

    @property
    def _view(self) -> View:
        try:
            return self.__dict__["view"]  # type: ignore[no-any-return]
        except KeyError:
            new = View()
        view: View = self.__dict__.setdefault("view", new)
        if view is new and not self._watch([view.finish]):
            view.finish(self)  # others may have it already, and wait
            if self._s is ERROR:
                self._v.note_asked()
        return view

    @property
    def _condition(self) -> threading.Condition:  # type: ignore[override]  # pyright: ignore
        return self._view.condition

    @property
    def _waiters(self) -> list[Any]:  # type: ignore[override]  # pyright: ignore
        return self._view.waiters

    @property
    def _state(self) -> str:  # type: ignore[override]  # pyright: ignore
        state = self._s
        if state.__class__ is Done:
            view = self.__dict__.get("view")
            if view is None or view.is_done:
                return str(state.name)
            return "RUNNING"  # until the watchers are told, under the condition
        return "RUNNING" if state.is_running else "PENDING"

    # ---- a batch settles its futures, nobody else ----

    def set_result(self, result: Any) -> NoReturn:
        """Not for you: a `BatchFuture` is settled by its batch."""
        raise InvalidStateError("a BatchFuture is settled by its batch only")

    def set_exception(self, exception: BaseException | None) -> NoReturn:
        """Not for you: a `BatchFuture` is settled by its batch."""
        raise InvalidStateError("a BatchFuture is settled by its batch only")

    def set_running_or_notify_cancel(self) -> NoReturn:
        """Not for you: a `BatchFuture` is settled by its batch."""
        raise InvalidStateError("a BatchFuture is settled by its batch only")
