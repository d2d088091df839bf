"""Helpers for users' tests: run calls at once, control time, and find items that are not done.

Nothing here changes how a batched function behaves outside of its block or call.
Callers are users' tests and the pytest plugin.
"""

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

from .calls import Calls, overrides
from .clock import ManualClock, manual_clock
from .decorator import reset_calls
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
    """Run every call of a batched function at once, as a batch of one, in the caller's thread.

    The future is done when the call returns, so a test needs no `linger`, no `flush` and no wait.
    Results, exceptions, `on_error`, `Retry` (without its delay) and the checks of arguments work as
    usual. An `async def` function runs to its end, on its own event loop. There is no queue:
    `stats()` counts nothing, observers are not called, and `executor`, `size`, `linger`, deadlines
    and priorities have no effect.

    This applies to all threads, until the block ends; blocks may be nested. Items submitted before
    the block run as usual.
    """
    overrides.append(_run_eagerly)
    try:
        reset_calls()
        yield
    finally:
        overrides.remove(_run_eagerly)


def _run_eagerly(
    calls: Calls, item: Any, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> BatchFuture[Any]:
    options, scope = calls._options(), calls._scope()
    if scope.state is not OPEN:
        raise closed_error(options.name)
    check_call(options, scope.takes_more, item, args, kwargs)
    function = calls._plain()
    spec = BatchSpec(
        function, args, kwargs, options.on_error, calls._make_getter(scope), options.isolate,
        is_async(function), options.name,
    )  # fmt: skip
    value: Any = None
    try:
        value, tries = _outcome(spec, item), 1
        while issubclass(type(value), Retry):
            if tries >= value.attempts:
                value = retry_exhausted(value, tries, options.name)
                break
            value, tries = _outcome(spec, item), tries + 1
        if isinstance(value, Failure):
            value.report_to(ErrorReport(options.name))
        return _done(value)
    finally:
        del value  # a traceback refers to this frame by `f_back`, which would make a cycle


def _outcome(spec: BatchSpec, item: Any) -> Any:
    """Return the outcome of a batch with this one item: a result, a `Failure` or a `Retry`."""
    outcomes: list[Any] = []
    answer: Any = None
    request: Any = None
    context = Context()
    execution = execute(spec, [item])
    with ExitStack() as stack:
        wait = _Loop(stack, context) if spec.can_await else None
        try:
            while True:
                request = execution.send(answer)
                answer = None
                if isinstance(request, Settle):
                    outcomes.extend(request.values)
                else:
                    answer = _answer(request, context, wait)
        except StopIteration:
            return outcomes.pop()
        finally:
            del outcomes, answer, request, execution  # as in `_run_eagerly`


def _answer(request: Call, context: Context, wait: Callable[[Any], Any] | None) -> Any:
    answer: Any = None
    try:
        answer = context.run(request.function, *request.args, **request.kwargs)
        if wait is not None and inspect.isawaitable(answer):
            answer = wait(answer)
        return answer
    except BaseException as error:
        return to_raised(error)
    finally:
        del request, answer  # as in `_run_eagerly`


class _Loop:
    """Runs the awaitables of one batch on a new event loop.

    If a loop is running in the current thread, the new one runs in a new thread, because event
    loops cannot be nested.
    """

    def __init__(self, stack: ExitStack, context: Context) -> None:
        self._context = context
        # With a factory the runner does not change the thread's current loop.
        self._runner = asyncio.Runner(loop_factory=asyncio.new_event_loop)
        stack.callback(self._call, self._runner.close)

    def __call__(self, awaitable: Any) -> Any:
        outcome: list[Any] = []  # not the task's result: an error's frames would refer to the task

        async def wait() -> None:
            try:
                outcome.append(await awaitable)
            except BaseException as error:
                outcome.append(to_raised(error))

        self._call(lambda: self._runner.run(wait(), context=self._context))
        return outcome.pop()

    @staticmethod
    def _call(function: Callable[[], object]) -> None:
        if running_loop() is None:
            function()
            return
        thread = threading.Thread(target=function, name="batchify:eager")
        thread.start()
        thread.join()


def _done(value: Any) -> BatchFuture[Any]:
    """Return a finished future of the type that a call in this thread returns."""
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


# ---- items that are not done ----


def unresolved(ignore: Collection[BatchFuture[Any]] = ()) -> dict[str, int]:
    """Return how many accepted items of each batched function are not done, by function name.

    Args:
        ignore: futures to leave out, such as those that existed before the test.
    """
    counts: Counter[str] = Counter()
    for engine in _engines():
        counts[engine.options.name] += items_of([f for f in engine.left() if f not in ignore])
    return {name: count for name, count in counts.items() if count}


def unresolved_futures() -> set[BatchFuture[Any]]:
    """Return the futures of all accepted items that are not done."""
    return {future for engine in _engines() for future in engine.left()}


def drain(timeout: float = 10.0) -> None:
    """Dispatch all accepted items of all batched functions, and wait until they are done.

    This includes items that batches submit, and retries. It blocks the thread: in a coroutine use
    `await f.aflush()` instead.

    Args:
        timeout: the maximum number of seconds to wait.

    Raises:
        Deadlock: an item waits for the event loop that this thread runs.
        TimeoutError: some items were not done in time; the message gives their number by function.
    """
    _repeat_until_done(lambda engine: engine.flush(), timeout)


def cancel_all(timeout: float = 10.0) -> None:
    """Cancel all items that have not started, and wait for running batches.

    Args:
        timeout: the maximum number of seconds to wait.

    Raises:
        Deadlock: a batch waits for the event loop that this thread runs.
        TimeoutError: some batches did not finish in time.
    """
    _repeat_until_done(
        lambda engine: [one for one in engine.left() if one.running() or not one.cancel()], timeout
    )


def _repeat_until_done(left: Callable[[Any], list[BatchFuture[Any]]], timeout: float) -> None:
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
                raise TimeoutError(
                    f"items of batched functions are not done: {left}; they stay queued or running"
                ) from None


def _engines() -> list[Any]:
    return [engine for engine in lifecycle.all_engines() if hasattr(engine, "left")]
