"""For the tests of those who use batched functions."""

from __future__ import annotations

import asyncio
import inspect
import threading
from asyncio import _get_running_loop as running_loop
from collections import Counter
from collections.abc import Callable, Collection, Generator, Sequence
from contextlib import ExitStack, contextmanager
from contextvars import Context
from typing import Any

from .calls import Calls, instead
from .clock import ManualClock, manual_clock
from .decorator import forget_ways
from .engine import lifecycle
from .engine.base import items_of
from .engine.looking import OPEN, closed_error
from .future import ERROR, RESULT, BatchFuture, Failure
from .interpreter import monotonic
from .loopfuture import LoopFuture, port_of
from .outcome import BatchSpec, Call, Settle, execute, retry_exhausted, to_raised
from .retry import Retry
from .scopes import is_async
from .terms import check_call
from .unasked import ErrorReport

__all__ = [
    "ManualClock",
    "cancel_all",
    "drain",
    "eager",
    "manual_clock",
    "unresolved",
    "unresolved_futures",
]


# ---- no queue ----


@contextmanager
def eager() -> Generator[None, None, None]:
    """Have every call of a batched function run at once, as a batch of one, in its own thread.

    The futures are done when the call returns, so that a test needs no `linger`, no `flush` and no
    wait. What the function gives back or raises, `on_error`, `Retry` (without the delay) and the
    checks of arguments mean the same as ever; an `async def` is run to its end, on an event loop of
    its own. There is no queue: nothing is counted by `stats()` or told to observers, and
    `executor`, `size`, `linger`, deadlines and priorities have no effect.

    It holds for all threads, from the first line of the block to its end; blocks may be nested.
    Items that were submitted before go their usual way.
    """
    instead.append(_run_at_once)
    try:
        forget_ways()
        yield
    finally:
        instead.remove(_run_at_once)


def _run_at_once(
    calls: Calls, item: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> BatchFuture[Any]:
    options, scope = calls._options(), calls._scope()
    if scope.state is not OPEN:
        raise closed_error(options.name)
    check_call(options, scope.takes_more, item, args, kwargs)
    function = calls._plain()
    work = BatchSpec(
        function, args, kwargs, options.on_error, calls._gives_itself(scope), options.isolate,
        is_async(function), options.name,
    )  # fmt: skip
    value: Any = None
    try:
        value, tries = _outcome(work, item), 1
        while issubclass(type(value), Retry):
            if tries >= value.attempts:
                value = retry_exhausted(value, tries, options.name)
                break
            value, tries = _outcome(work, item), tries + 1
        if isinstance(value, Failure):
            value.report_to(ErrorReport(options.name))
        return _done(value)
    finally:
        del value  # an error leads to this frame by `f_back`: that would be a cycle


def _outcome(work: BatchSpec, item: Any) -> Any:
    """What a batch of `item` alone comes to: a result, a `Failure` or a `Retry`."""
    outcomes: list[Any] = []
    answer: Any = None
    asked: Any = None
    context = Context()
    talk = execute(work, [item])
    with ExitStack() as stack:
        wait = _Loop(stack, context) if work.can_await else None
        try:
            while True:
                asked = talk.send(answer)
                answer = None
                if isinstance(asked, Settle):
                    outcomes.extend(asked.values)
                else:
                    answer = _answer(asked, context, wait)
        except StopIteration:
            return outcomes.pop()
        finally:
            del outcomes, answer, asked, talk  # as in `_run_at_once`


def _answer(asked: Call, context: Context, wait: Callable[[Any], Any] | None) -> Any:
    answer: Any = None
    try:
        answer = context.run(asked.function, *asked.args, **asked.kwargs)
        if wait is not None and inspect.isawaitable(answer):
            answer = wait(answer)
        return answer
    except BaseException as error:
        return to_raised(error)
    finally:
        del asked, answer  # as in `_run_at_once`


class _Loop:
    """Waits for awaitables of one batch, on an event loop that is nobody else's.

    Where a loop runs already, in a thread of its own, as loops cannot be nested.
    """

    def __init__(self, stack: ExitStack, context: Context) -> None:
        self._context = context
        # With a factory it leaves the thread's current loop alone.
        self._runner = asyncio.Runner(loop_factory=asyncio.new_event_loop)
        stack.callback(self._call, self._runner.close)

    def __call__(self, awaitable: Any) -> Any:
        told: list[Any] = []  # not the task's result: an error leads to frames that know the task

        async def wait() -> None:
            try:
                told.append(await awaitable)
            except BaseException as error:
                told.append(to_raised(error))

        self._call(lambda: self._runner.run(wait(), context=self._context))
        return told.pop()

    @staticmethod
    def _call(function: Callable[[], object]) -> None:
        if running_loop() is None:
            function()
            return
        thread = threading.Thread(target=function, name="batchify:eager")
        thread.start()
        thread.join()


def _done(value: Any) -> BatchFuture[Any]:
    """A future that has ended, for who calls here."""
    loop = running_loop()
    future: BatchFuture[Any]
    if loop is None:
        future = BatchFuture()
    else:
        future = made = LoopFuture()
        made._port = port_of(loop)
        made._callback = None
        made._asyncio_future_blocking = False
    future._t = 0.0
    future._v = value
    future._s = ERROR if isinstance(value, Failure) else RESULT
    return future


# ---- what is left ----


def unresolved(ignore: Collection[BatchFuture[Any]] = ()) -> dict[str, int]:
    """How many accepted items are not done, by the names of their functions, over all of them.

    Args:
        ignore: futures that do not count, as they were there before.
    """
    counts: Counter[str] = Counter()
    for engine in _engines():
        counts[engine.options.name] += items_of([f for f in engine.left() if f not in ignore])
    return {name: count for name, count in counts.items() if count}


def unresolved_futures() -> set[BatchFuture[Any]]:
    """The futures of all accepted items that are not done."""
    return {future for engine in _engines() for future in engine.left()}


def drain(timeout: float = 10.0) -> None:
    """Have what was accepted by any function leave now, and wait until nothing is left.

    Also what its batches submit, and what is to run again. On an event loop, which this would
    block, await `f.aflush()` instead.

    Args:
        timeout: the most seconds to wait.

    Raises:
        Deadlock: it waits for an event loop that this thread runs.
        TimeoutError: not everything was done in time; tells whose, and how much.
    """
    _until_none_left(lambda engine: engine.flush(), timeout)


def cancel_all(timeout: float = 10.0) -> None:
    """Cancel what has not started, of any function, and wait for what runs.

    Raises as `drain` does.
    """
    _until_none_left(
        lambda engine: [one for one in engine.left() if one.running() or not one.cancel()], timeout
    )


def _until_none_left(left: Callable[[Any], list[BatchFuture[Any]]], timeout: float) -> None:
    end = monotonic() + timeout
    before: dict[int, int] | None = None
    while True:
        engines = _engines()
        _wait([future for engine in engines for future in left(engine)], end)
        before, last = lifecycle.batches_of(engines), before
        if before == last:
            return


def _wait(futures: Sequence[BatchFuture[Any]], end: float) -> None:
    for future in futures:
        try:
            future._wait(max(0.0, end - monotonic()))
        except TimeoutError:
            if not future.done():
                left = ", ".join(f"{count} of {name}" for name, count in unresolved().items())
                raise TimeoutError(f"items that are not done: {left}") from None


def _engines() -> list[Any]:
    return [engine for engine in lifecycle.all_engines() if hasattr(engine, "left")]
