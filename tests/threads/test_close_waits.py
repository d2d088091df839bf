"""`close` returns after the workers, the last event and the last span have ended."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import pytest

from batchify import Closed, batched


class Slow:
    """An observer that is still busy when `close` is called.

    It checks for a while whether the close returns before it has ended, which it must not.
    """

    def __init__(self) -> None:
        self.started = threading.Event()
        self.closing = threading.Event()
        self.returned = threading.Event()
        self.is_outrun: list[bool] = []

    def __call__(self, event: object) -> None:
        self.started.set()
        self.closing.wait()
        self.is_outrun.append(self.returned.wait(0.2))

    def close(self, close: Callable[[], object]) -> None:
        self.closing.set()
        close()
        self.returned.set()
        # There may be an event of an earlier batch, too: callers do not wait for observers.
        assert self.is_outrun
        assert not any(self.is_outrun)


def double(items: list[int]) -> list[int]:
    return [2 * item for item in items]


async def adouble(items: list[int]) -> list[int]:
    return [2 * item for item in items]


both = pytest.mark.parametrize("function", [double, adouble])


@both
def test_close_waits_for_the_last_event(function: Any) -> None:
    f, slow = batched(function), Slow()
    f.observe(slow)
    assert f(1).result() == 2
    slow.close(f.close)


@both
def test_leaving_the_block_waits_for_the_last_event(function: Any) -> None:
    f, slow = batched(function), Slow()
    f.observe(slow)

    def block() -> None:
        with f:
            assert f(1).result() == 2

    slow.closing.set()
    block()
    slow.returned.set()
    assert slow.is_outrun == [False]


def test_close_in_a_thread_waits_for_the_callers_loop() -> None:
    f, slow = batched(adouble), Slow()
    f.observe(slow)

    async def main() -> None:
        assert await f(1) == 2
        await asyncio.to_thread(slow.close, f.close)

    asyncio.run(main())


@both
def test_two_that_close_both_wait(function: Any) -> None:
    f, slow = batched(function), Slow()
    f.observe(slow)
    f(1).result()
    slow.started.wait()
    slow.closing.set()
    outrun: list[bool] = []

    def close() -> None:
        f.close()
        outrun.append(not slow.is_outrun)

    threads = [threading.Thread(target=close) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert outrun == [False, False]


@both
def test_the_last_span_has_ended(function: Any) -> None:
    pytest.importorskip("opentelemetry.sdk")
    from opentelemetry.sdk.trace import SpanProcessor, TracerProvider

    from batchify.otel import instrument

    slow = Slow()

    class Processor(SpanProcessor):
        def on_end(self, span: object) -> None:
            slow(span)

    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(Processor())
    f = batched(function)
    stop = instrument(f, tracer_provider=provider)
    try:
        assert f(1).result() == 2
        slow.close(f.close)
    finally:
        stop()


@both
def test_a_timeout_limits_the_wait(function: Any) -> None:
    f = batched(function)
    goes_on, ended = threading.Event(), threading.Event()

    def hang(event: object) -> None:
        goes_on.wait()
        ended.set()

    f.observe(hang)
    f(1).result()
    f.close(0.01)  # no item is left, so this is no TimeoutError
    assert not ended.is_set()
    with pytest.raises(Closed):
        f(1)
    goes_on.set()
    f.close()
    assert ended.is_set()


@both
def test_start_and_close_many_times(function: Any) -> None:
    f = batched(function)
    events: list[object] = []
    f.observe(events.append)
    for n in range(50):
        f.start()
        assert f(n).result() == 2 * n
        f.close()
        assert len(events) == n + 1


# ---- from inside: a close never waits for its own caller ----


@both
@pytest.mark.parametrize("cancel", [True, False])
def test_close_in_an_observer(function: Any, cancel: bool) -> None:
    f = batched(function)
    closed = threading.Event()

    def observer(event: object) -> None:
        f.close(cancel=cancel)
        closed.set()

    f.observe(observer)
    assert f(1).result() == 2
    closed.wait()
    f.close()


@both
def test_close_in_a_done_callback(function: Any) -> None:
    f = batched(function, linger=None)
    closed = threading.Event()

    def callback(_: object) -> None:
        f.close()
        closed.set()

    f(1).add_done_callback(callback)
    threading.Thread(target=f.flush, daemon=True).start()
    closed.wait()
    f.close()


def test_close_with_cancel_in_the_batch() -> None:
    def function(items: list[int]) -> list[int]:
        f.close(cancel=True)
        return items

    f = batched(function)
    assert f(1).result() == 1
    f.close()


def test_two_functions_that_close_each_other_in_observers() -> None:
    both_run = threading.Barrier(2)
    closed = threading.Semaphore(0)

    def closes(other: Callable[[], Any]) -> Callable[[object], None]:
        def observer(event: object) -> None:
            both_run.wait()
            other().close()
            closed.release()

        return observer

    f, g = batched(double), batched(double)
    f.observe(closes(lambda: g))
    g.observe(closes(lambda: f))
    f(1).result()
    g(1).result()
    closed.acquire()
    closed.acquire()
    f.close()
    g.close()


def test_close_on_the_thread_of_the_loop() -> None:
    """As in a notebook: the loop cannot continue until the call returns."""
    f = batched(adouble)
    events: list[object] = []
    f.observe(events.append)

    async def main() -> None:
        assert await f(1) == 2
        f.close()

    asyncio.run(main())
    assert len(events) == 1


def test_a_loop_that_does_not_run() -> None:
    """Nothing can end there, so there is nothing to wait for."""
    f = batched(adouble)
    loop = asyncio.new_event_loop()

    async def main() -> None:
        assert await f(1) == 2

    loop.run_until_complete(main())
    f.close()
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()


def test_a_loop_that_is_blocked_until_the_close_returns() -> None:
    f = batched(adouble, exit_timeout=0.05)

    async def main() -> None:
        assert await f(1) == 2
        thread = threading.Thread(target=f.close)
        thread.start()
        thread.join()

    asyncio.run(main())


def test_many_loops() -> None:
    f = batched(adouble)
    slow = Slow()
    ready = threading.Barrier(4)
    over = threading.Event()

    def caller() -> None:
        async def main() -> None:
            assert await f(1) == 2
            ready.wait()
            await asyncio.to_thread(over.wait)

        asyncio.run(main())

    threads = [threading.Thread(target=caller) for _ in range(3)]
    for thread in threads:
        thread.start()
    ready.wait()
    f.observe(slow)
    f(1).result()
    slow.close(f.close)
    over.set()
    for thread in threads:
        thread.join()
