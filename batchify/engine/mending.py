"""What exceptions break that come at any instant, and what mends it.

Signal handlers raise in the main thread, somebody may kill threads, and there may be no memory.
Whoever is hit mends what is broken on the way out; when it is hit there, too, whoever takes the
lock next does. Threads of ours go on (`live_on`).
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import logging
import os
import sys
from collections.abc import Callable
from threading import RLock, get_ident, main_thread
from time import sleep
from types import CodeType, FrameType
from typing import Any, Concatenate, ParamSpec, TypeVar

from ..errors import Deadlock
from ..future import run_callbacks
from ..interpreter import monotonic
from ..logs import error_text
from . import lifecycle
from .telling import Telling

P = ParamSpec("P")
R = TypeVar("R")
E = TypeVar("E", bound="Mending")

log = logging.getLogger("batchify")

LONGEST_PAUSE = 1.0  # seconds, of a thread of ours that meets one fault after the other

_PACKAGE = os.path.dirname(os.path.dirname(__file__))
_CLOSED_BY_COLLECTOR = (
    inspect.CO_GENERATOR
    | inspect.CO_COROUTINE
    | inspect.CO_ITERABLE_COROUTINE
    | inspect.CO_ASYNC_GENERATOR
)
_holders: set[CodeType] = set()  # of the functions that take the lock


def holding(function: Callable[P, R]) -> Callable[P, R]:
    """Note that `function`, which has its engine as `self`, takes the lock."""
    _holders.add(function.__code__)
    return function


def mended(change: Callable[Concatenate[E, P], R]) -> Callable[Concatenate[E, P], R]:
    """For what takes the lock in callers' threads: an exception leaves nothing broken."""
    holding(change)

    @functools.wraps(change)
    def whole(self: E, /, *args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return change(self, *args, **kwargs)
        except BaseException:
            self._mend()
            raise
        finally:
            # A traceback reaches this frame by `f_back`: it must find, and keep, nothing here.
            del self, args, kwargs

    return whole


def _is_of_this_call(frame: FrameType) -> bool:
    """Until the handler or the finalizer that made the call.

    A generator or a coroutine of ours that the collector closes is a finalizer, too.
    """
    code = frame.f_code
    if code.co_name == "__del__" or code.co_flags & _CLOSED_BY_COLLECTOR:
        return False
    return code.co_filename.startswith(_PACKAGE)


def is_below(frame: FrameType | None, codes: set[CodeType], name: str, value: object) -> bool:
    """Does one of these functions run in `frame`, or below it, with that local variable?"""
    while frame is not None:
        if frame.f_code in codes and frame.f_locals.get(name) is value:
            return True
        frame = frame.f_back
    return False


def live_on(life: Callable[..., None], recover: Callable[..., str | None], *args: Any) -> None:
    """The bottom of a thread of ours: go on with `life(*args)` until that returns.

    What it raises is a fault, of ours or for want of memory: `recover(*args)` mends what that left,
    and gives a name to tell of it by.
    """
    pause = 0.0
    while True:
        began = monotonic()
        try:
            life(*args)  # a call: the jump of a loop is in no `try`, and may raise
            return
        except BaseException as fault:
            if monotonic() - began > LONGEST_PAUSE:
                pause = 0.0
            pause = _recover(recover, fault, args, pause)


def _recover(
    recover: Callable[..., str | None], fault: BaseException, args: tuple[Any, ...], pause: float
) -> float:
    """Recover, after a pause that is longer each time; gives the last."""
    while True:
        pause = min(2 * pause or 0.001, LONGEST_PAUSE)
        try:
            sleep(pause)
            name = recover(*args)
            break
        except BaseException:  # still no memory
            continue
    if name is not None:
        with contextlib.suppress(BaseException):
            text = error_text(fault)
            log.error("%s: a thread of batchify was hit by %s and continues", name, text)
    return pause


class Mending(Telling):
    """The lock, and the note that a change is being made under it."""

    _nested: Any

    def __init__(self) -> None:
        super().__init__()
        self._lock: Any = RLock()
        self._is_changing = False

    def _begin(self) -> None:
        """Begin a change (the first thing under the lock); `_end` ends it."""
        if self._is_changing:
            self._recount()
        self._is_changing = True

    def _end(self) -> None:
        self._is_changing = False

    def _recount(self) -> None:
        """Repair what an exception from a signal handler left behind (under the lock)."""
        raise NotImplementedError

    def _lost(self) -> list[Any]:
        raise NotImplementedError

    def _look(self) -> None:
        raise NotImplementedError

    def _after(self) -> None:
        raise NotImplementedError

    @holding
    def _mend(self, is_to_look: bool = False) -> None:
        """See to what an exception may have left half done, if that is not for who is below."""
        if self._is_nested():
            return
        if is_to_look or self._is_changing or self._lost():
            with self._lock:  # asked again: another thread may have been in the middle of a change
                if is_to_look or self._is_changing or self._lost():
                    self._is_changing = True
                    self._recount()
                    self._look()
                    self._end()
        run_callbacks()
        self._after()

    def _is_nested(self) -> bool:
        """Did a finalizer or a signal handler call, while this thread held the lock?

        A `with lock:` may be left without letting go, see `_free_lock`. Then nobody holds it below.
        """
        if not self._lock._is_owned():
            return False
        is_main = get_ident() == main_thread().ident
        if not is_main or lifecycle.is_forking() or self._is_held_below():
            return True
        self._free_lock()
        return False

    def _free_lock(self) -> None:
        """Let go of the lock, which nobody holds below, but which this thread may have taken.

        CPython 3.14 can leave a `with lock:` when a signal handler raises on the way in
        (gh-148874), 3.12 and 3.13 when one does at the jump of a loop in it, which is in no `try`.
        """
        lock: Any = self._lock
        while lock._is_owned():
            lock.release()

    def _is_held_below(self) -> bool:
        """Is a call that takes the lock on the stack, below the one that asks?"""
        frame: FrameType | None = sys._getframe()
        while frame is not None and _is_of_this_call(frame):
            frame = frame.f_back
        return is_below(frame, _holders, "self", self)

    def refuse_to_wait(self) -> None:
        """Raise where a handler or a finalizer, which came in the middle of a change, would wait.

        Whoever it waits for needs the lock, which this thread holds until it returns.
        """
        if self._is_nested():
            name = self.options.name
            raise Deadlock(
                f"a signal handler or a finalizer that interrupted a call of {name} may not wait "
                f"for {name}: submit there, and wait elsewhere"
            )
        if self._lost():  # it was hit once more while it mended
            self._mend()
        run_callbacks()  # or while it told
