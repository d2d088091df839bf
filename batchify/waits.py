"""Who waits for whom: a wait that could never end raises `Deadlock` instead.

Only those whose waiting can hold up a batch matter: a thread that runs one, a thread that runs
an event loop, and an async batch that awaits. Each writes down what it waits for while it
waits. Before a wait starts, it follows those notes from its target on: if every way leads back
to itself, or to somebody who waits likewise, nobody is left to bring the end.

The others go on meanwhile, so what is read one after the other may never have been true at once.
Hence a note is a new object for each wait, and only those count that are found twice: whoever
has the same note in a second round has waited all the time, and done nothing else.

*Holders* are what a target depends on: a thread (its ident, an int) or a running batch.
"""

from __future__ import annotations

import sys
from collections.abc import Generator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from threading import RLock, get_ident
from typing import Any, Protocol

from .errors import Deadlock
from .interpreter import has_gil


class Target(Protocol):
    """What can be waited for: a state of a future, or room."""

    def holders(self, me: Any) -> list[Any] | None:
        """Who must act before this can end, if `me` waits; None when somebody is free to."""
        ...


class Wait:
    """A note: one wait for `target`, equal to no other."""

    __slots__ = ("target",)

    def __init__(self, target: Any) -> None:
        self.target = target


# What runs where. A thread may serve several batches inside each other (a callback of one).
serving_threads: dict[int, list[Any]] = {}
serving_tasks: dict[Any, Any] = {}
# The notes of the holders: what each waits for, without a limit of time.
_waits_for: dict[Any, Wait] = {}
_lock = RLock()  # see `interpreter`
_NOTHING = nullcontext()


def check(target: Any) -> None:
    """Raise `Deadlock` when this thread, by waiting for `target`, could only wait for ever."""
    if may_hold_up() and _is_stuck(target, get_ident()):
        raise Deadlock(
            "waiting here could never end: the batch that is to bring the result can only run "
            "when this wait is over (await it, use another function, or more workers)"
        )


def check_await(target: Any, me: Any) -> None:
    """The same for an async batch, `me`, that is about to await."""
    if _is_stuck(target, me):
        raise Deadlock(
            "awaiting here could never end: the item waits for a free worker, and they all "
            "wait for items like it (use another function, or more workers)"
        )


def waiting(target: Any, timeout: float | None = None) -> AbstractContextManager[None]:
    """Note that this thread waits for `target`; a wait with a limit ends by itself."""
    return _noted(get_ident(), target) if timeout is None and may_hold_up() else _NOTHING


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
def joining(ident: int | None, timeout: float | None) -> Generator[None, None, None]:
    """Note that this thread waits until the thread `ident` has done something.

    Raises:
        Deadlock: that thread waits for this one.
    """
    if ident is None:  # it has not started
        yield
        return
    target = _Thread(ident)
    check(target)
    with waiting(target, timeout):
        yield


def is_blocked(ident: int, me: Any) -> bool:
    """Does the thread `ident` wait, or would it as `me`? An event loop there stands still."""
    return ident == me or ident in _waits_for


def begin_to_serve(batch: Any) -> None:
    """Note that this thread has `batch` in hand."""
    batch.thread = get_ident()
    serving_threads.setdefault(batch.thread, []).append(batch)


def end_to_serve(batch: Any, ident: int | None = None) -> None:
    """End what `begin_to_serve` began, whoever calls this and however often."""
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
    """The target of who waits for what another thread does."""

    __slots__ = ("_ident",)

    def __init__(self, ident: int) -> None:
        self._ident = ident

    def holders(self, me: Any) -> list[Any]:  # noqa: ARG002
        return [self._ident]


def serves(engine: Any) -> bool:
    """Does this thread run a batch, or a callback, of `engine`?"""
    return any(batch.engine is engine for batch in serving_threads.get(get_ident(), ()))


def forget() -> None:
    """In the child of a fork: none of those threads is here. (New ones: see `Engine.forked`.)"""
    global _lock, serving_threads, serving_tasks, _waits_for
    _lock = RLock()
    serving_threads, serving_tasks, _waits_for = {}, {}, {}


def _note(me: Any, target: Any) -> Wait | None:
    """Write down what `me` waits for, and give the note that was there before."""
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
    """The async batch whose own task this is, or None.

    A task that the batch function started for itself does not count: others may go on.
    """
    asyncio = sys.modules["asyncio"]
    return serving_tasks.get(asyncio.current_task())


def may_hold_up() -> bool:
    """Does this thread run a batch, or an event loop? (Without asyncio imported, none does.)"""
    if get_ident() in serving_threads:
        return True
    asyncio = sys.modules.get("asyncio")
    return asyncio is not None and asyncio._get_running_loop() is not None


def _is_stuck(target: Any, me: Any) -> bool:
    """Is nobody free among all that `target` depends on, if `me` waits?"""
    before, found = None, _who_waits(target, me)
    while found is not None and found != before:
        before, found = found, _who_waits(target, me)
    return found is not None


def _who_waits(target: Any, me: Any) -> dict[Any, Wait | None] | None:
    """All that `target` depends on, with their notes; None when one of them is free."""
    seen: dict[Any, Wait | None] = {me: None}
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
            wait = seen[holder] = _waits_for.get(holder)
            if wait is None:
                return None
            targets.append(wait.target)
    return seen
