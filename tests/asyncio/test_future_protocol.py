"""A future made on a loop behaves like `asyncio.Future`, method by method.

Each test runs the same steps with an `asyncio.Future` and with a future of a batched function, and
compares the results. It does so on asyncio's loop and on uvloop, with and without debug mode.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import sys
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from batchify import BatchFuture, batched

Steps = Callable[[Any, Callable[[Any], None], list[Any]], Awaitable[None]]


def run_on_asyncio(steps: Steps) -> list[Any]:
    seen: list[Any] = []

    async def main() -> None:
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        def finish(outcome: Any) -> None:
            if isinstance(outcome, Exception):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)

        await steps(future, finish, seen)

    run(main)
    return seen


def run_on_batchify(steps: Steps) -> list[Any]:
    seen: list[Any] = []

    async def main() -> None:
        outcome: asyncio.Future[Any] = asyncio.get_running_loop().create_future()

        @batched
        async def f(items: list[int]) -> list[Any]:
            return [await outcome] * len(items)

        future = f(1)
        await steps(future, lambda value: outcome.done() or outcome.set_result(value), seen)
        if not outcome.done():
            outcome.set_result(None)
        await f.aclose()

    run(main)
    return seen


def _loops() -> list[Any]:
    factories: list[Any] = [pytest.param((None, False), id="asyncio")]
    factories.append(pytest.param((None, True), id="debug"))
    try:
        import uvloop
    except ImportError:
        return factories
    return [*factories, pytest.param((uvloop.new_event_loop, False), id="uvloop")]


_loop: tuple[Any, bool] = (None, False)


@pytest.fixture(params=_loops(), autouse=True)
def loop_kind(request: pytest.FixtureRequest) -> Any:
    global _loop
    _loop = request.param
    yield
    _loop = (None, False)


def run(main: Callable[[], Awaitable[None]]) -> None:
    factory, debug = _loop
    with asyncio.Runner(loop_factory=factory, debug=debug) as runner:
        runner.run(main())  # type: ignore[arg-type]


def outcome_of(act: Callable[[], Any]) -> Any:
    """Return the result of `act`, or the type and arguments of its error."""
    try:
        return act()
    except BaseException as error:
        return type(error), error.args


async def awaited(future: Any) -> Any:
    try:
        return await future
    except BaseException as error:
        return type(error), error.args


async def steps_of_the_loop(count: int = 3) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


# ---- the steps ----


async def cancel_without_a_message(future: Any, finish: Any, seen: list[Any]) -> None:
    seen += [future.done(), future.cancelled(), future.cancel()]
    seen += [future.done(), future.cancelled(), outcome_of(future.result)]
    seen += [outcome_of(future.exception), await awaited(future), future._cancel_message]


async def cancel_with_a_message(future: Any, finish: Any, seen: list[Any]) -> None:
    seen += [future.cancel("why"), outcome_of(future.result), outcome_of(future.exception)]
    seen += [await awaited(future), await awaited(future), future._cancel_message]


async def cancel_with_a_keyword(future: Any, finish: Any, seen: list[Any]) -> None:
    seen += [future.cancel(msg=("any", "object")), await awaited(future)]


async def the_first_cancel_wins(future: Any, finish: Any, seen: list[Any]) -> None:
    seen += [future.cancel("first"), future.cancel("second"), future.cancel()]
    seen += [await awaited(future), future._cancel_message]


async def cancel_after_the_result(future: Any, finish: Any, seen: list[Any]) -> None:
    finish(5)
    seen += [await awaited(future), future.cancel("late"), future.cancelled()]
    seen += [future._cancel_message, await awaited(future), future.result(), future.exception()]


async def cancel_after_the_error(future: Any, finish: Any, seen: list[Any]) -> None:
    finish(ValueError("wrong"))
    seen += [await awaited(future), future.cancel("late"), future._cancel_message]
    seen += [type(future.exception()), outcome_of(future.result)]


async def each_cancelled_error_is_new(future: Any, finish: Any, seen: list[Any]) -> None:
    future.cancel("why")
    errors = []
    for _ in range(2):
        try:
            future.result()
        except asyncio.CancelledError as error:
            errors.append(error)
    errors += [future._make_cancelled_error(), future._make_cancelled_error()]
    seen += [len(set(map(id, errors))), [(type(one), one.args) for one in errors]]
    seen += [[(one.__cause__, one.__context__) for one in errors]]


async def a_cancelled_error_keeps_its_context(future: Any, finish: Any, seen: list[Any]) -> None:
    future.cancel("why")
    try:
        try:
            raise KeyError("before")
        except KeyError:
            await future
    except asyncio.CancelledError as error:
        seen += [error.args, repr(error.__context__), error.__suppress_context__]


async def cancelling_the_awaiting_task(future: Any, finish: Any, seen: list[Any]) -> None:
    task = asyncio.ensure_future(awaited(future))
    await steps_of_the_loop()
    seen += [task.cancel("why"), future.cancelled(), await task, future._cancel_message]
    seen += [outcome_of(future.result)]


async def cancelling_one_of_several_tasks(future: Any, finish: Any, seen: list[Any]) -> None:
    tasks = [asyncio.ensure_future(awaited(future)) for _ in range(3)]
    await steps_of_the_loop()
    tasks[1].cancel("why")
    seen += await asyncio.gather(*tasks)


async def a_task_that_is_cancelled_before_it_awaits(
    future: Any, finish: Any, seen: list[Any]
) -> None:
    async def waits() -> None:
        asyncio.current_task().cancel("early")  # type: ignore[union-attr]
        seen.append(await awaited(future))

    await asyncio.ensure_future(waits())
    seen += [future.cancelled(), future._cancel_message]


async def awaits_again(future: Any, finish: Any, seen: list[Any]) -> None:
    finish([1])
    seen += [await future, await future, (await future) is (await future)]


async def several_tasks(future: Any, finish: Any, seen: list[Any]) -> None:
    tasks = [asyncio.ensure_future(awaited(future)) for _ in range(3)]
    await steps_of_the_loop()
    finish("value")
    seen += await asyncio.gather(*tasks)


async def several_tasks_get_one_error(future: Any, finish: Any, seen: list[Any]) -> None:
    tasks = [asyncio.ensure_future(awaited(future)) for _ in range(3)]
    await steps_of_the_loop()
    finish(ValueError("wrong"))
    seen += await asyncio.gather(*tasks)


async def callbacks_in_order_and_later(future: Any, finish: Any, seen: list[Any]) -> None:
    for n in range(3):
        future.add_done_callback(lambda one, n=n: seen.append((n, one is future, one.done())))
    future.cancel()
    seen.append("not yet")
    await steps_of_the_loop()
    future.add_done_callback(lambda one: seen.append("late"))
    seen.append("not yet, either")
    await steps_of_the_loop()


async def callbacks_have_their_context(future: Any, finish: Any, seen: list[Any]) -> None:
    var: contextvars.ContextVar[str] = contextvars.ContextVar("var", default="none")
    var.set("of the adder")
    other = contextvars.copy_context()
    other.run(var.set, "given")
    future.add_done_callback(lambda _: seen.append(var.get()))
    future.add_done_callback(lambda _: seen.append(var.get()), context=other)
    var.set("afterwards")
    future.cancel()
    await steps_of_the_loop()
    future.add_done_callback(lambda _: seen.append(var.get()), context=other)
    await steps_of_the_loop()


async def callbacks_can_be_removed(future: Any, finish: Any, seen: list[Any]) -> None:
    def one(_: Any) -> None:
        seen.append("one")

    def other(_: Any) -> None:
        seen.append("other")

    for callback in (one, other, one):
        future.add_done_callback(callback)
    seen += [future.remove_done_callback(one), future.remove_done_callback(one)]
    seen += [future.remove_done_callback(print)]
    future.cancel()
    await steps_of_the_loop()
    seen.append(future.remove_done_callback(other))


async def a_callback_that_raises(future: Any, finish: Any, seen: list[Any]) -> None:
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, told: seen.append(repr(told["exception"])))

    def raises(_: Any) -> None:
        raise ValueError("in a callback")

    future.add_done_callback(raises)
    future.add_done_callback(lambda _: seen.append("the next one"))
    future.cancel()
    await steps_of_the_loop()


async def its_loop(future: Any, finish: Any, seen: list[Any]) -> None:
    loop = asyncio.get_running_loop()
    seen += [future.get_loop() is loop, asyncio.isfuture(future)]
    seen += [asyncio.ensure_future(future) is future, asyncio.wrap_future(future) is future]
    future.cancel()


async def the_await_protocol(future: Any, finish: Any, seen: list[Any]) -> None:
    seen.append(future._asyncio_future_blocking)
    steps = future.__await__()
    seen += [next(steps) is future, future._asyncio_future_blocking]
    seen.append(outcome_of(lambda: next(steps)))
    future._asyncio_future_blocking = False
    finish(7)
    with contextlib.suppress(BaseException):
        await future
    seen.append(outcome_of(lambda: next(iter(future))))


async def gathered_and_cancelled(future: Any, finish: Any, seen: list[Any]) -> None:
    task = asyncio.ensure_future(awaited(asyncio.gather(future, asyncio.sleep(0))))
    await steps_of_the_loop()
    seen += [task.cancel("why"), await task, future.cancelled()]


async def a_cancelled_one_in_gather(future: Any, finish: Any, seen: list[Any]) -> None:
    both = asyncio.gather(future, asyncio.sleep(0), return_exceptions=True)
    await steps_of_the_loop()
    future.cancel("why")
    error, value = await both
    seen += [type(error), error.args, value]
    seen.append(await awaited(asyncio.gather(future)))


async def wait_for_its_time(future: Any, finish: Any, seen: list[Any]) -> None:
    seen.append(await awaited(asyncio.wait_for(future, 0.001)))
    seen += [future.cancelled(), future.cancel("late")]


async def wait_for_is_cancelled(future: Any, finish: Any, seen: list[Any]) -> None:
    task = asyncio.ensure_future(awaited(asyncio.wait_for(future, 1000)))
    await steps_of_the_loop()
    task.cancel("why")
    seen += [await task, future.cancelled()]


async def a_timeout_around_it(future: Any, finish: Any, seen: list[Any]) -> None:
    try:
        async with asyncio.timeout(0.001):
            await future
    except TimeoutError as error:
        seen += [type(error), type(error.__cause__), future.cancelled()]


async def in_a_task_group(future: Any, finish: Any, seen: list[Any]) -> None:
    async def fails() -> None:
        await steps_of_the_loop()
        raise ValueError("the group")

    async def waits() -> None:
        try:
            await future
        except asyncio.CancelledError as error:
            seen.append(error.args)
            raise

    try:
        async with asyncio.TaskGroup() as group:
            group.create_task(waits())
            group.create_task(fails())
    except* ValueError as errors:
        seen += [len(errors.exceptions), future.cancelled()]


async def shielded(future: Any, finish: Any, seen: list[Any]) -> None:
    task = asyncio.ensure_future(awaited(asyncio.shield(future)))
    await steps_of_the_loop()
    task.cancel("why")
    seen += [await task, future.cancelled()]
    finish("continues")
    seen.append(await future)


async def waited_for(future: Any, finish: Any, seen: list[Any]) -> None:
    done, pending = await asyncio.wait([future], timeout=0.001)
    seen += [len(done), len(pending), future.cancelled()]
    future.cancel("why")
    done, pending = await asyncio.wait([future])
    seen += [done == {future}, pending]


async def completed(future: Any, finish: Any, seen: list[Any]) -> None:
    future.cancel("why")
    for one in asyncio.as_completed([future]):
        seen.append(await awaited(one))


STEPS = [
    cancel_without_a_message, cancel_with_a_message, cancel_with_a_keyword, the_first_cancel_wins,
    cancel_after_the_result, cancel_after_the_error, each_cancelled_error_is_new,
    a_cancelled_error_keeps_its_context, cancelling_the_awaiting_task,
    cancelling_one_of_several_tasks, a_task_that_is_cancelled_before_it_awaits, awaits_again,
    several_tasks, several_tasks_get_one_error, callbacks_in_order_and_later,
    callbacks_have_their_context, callbacks_can_be_removed, a_callback_that_raises, its_loop,
    the_await_protocol, gathered_and_cancelled, a_cancelled_one_in_gather, wait_for_its_time,
    wait_for_is_cancelled, a_timeout_around_it, in_a_task_group, shielded, waited_for, completed,
]  # fmt: skip


@pytest.mark.parametrize("steps", STEPS, ids=lambda steps: steps.__name__)
def test_it_behaves_as_asyncio_does(steps: Steps) -> None:
    expected = run_on_asyncio(steps)
    assert expected
    assert run_on_batchify(steps) == expected


def start_eagerly(loop: Any, coroutine: Any, **options: Any) -> Any:
    """Make an eager task; asyncio's factory in 3.13.0 to 3.13.2 refuses an option of uvloop."""
    return asyncio.Task(coroutine, loop=loop, **{**options, "eager_start": True})


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks come with Python 3.12")
@pytest.mark.parametrize("steps", STEPS, ids=lambda steps: steps.__name__)
def test_it_behaves_as_asyncio_does_with_eager_tasks(steps: Steps) -> None:
    async def eagerly(future: Any, finish: Any, seen: list[Any]) -> None:
        loop = asyncio.get_running_loop()
        loop.set_task_factory(start_eagerly)
        await steps(future, finish, seen)

    assert run_on_batchify(eagerly) == run_on_asyncio(eagerly)


def test_run_until_complete_with_a_future() -> None:
    """asyncio adds its callback, and asks for the result, while the loop does not run."""
    factory, debug = _loop
    loop = asyncio.new_event_loop() if factory is None else factory()
    loop.set_debug(debug)

    @batched
    def double(items: list[int]) -> list[int]:
        return [2 * item for item in items]

    async def make(n: int) -> BatchFuture[int]:
        return double(n)

    try:
        future: Any = loop.run_until_complete(make(4))
        assert loop.run_until_complete(future) == 8
        future = loop.run_until_complete(make(5))
        future.add_done_callback(lambda one: seen.append(asyncio.current_task() is None))
        seen: list[bool] = []
        assert future.result(60) == 10
        assert not seen
        loop.run_until_complete(asyncio.sleep(0.001))
        assert seen == [True]
        double.linger = None
        future = loop.run_until_complete(make(6))
        future.cancel("why")
        with pytest.raises(asyncio.CancelledError) as caught:
            loop.run_until_complete(future)
        assert caught.value.args == ("why",)
    finally:
        loop.close()
        double.close()
