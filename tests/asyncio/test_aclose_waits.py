"""`aclose` returns after workers, events and spans have ended, and does not block the loop."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from batchify import batched


def double(items: list[int]) -> list[int]:
    return [2 * item for item in items]


async def adouble(items: list[int]) -> list[int]:
    return [2 * item for item in items]


class Slow:
    """An observer of a `def` that returns once the loop has run in the meantime."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.closing = threading.Event()
        self.returned = threading.Event()
        self.is_outrun: list[bool] = []

    def __call__(self, event: object) -> None:
        self.closing.wait()
        runs = threading.Event()
        self.loop.call_soon_threadsafe(runs.set)
        runs.wait()  # hangs if the close blocks the loop
        self.is_outrun.append(self.returned.wait(0.2))


def test_aclose_of_a_def_waits_for_the_last_event() -> None:
    async def main() -> None:
        f, slow = batched(double), Slow()
        f.observe(slow)
        assert await f(1) == 2
        slow.closing.set()
        await f.aclose()
        slow.returned.set()
        assert slow.is_outrun == [False]

    asyncio.run(main())


def test_leaving_the_block_waits_for_the_last_event() -> None:
    async def main() -> None:
        f, slow = batched(double), Slow()
        f.observe(slow)
        slow.closing.set()
        async with f:
            assert await f(1) == 2
        slow.returned.set()
        assert slow.is_outrun == [False]

    asyncio.run(main())


def test_the_last_span_has_ended() -> None:
    pytest.importorskip("opentelemetry.sdk")
    from opentelemetry.sdk.trace import SpanProcessor, TracerProvider

    from batchify.otel import instrument

    async def main() -> None:
        slow = Slow()

        class Processor(SpanProcessor):
            def on_end(self, span: object) -> None:
                slow(span)

        provider = TracerProvider(shutdown_on_exit=False)
        provider.add_span_processor(Processor())
        f = batched(double)
        stop = instrument(f, tracer_provider=provider)
        try:
            assert await f(1) == 2
            slow.closing.set()
            await f.aclose()
            slow.returned.set()
            assert slow.is_outrun == [False]
        finally:
            stop()

    asyncio.run(main())


@pytest.mark.parametrize("function", [double, adouble])
def test_every_event_is_there(function: Any) -> None:
    async def main() -> None:
        f = batched(function, workers=3, size=2)
        events: list[object] = []
        f.observe(events.append)
        for n in range(30):
            f.start()
            assert await asyncio.gather(*map(f, range(10))) == [2 * item for item in range(10)]
            await f.aclose()
            assert len(events) == f.stats().batches, n

    asyncio.run(main())


def test_aclose_waits_for_the_background_loop() -> None:
    """The items of callers without a loop run there."""

    async def main() -> None:
        f, slow = batched(adouble), Slow()
        f.observe(slow)
        assert await asyncio.to_thread(lambda: f(1).result()) == 2
        slow.closing.set()
        await f.aclose()
        slow.returned.set()
        assert slow.is_outrun == [False]

    asyncio.run(main())


def test_a_timeout_limits_the_wait() -> None:
    async def main() -> None:
        f = batched(double)
        goes_on, ended = threading.Event(), threading.Event()

        def hang(event: object) -> None:
            goes_on.wait()
            ended.set()

        f.observe(hang)
        assert await f(1) == 2
        await f.aclose(0.01)
        assert not ended.is_set()
        goes_on.set()
        await f.aclose()
        assert ended.is_set()

    asyncio.run(main())


@pytest.mark.parametrize("function", [double, adouble])
def test_a_cancelled_aclose_leaves_it_closed(function: Any) -> None:
    async def main() -> None:
        f = batched(function, linger=None)
        futures = [f(n) for n in range(3)]
        task = asyncio.create_task(f.aclose())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await f.aclose()
        assert await asyncio.gather(*futures) == [0, 2, 4]

    asyncio.run(main())


def test_aclose_with_cancel_in_the_batch() -> None:
    async def main() -> None:
        async def function(items: list[int]) -> list[int]:
            await f.aclose(cancel=True)
            return items

        f = batched(function)
        assert await f(1) == 1
        await f.aclose()

    asyncio.run(main())


def test_a_loop_that_stops_for_good_is_not_waited_for() -> None:
    f = batched(adouble)
    loop = asyncio.new_event_loop()

    async def call() -> None:
        assert await f(1) == 2

    loop.run_until_complete(call())
    asyncio.run(f.aclose())
    loop.run_until_complete(loop.shutdown_asyncgens())
    loop.close()
