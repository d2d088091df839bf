"""Flush and close, over the engines of one decorated function: blocking, and awaited."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, Protocol

from .. import waits
from ..errors import Deadlock
from ..forming import Waiting
from ..future import BatchFuture, Refused
from ..loopfuture import port_of, set_done
from ..observe import Observers
from ..options import Options
from ..stats import Stats
from ..taskgraph import own_waits
from .base import Closer, Countdown, Engine, items_of
from .looking import CLOSED, CLOSING, OPEN
from .seam import LOOK, Limit, Seam


class Scope(Protocol):
    """All engines of one function, or of one instance's method."""

    state: str
    seam: Seam
    takes_more: bool
    observers: tuple[Observers, Observers, Observers]

    def here(self) -> Engine: ...

    def engines(self) -> Sequence[Engine]: ...

    def set_state(self, state: str) -> None: ...

    @property
    def options(self) -> Options: ...

    def configure(self, option: str, value: object) -> None: ...

    def stats(self) -> Stats: ...


def flush(scope: Scope, timeout: float | None) -> None:
    _refuse_in_the_middle(scope)
    _wait(scope, _flushed(scope), timeout, "flush()")


async def aflush(scope: Scope, timeout: float | None) -> None:
    await _await(scope, _flushed(scope), timeout, "aflush()")


def close(scope: Scope, timeout: float | None, cancel: bool) -> None:
    _refuse_in_the_middle(scope)
    closer = Closer()
    limit = Limit(timeout)
    try:
        futures = _closing(scope, cancel, closer, _refuse_to_block)
        try:
            _wait(scope, futures, timeout, "close()")
        except TimeoutError:
            _close(scope, closer, abandon=True)
            _join(scope, Limit(0.0))
            raise
        _close(scope, closer, abandon=False)
        _join(scope, limit)
    finally:
        closer.is_over = True


async def aclose(scope: Scope, timeout: float | None, cancel: bool) -> None:
    closer = Closer()
    limit = Limit(timeout)
    try:
        futures = _closing(scope, cancel, closer, _refuse_to_await)
        try:
            await _await(scope, futures, timeout, "aclose()")
        except TimeoutError:
            _close(scope, closer, abandon=True)
            _join(scope, Limit(0.0))
            raise
        _close(scope, closer, abandon=False)
        await _ajoin(scope, limit)
    finally:
        closer.is_over = True


def _join(scope: Scope, limit: Limit) -> None:
    """Wait for the workers, the last events and spans, and the executor that batchify made."""
    for engine in scope.engines():
        engine.join(limit.left())


async def _ajoin(scope: Scope, limit: Limit) -> None:
    port = port_of(asyncio.get_running_loop())
    batch = waits.serving_batch() if waits.serving_tasks else None
    for engine in scope.engines():
        if waits.serves(engine):
            engine.join(0.0)
            continue
        if batch is not None and batch.engine is engine:
            continue  # it would wait for itself
        over = port.loop.create_future()
        engine.call_when_ended(lambda over=over: port.call(set_done, over))  # type: ignore[misc]
        while not over.done() and engine.can_end():
            left = limit.left()
            await asyncio.wait([over], timeout=LOOK if left is None else min(LOOK, left))
            if left == 0.0:
                break


def start(scope: Scope) -> None:
    scope.set_state(OPEN)
    for engine in scope.engines():
        engine.start()


async def until_admitted(
    submit: Callable[[Callable[[], object]], BatchFuture[Any]],
) -> BatchFuture[Any]:
    """Wait for the room of an item that `submit(admitted)` submits from this loop."""
    loop = asyncio.get_running_loop()
    port = port_of(loop)
    room = loop.create_future()
    future = submit(lambda: port.call(set_done, room))
    try:
        if future._s.__class__ is Waiting:
            if waits.serving_tasks and waits.in_batch.get():
                port.watch.add(future)
            try:
                await room
            except asyncio.CancelledError:
                future.cancel()
                raise
        if type(future._v) is Refused:
            raise future._v.retrieve()
        return future
    finally:
        del future  # no cycle through this frame


own_waits[until_admitted.__code__] = "future"


def _flushed(scope: Scope) -> list[BatchFuture[Any]]:
    return [future for engine in scope.engines() for future in engine.flush()]


def _closing(scope: Scope, cancel: bool, closer: Closer, refuse: Any) -> list[BatchFuture[Any]]:
    """Begin to close; gives what to wait for.

    A close that would wait for itself is refused before it changes anything; with `cancel` it
    just does not wait for that.
    """
    if not cancel:
        for future in _one_of_each(_unresolved(scope)):
            refuse(future)
    scope.set_state(CLOSING)
    try:
        futures = [future for engine in scope.engines() for future in engine.close(cancel, closer)]
    except RuntimeError:  # no thread is to be had for what was accepted
        scope.set_state(OPEN)
        raise
    if not cancel:
        return futures
    return [future for future in futures if _may_wait(future, refuse)]


def _close(scope: Scope, closer: Closer, abandon: bool) -> None:
    """End this close, not that of somebody else who closes what was opened again meanwhile."""
    if scope.state is CLOSING:
        scope.set_state(CLOSED)
    for engine in scope.engines():
        engine.closed(abandon, closer)


def _unresolved(scope: Scope) -> list[BatchFuture[Any]]:
    return [future for engine in scope.engines() for future in engine.left()]


def _one_of_each(futures: Sequence[BatchFuture[Any]]) -> list[BatchFuture[Any]]:
    """One future for each batch and each way: what holds one holds all."""
    return list({id(future._s): future for future in futures}.values())


def _may_wait(future: BatchFuture[Any], refuse: Any) -> bool:
    try:
        refuse(future)
    except Deadlock:
        return False
    return True


def _refuse_in_the_middle(scope: Scope) -> None:
    for engine in scope.engines():
        engine.refuse_to_wait()


def _refuse_to_block(future: BatchFuture[Any], call: str = "close()") -> None:
    waits.check(future, call)


def _refuse_to_await(future: BatchFuture[Any], call: str = "aclose()") -> None:
    batch = waits.serving_batch() if waits.serving_tasks else None
    if batch is not None:
        waits.check_await(future, batch, call)


def _wait(scope: Scope, futures: list[BatchFuture[Any]], timeout: float | None, call: str) -> None:
    if not futures:
        return
    for future in _one_of_each(futures):
        _refuse_to_block(future, call)
    bell = scope.seam.bell()
    countdown = Countdown(futures, bell.ring)
    try:
        with waits.waiting(futures[-1], timeout):
            if not bell.wait(timeout):
                raise TimeoutError(_late(scope, futures))
    finally:
        countdown.give_up()  # who flushes again and again must not leave more and more to be told


async def _await(
    scope: Scope, futures: list[BatchFuture[Any]], timeout: float | None, call: str
) -> None:
    if not futures:
        return
    for future in _one_of_each(futures):
        _refuse_to_await(future, call)
    loop = asyncio.get_running_loop()
    port = port_of(loop)
    over = loop.create_future()
    countdown = Countdown(futures, lambda: port.call(set_done, over))
    try:
        await asyncio.wait_for(over, timeout)
    except TimeoutError:
        raise TimeoutError(_late(scope, futures)) from None
    finally:
        countdown.give_up()  # as in `_wait`


def _late(scope: Scope, futures: list[BatchFuture[Any]]) -> str:
    left = items_of([future for future in futures if not future.done()])
    return f"{scope.options.name}: {left} items were not done within the timeout"
