"""Reference counts free everything: contract 2 and 6.

The garbage collector is off. The tests avoid one cycle that Python itself makes: the caller's frame
still has the future in a local variable when it ends, and the error of the future was raised
through that frame (frame, future, error, traceback, frame). `concurrent.futures` has the same
cycle.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import gc
import inspect
import os
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from types import FrameType, TracebackType
from typing import Any

import pytest

import batchify
from batchify import Closed, DeadlineExceeded, QueueFull, Retry, batched
from batchify.interpreter import has_gil
from tests.frozen import frozen
from tests.limits import LIMIT

OURS = (os.path.dirname(batchify.__file__), __file__)


class Kinds:
    """The items, results and errors of one test, of separate classes, so that it can count them."""

    def __init__(self) -> None:
        class Item:
            def __init__(self, n: int) -> None:
                self.n = n

        class Value(Item):
            pass

        class Oops(Exception):
            pass

        class Uncopied(Exception):
            def __getattribute__(self, name: str) -> Any:
                if name == "args":
                    raise RuntimeError(name)
                return super().__getattribute__(name)

        self.Item, self.Value, self.Oops, self.Uncopied = Item, Value, Oops, Uncopied

    def alive(self) -> Counter[str]:
        """Return the number of these objects, and of objects that could keep them.

        Frames, tracebacks and exceptions count if they belong to the library or this test, because
        other threads, such as those of pytest-xdist, have their own.
        """
        own = (self.Item, self.Value, self.Oops, self.Uncopied)
        kept: Counter[str] = Counter()
        for thing in gc.get_objects():
            cls = type(thing)
            if cls in own or str(cls.__module__).startswith("batchify"):
                kept[cls.__name__] += 1
            elif cls is FrameType:
                kept["frame"] += is_ours(thing)
            elif cls is TracebackType:
                kept["traceback"] += is_ours(thing.tb_frame)
            elif issubclass(cls, BaseException) and thing.__traceback__ is not None:
                kept["exception"] += is_ours(thing.__traceback__.tb_frame)
        return kept


def is_ours(frame: FrameType) -> bool:
    return frame.f_code.co_filename.startswith(OURS)


@pytest.fixture
def kinds() -> Iterator[Kinds]:
    gc.collect()
    gc.disable()
    try:
        with frozen():  # existing objects are not counted, because that is slow
            yield Kinds()
    finally:
        gc.enable()


def outcome(kind: str, kinds: Kinds, items: list[Any]) -> Any:
    """Return the results of this kind of batch function; half of the batches or items fail."""
    value, oops = kinds.Value, kinds.Oops
    is_odd = items[0].n // len(items) % 2
    if kind == "element":
        return [oops(item) if item.n % 2 else value(item.n) for item in items]
    if kind == "raised element":
        return [caught(oops, item) if item.n % 2 else value(item.n) for item in items]
    if kind == "retry":
        return [Retry(attempts=2) if item.n % 2 else value(item.n) for item in items]
    if kind == "retry with cause":
        return [Retry(attempts=2, cause=caught(oops, item)) for item in items]
    if kind == "mapping":
        return {item: value(item.n) for item in items if item.n % 2}
    if not is_odd or kind == "ok":
        return [value(item.n) for item in items]
    if kind == "raise":
        raise oops(items)
    if kind == "cause":
        raise oops(items) from caught(oops, items)
    if kind == "context":
        try:
            raise oops(items)
        except oops:
            raise KeyError(items) from None
    if kind == "group":
        raise ExceptionGroup("group", [oops(items), caught(oops, items)])
    if kind == "uncopied":
        raise kinds.Uncopied(items)
    if kind == "abort":
        raise SystemExit(items)
    if kind == "stop":
        raise StopIteration(items)
    assert kind == "bad result"
    return [value(item.n) for item in items][1:]


def caught(cls: type[Exception], *args: Any) -> Exception:
    """Return an exception with a traceback."""
    try:
        raise cls(*args)
    except cls as error:
        return error


RETURNING = [
    "ok", "raise", "cause", "context", "group", "uncopied", "abort", "stop", "bad result",
    "element", "raised element", "retry", "retry with cause", "mapping",
]  # fmt: skip
YIELDING = ["yield", "yield and raise", "end early", "yield too many"]
OPTIONS: dict[str, dict[str, Any]] = {
    "isolate": {"isolate": True},
    "on_error": {"on_error": lambda failure: None},
    "on_error gives": {"on_error": lambda failure: list(failure.items)},
    "on_error raises": {"on_error": lambda failure: 1 / 0},
    "dedupe": {"dedupe": lambda item: item.n // 2},
    "key": {"key": lambda item: item.n % 3},
    "weight": {"weight": lambda item: 1, "max_weight": 3},
    "observed": {},
}


def yielded(kind: str, kinds: Kinds, items: list[Any]) -> Iterator[Any]:
    for place, item in enumerate(items):
        if place == 2 and kind == "yield and raise":
            raise kinds.Oops(items)
        if place == 2 and kind == "end early":
            return
        yield kinds.Oops(item) if item.n % 2 else kinds.Value(item.n)
    if kind == "yield too many":
        yield kinds.Value(-1)


def function_of(kind: str, kinds: Kinds, is_async: bool, size: int = 4) -> Any:
    """Return a batched `def` or `async def` that fails in this way, or has these options."""
    options = OPTIONS.get(kind, {})
    how = "raise" if kind in OPTIONS else kind
    work: Callable[..., Any]
    if kind in YIELDING:
        if is_async:

            async def work(items: list[Any]) -> AsyncIterator[Any]:
                for result in yielded(kind, kinds, items):
                    await asyncio.sleep(0)
                    yield result
        else:

            def work(items: list[Any]) -> Iterator[Any]:
                yield from yielded(kind, kinds, items)
    elif is_async:

        async def work(items: list[Any]) -> Any:
            await asyncio.sleep(0)
            return outcome(how, kinds, items)
    else:

        def work(items: list[Any]) -> Any:
            return outcome(how, kinds, items)

    f = batched(work, size=size, **options)
    if kind == "observed":
        f.observe(lambda event: event.error)
    return f


def by_result(f: Any, items: Iterator[Any]) -> None:
    for some in zip(*[items] * 8, strict=False):
        futures = [f(item) for item in some]
        for future in futures:
            try:
                future.result(LIMIT)
            except Exception:
                continue
        del some, futures, future


def by_exception(f: Any, items: Iterator[Any]) -> None:
    for some in zip(*[items] * 8, strict=False):
        futures = [f(item) for item in some]
        assert concurrent.futures.wait(futures, LIMIT).not_done == set()
        for future in futures:
            future.exception()
        del some, futures, future


def by_map(f: Any, items: Iterator[Any]) -> None:
    while some := [item for item, _ in zip(items, range(16), strict=False)]:
        try:
            for _ in f.map(some):
                pass
        except Exception:
            continue


def by_map_of_all(f: Any, items: Iterator[Any]) -> None:
    for _ in f.map(items, return_exceptions=True, ordered=False, window=16):
        pass


async def by_await(f: Any, items: Iterator[Any]) -> None:
    for some in zip(*[items] * 8, strict=False):
        futures = [f(item) for item in some]
        for future in futures:
            try:
                await future
            except Exception:
                continue
        del some, futures, future


async def by_gather(f: Any, items: Iterator[Any]) -> None:
    for some in zip(*[items] * 8, strict=False):
        await asyncio.gather(*[f(item) for item in some], return_exceptions=True)
        del some


async def by_await_elsewhere(f: Any, items: Iterator[Any]) -> None:
    """Await, on this loop, items that another thread has submitted."""
    loop = asyncio.get_running_loop()
    for some in zip(*[items] * 8, strict=False):
        futures = await loop.run_in_executor(None, lambda some=some: [f(item) for item in some])
        for future in futures:
            try:
                await future
            except Exception:
                continue
        del some, futures, future


async def by_asubmit(f: Any, items: Iterator[Any]) -> None:
    async def one(item: Any) -> Any:
        return await (await f.asubmit(item))

    for some in zip(*[items] * 8, strict=False):
        await asyncio.gather(*map(one, some), return_exceptions=True)
        del some


async def by_amap(f: Any, items: Iterator[Any]) -> None:
    while some := [item for item, _ in zip(items, range(16), strict=False)]:
        results = f.amap(some)
        try:
            async for _ in results:
                pass
        except Exception:
            continue


async def by_amap_of_all(f: Any, items: Iterator[Any]) -> None:
    async def source() -> AsyncIterator[Any]:
        for item in items:
            yield item

    async for _ in f.amap(source(), return_exceptions=True, ordered=False, window=16):
        pass


CALLERS = [
    by_result, by_exception, by_map, by_map_of_all, by_await, by_gather, by_await_elsewhere,
    by_asubmit, by_amap, by_amap_of_all,
]  # fmt: skip


def kept_of(calls: int, kinds: Kinds, call: Callable[[int], None]) -> dict[str, int]:
    """Return which objects `calls` more calls of `call(n)` leave behind."""
    most = 8  # a few frames come and go; a leak has at least one object per batch
    if not has_gil():  # each count leaves something, see `looks`
        calls, most = 5 * calls, 5 * most
    call(24)
    before = kinds.alive()
    for after in looks(kinds, call):
        if after == before:
            break
        before = after
    call(calls)
    kept: dict[str, int] = {}
    for after in looks(kinds, call):
        kept = {name: count for name, count in (after - before).items() if count > most}
        if not kept:
            break
    return kept


def looks(kinds: Kinds, call: Callable[[int], None]) -> Iterator[Counter[str]]:
    """Count repeatedly, because a worker may not sleep yet.

    Without a GIL an object that another thread released last is freed when the thread that created
    it wakes up.
    """
    end = time.monotonic() + LIMIT
    while time.monotonic() < end:
        call(0 if has_gil() else 8)
        time.sleep(0.001)
        yield kinds.alive()


def kept_by(caller: Any, f: Any, kinds: Kinds, calls: int) -> dict[str, int]:
    """Do the same for calls of `f` by `caller`."""
    if not inspect.iscoroutinefunction(caller):
        return kept_of(calls, kinds, lambda count: caller(f, map(kinds.Item, range(count))))
    with asyncio.Runner() as runner:

        def call(count: int) -> None:
            runner.run(caller(f, map(kinds.Item, range(count))))

        return kept_of(calls, kinds, call)


@pytest.mark.parametrize("is_async", [False, True], ids=["def", "async def"])
@pytest.mark.parametrize("kind", [*RETURNING, *YIELDING, *OPTIONS])
def test_nothing_survives_without_the_collector(kind: str, is_async: bool, kinds: Kinds) -> None:
    f = function_of(kind, kinds, is_async)
    for caller in CALLERS:
        assert kept_by(caller, f, kinds, 96) == {}, caller
    f.close()


@pytest.mark.parametrize("caller", [by_result, by_gather])
@pytest.mark.parametrize("is_async", [False, True], ids=["def", "async def"])
@pytest.mark.deep
def test_nothing_survives_of_100_000_calls(is_async: bool, caller: Any, kinds: Kinds) -> None:
    f = function_of("element", kinds, is_async, size=8)
    assert kept_by(caller, f, kinds, 100_000) == {}
    assert f.stats().failed >= 50_000
    f.close()


def end_early(kinds: Kinds, is_async: bool) -> Callable[[int], None]:
    """Calls that end without a batch, or because one is stopped; `call(n)` makes about n."""

    def work(items: list[Any]) -> list[Any]:
        return items

    async def awork(items: list[Any]) -> list[Any]:
        return items

    f = batched(awork if is_async else work, linger=None, size=8, capacity=8)

    def some(count: int) -> list[Any]:
        return [f(kinds.Item(n)) for n in range(count)]

    def expect(error: type[BaseException], call: Callable[[], Any]) -> None:
        try:
            call()
        except error:
            return
        raise AssertionError(error)

    def call(calls: int) -> None:
        for _ in range(0, calls, 8):
            for future in some(4):  # cancelled before the start
                assert future.cancel()
                expect(concurrent.futures.CancelledError, future.result)
            late = f.options(deadline=0.0)(kinds.Item(0))
            assert isinstance(late.exception(LIMIT), DeadlineExceeded)
            futures = some(7)
            expect(TimeoutError, lambda first=futures[0]: first.result(0))
            if not is_async:
                f.submit_nowait(kinds.Item(7))
            f.close(cancel=True)  # queued items fail with Closed
            for future in futures:
                assert isinstance(future.exception(LIMIT), (Closed, type(None)))
            expect(Closed, lambda: f(kinds.Item(8)))
            f.start()
            del future, late, futures

    return call


@pytest.mark.parametrize("is_async", [False, True], ids=["def", "async def"])
def test_nothing_survives_of_calls_that_end_early(is_async: bool, kinds: Kinds) -> None:
    assert kept_of(96, kinds, end_early(kinds, is_async)) == {}


@pytest.mark.parametrize("is_async", [False, True], ids=["def", "async def"])
def test_nothing_survives_of_waits_for_all(is_async: bool, kinds: Kinds) -> None:
    """`flush` and `close`, which wait for something."""

    def work(items: list[Any]) -> list[Any]:
        return items

    async def awork(items: list[Any]) -> list[Any]:
        await asyncio.sleep(0)
        return items

    f: Any = batched(awork if is_async else work, linger=None, size=8)

    async def await_all() -> None:
        futures = [f(kinds.Item(0))]
        await f.aflush()
        futures.append(f(kinds.Item(1)))
        with contextlib.suppress(TimeoutError):
            await f.aflush(0.0)
        await f.aclose()
        f.start()
        del futures

    with asyncio.Runner() as runner:

        def call(calls: int) -> None:
            for _ in range(0, calls, 8):
                f(kinds.Item(0))
                f.flush()
                f(kinds.Item(1))
                with contextlib.suppress(TimeoutError):
                    f.flush(0.0)
                f.close()
                f.start()
                runner.run(await_all())

        assert kept_of(96, kinds, call) == {}


def test_nothing_survives_of_calls_that_end_early_on_a_loop(kinds: Kinds) -> None:
    started = asyncio.Event()

    @batched(size=2, capacity=4)
    async def f(items: list[Any]) -> list[Any]:
        started.set()
        await asyncio.sleep(3600)
        return items

    async def refused(item: Any) -> None:
        try:
            await f.options(timeout=0.0).asubmit(item)
        except QueueFull:
            return
        raise AssertionError

    async def main(calls: int) -> None:
        for _ in range(0, calls, 8):
            started.clear()
            futures = [f(kinds.Item(n)) for n in range(4)]
            await started.wait()
            await refused(kinds.Item(4))
            waits = f.options(timeout=0.0)(kinds.Item(5))
            await asyncio.wait([waits])
            assert isinstance(waits.exception(), QueueFull)
            awaiting = [asyncio.ensure_future(future) for future in futures[:1]]
            await asyncio.sleep(0)
            awaiting[0].cancel()
            for task in asyncio.all_tasks():
                if task.get_name().startswith("batchify:"):
                    task.cancel()  # the batch ends in BatchAborted
            for future in futures:
                future.cancel()
            await asyncio.wait([*futures, *awaiting])
            await f.aflush()
            del futures, future, waits, awaiting, task

    with asyncio.Runner() as runner:
        assert kept_of(96, kinds, lambda calls: runner.run(main(calls))) == {}
