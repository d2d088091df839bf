"""Deadlock detection: raise `Deadlock` instead of a wait that can never end.

Only waits that can hold up a batch matter: those of a thread that runs a batch, of a thread that
runs an event loop, and of an async batch. Each of these notes what it waits for while it waits.
Before a wait starts, it follows the notes from its target: if every path leads back to itself, or
to another waiter of the same kind, the target can never end. Indirect waits of async batches, such
as `asyncio.gather`, have no note; `stalls` finds them.

The other threads run meanwhile, so what is read one after the other may never have been true at
once. Therefore each wait has a note of its own, and only notes that are found twice count: their
owners have waited all the time.

*Holders* are what a target depends on: a thread (its ident, an int) or a running batch.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from math import inf
from threading import RLock, get_ident
from types import CodeType, FrameType
from typing import Any, Protocol

from .errors import Deadlock
from .interpreter import has_gil


class Target(Protocol):
    """What can be waited for: a future, capacity, or the first of several futures."""

    def holders(self, me: Any) -> list[Any] | None:
        """Return what must act before this can end, if `me` waits; None if something is free."""
        ...

    def _function_name(self) -> str:
        """Return the name of the batched function."""
        ...


class Wait:
    """A note: one wait for `target`, equal to no other."""

    __slots__ = ("target",)

    def __init__(self, target: Any) -> None:
        self.target = target


# What runs where. A thread may serve several batches inside each other (a callback of one).
serving_threads: dict[int, list[Any]] = {}
serving_tasks: dict[Any, Any] = {}
# True in the context of tasks that run batches, which the tasks that these start inherit.
in_batch: ContextVar[bool] = ContextVar("batchify.in_batch", default=False)
# The notes of the holders: what each waits for, without a limit of time.
_waits_for: dict[Any, Wait] = {}
_lock = RLock()  # see `interpreter`
_NOTHING = nullcontext()
_SUSPENDS = (
    inspect.CO_COROUTINE
    | inspect.CO_GENERATOR
    | inspect.CO_ITERABLE_COROUTINE
    | inspect.CO_ASYNC_GENERATOR
)

# Finds the wait of a holder that has no note: something equal, and the targets; None if unknown.
Indirect = Callable[[Any], tuple[Any, list[Any]] | None]


def check(target: Any, call: str = "result()") -> None:
    """Raise `Deadlock` if this thread could never stop waiting for `target`.

    Args:
        target: what it is about to wait for.
        call: the user's call, for the message: "result()", "flush()", "close()", "map()", "wait()"
            or "submit()".
    """
    me = get_ident()
    if may_hold_up() and _is_stuck(target, me):
        batches = serving_threads.get(me)
        inside = batches[-1].engine.options.name if batches else None
        raise Deadlock(explain(call, target._function_name(), inside))


def check_await(target: Any, me: Any, call: str = "await") -> bool:
    """Raise `Deadlock` if the async batch `me` could never stop awaiting `target`.

    Returns:
        False if the wait has a time limit: its task is in `asyncio.wait_for`.
    """
    if _is_in_wait_for():
        return False
    if _is_stuck(target, me):
        raise Deadlock(explain(call, target._function_name(), me.engine.options.name))
    return True


def explain(call: str, name: str, inside: str | None) -> str:
    """Return the message of a `Deadlock`: what was called where, and what to do instead.

    Args:
        call: the user's call.
        name: the function that the call is about.
        inside: the function whose batch called; None for an event loop.
    """
    if call == "submit()":
        return (
            f"{name}: the queue is full, and only a batch that waits for this call can free "
            f"capacity; raise capacity, or use {name}.submit_nowait(...)"
        )
    if inside is None:
        instead = _ON_A_LOOP[call].format(name=name)
        return (
            f'{call} of {name} was called on the event loop that must run {name}: use "{instead}"'
        )
    where = f"{call} of {name} was called inside a batch of {inside}"
    if call in ("flush()", "close()", "aflush()", "aclose()"):
        return f"{where}, for which it would wait: call it outside of the batch"
    instead = f"{'await ' if call == 'await' else ''}{name}.batch([...])"
    if name == inside:
        return (
            f"{where}, and no other worker can run that item: "
            f'use "{instead}" there, or raise workers'
        )
    return f'{where}, and {name} waits for that batch: use "{instead}" there'


_ON_A_LOOP = {
    "result()": "await {name}(...)",
    "wait()": "await asyncio.wait(...)",
    "flush()": "await {name}.aflush()",
    "close()": "await {name}.aclose()",
    "map()": "async for ... in {name}.amap(...)",
}


def _is_in_wait_for() -> bool:
    """Return True if the current task is in `asyncio.wait_for` with a time limit."""
    code = sys.modules["asyncio"].wait_for.__code__
    frame: FrameType | None = sys._getframe(2)
    while frame is not None and not frame.f_code.co_flags & _SUSPENDS:
        frame = frame.f_back
    while frame is not None and frame.f_code.co_flags & _SUSPENDS:  # those of the task
        if has_time_limit(frame, code):
            return True
        frame = frame.f_back
    return False


def has_time_limit(frame: FrameType, wait_for: CodeType) -> bool:
    """Return True if `frame` is one of `wait_for`, called with a timeout."""
    return frame.f_code is wait_for and frame.f_locals.get("timeout") is not None


def waiting(target: Any, timeout: float | None = None) -> AbstractContextManager[None]:
    """Note that this thread waits for `target`; a wait with a time limit ends without help."""
    is_endless = timeout is None or timeout == inf
    return _noted(get_ident(), target) if is_endless and may_hold_up() else _NOTHING


@contextmanager
def _noted(me: int, target: Any) -> Generator[None, None, None]:
    before = _note(me, target)
    try:
        check(target)  # again: another may have begun to wait for this one meanwhile
        yield
    finally:
        _restore(me, before)


@contextmanager
def awaiting(target: Any, me: Any) -> Generator[None, None, None]:
    """Note that the async batch `me` awaits `target`."""
    before = _note(me, target)
    try:
        check_await(target, me)  # again, as above
        yield
    finally:
        _restore(me, before)


@contextmanager
def joining(ident: int | None, timeout: float | None) -> Generator[bool, None, None]:
    """Note that this thread waits until the thread `ident` has done something.

    Yields:
        False if that could never happen, because that thread waits for this one, or is this one.
    """
    me = get_ident()
    if ident is None or not may_hold_up():
        yield ident != me
        return
    target = _Thread(ident)
    before = _note(me, target) if timeout is None else _waits_for.get(me)
    try:
        yield not _is_stuck(target, me)
    finally:
        _restore(me, before)


def is_blocked(ident: int, me: Any) -> bool:
    """Return True if the thread `ident` waits, or is `me`. An event loop there stands still."""
    return ident == me or ident in _waits_for


def begin_to_serve(batch: Any) -> None:
    """Note that this thread has `batch` in hand."""
    batch.thread = get_ident()
    serving_threads.setdefault(batch.thread, []).append(batch)


def end_to_serve(batch: Any, ident: int | None = None) -> None:
    """End what `begin_to_serve` began; may be called from any thread, and again."""
    where: int = batch.thread if ident is None else ident
    batches = serving_threads.get(where, [])
    if batch in batches:
        batches.remove(batch)
    if not batches:
        serving_threads.pop(where, None)


@contextmanager
def lent(batch: Any) -> Generator[None, None, None]:
    """Note that `batch` runs in this thread, for which the one that has it in hand waits."""
    me = get_ident()
    serving_threads.setdefault(me, []).append(batch)
    target = _Thread(me)
    _note(batch.thread, target)
    try:
        yield
    finally:
        note = _waits_for.get(batch.thread)
        if note is not None and note.target is target:  # else it waits for something else by now
            _waits_for.pop(batch.thread, None)
        end_to_serve(batch, me)


class _Thread:
    """The target of a thread that waits for what another thread does."""

    __slots__ = ("_ident",)

    def __init__(self, ident: int) -> None:
        self._ident = ident

    def holders(self, me: Any) -> list[Any]:  # noqa: ARG002
        return [self._ident]


def serves(engine: Any) -> bool:
    """Return True if this thread runs a batch, or a callback, of `engine`."""
    return any(batch.engine is engine for batch in serving_threads.get(get_ident(), ()))


def forget() -> None:
    """In the child of a fork: none of those threads is here. (New ones: see `Engine.forked`.)"""
    global _lock, serving_threads, serving_tasks, _waits_for
    _lock = RLock()
    serving_threads, serving_tasks, _waits_for = {}, {}, {}


def _note(me: Any, target: Any) -> Wait | None:
    """Note what `me` waits for, and return the note that was there before."""
    before = _waits_for.get(me)
    _waits_for[me] = Wait(target)
    if not has_gil():  # the others write, and look at this, likewise: see `interpreter`
        with _lock:
            pass
    return before


def _restore(me: Any, before: Wait | None) -> None:
    if before is None:
        _waits_for.pop(me, None)
    else:
        _waits_for[me] = before


def serving_batch() -> Any:
    """Return the async batch whose own task is running; None in a task that a batch started."""
    asyncio = sys.modules["asyncio"]
    return serving_tasks.get(asyncio.current_task())


def may_hold_up() -> bool:
    """Return True if this thread runs a batch or an event loop.

    (Without asyncio imported, no thread runs an event loop.)
    """
    if get_ident() in serving_threads:
        return True
    asyncio = sys.modules.get("asyncio")
    return asyncio is not None and asyncio._get_running_loop() is not None


def _is_stuck(target: Any, me: Any) -> bool:
    """Return True if everything that `target` depends on waits too, if `me` waits."""
    before, found = None, who_waits(target, me)
    while found is not None and found != before:
        before, found = found, who_waits(target, me)
    return found is not None


def who_waits(target: Any, me: Any, indirect: Indirect | None = None) -> dict[Any, Any] | None:
    """Return all holders that `target` depends on, with their waits; None if one of them is free.

    Args:
        target: what is waited for.
        me: the waiter.
        indirect: finds the waits of holders without a note.
    """
    seen: dict[Any, Any] = {me: None}
    targets = [target]
    while targets:
        target = targets.pop()
        target = getattr(target, "_s", target)  # a future depends on its state
        holders = target.holders(me) if hasattr(target, "holders") else None
        if holders is None:
            return None
        for holder in holders:
            if holder in seen:
                continue
            wait: Any = _waits_for.get(holder)
            if wait is not None:
                targets.append(wait.target)
            else:
                found = None if indirect is None else indirect(holder)
                if found is None:
                    return None
                wait, more = found
                targets += more
            seen[holder] = wait
    return seen
