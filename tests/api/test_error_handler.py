"""`on_error`: a handler for failed batches (contract 5)."""

from __future__ import annotations

import asyncio
import functools
import threading
from collections.abc import Callable, Iterator
from threading import get_ident
from types import MappingProxyType
from typing import Any

import pytest

from batchify import BadResult, BatchAborted, MissingResult, Retry, RetryExhausted, batched
from tests.api.shapes import (
    TROUBLE,
    Runs,
    all_distinct,
    done,
    errors,
    made,
    make,
    results,
    shaped,
    throw,
)
from tests.limits import LIMIT
from tests.manual import batchify_threads


def fail_with(error: Callable[[], BaseException]) -> Callable[[list[Any]], Any]:
    def fail(items: list[Any]) -> Any:
        raise error()

    return fail


def _yielding(values: Any) -> Iterator[Any]:
    yield from values


REPLACEMENTS: dict[str, Callable[[list[int]], Any]] = {
    "list": lambda items: [("instead", item) for item in items],
    "tuple": lambda items: tuple(("instead", item) for item in items),
    "mapping": lambda items: {item: ("instead", item) for item in reversed(items)},
    "proxy": lambda items: MappingProxyType({item: ("instead", item) for item in items}),
    "generator": lambda items: _yielding([("instead", item) for item in items]),
}


@pytest.mark.parametrize("how", REPLACEMENTS)
@pytest.mark.parametrize("shape", TROUBLE)
def test_callers_get_what_the_handler_returns(how: str, shape: str) -> None:
    f = make(
        shape,
        fail_with(lambda: OSError("down")),
        linger=None,
        on_error=lambda failure: REPLACEMENTS[how](failure.items),
    )
    futures = [f(n) for n in range(5)]
    f.flush(LIMIT)
    assert results(futures) == [("instead", n) for n in range(5)]
    stats = f.stats()
    assert (stats.succeeded, stats.failed) == (5, 0)


@pytest.mark.parametrize("shape", TROUBLE)
def test_a_handler_that_returns_none_lets_the_error_through(shape: str) -> None:
    seen: list[Any] = []
    f = make(shape, fail_with(lambda: OSError("down")), linger=None, on_error=seen.append)
    futures = [f(n) for n in range(5)]
    f.flush(LIMIT)
    told = errors(futures)
    assert [(type(error), error.args) for error in told] == [(OSError, ("down",))] * 5
    assert all_distinct(told)
    assert [failure.items for failure in seen] == [list(range(5))]


@pytest.mark.parametrize(
    "given_back",
    [
        lambda items: items[1:],
        lambda items: [*items, 0],
        lambda items: [],
        lambda items: "abc",
        lambda items: 7,
        lambda items: object(),
    ],
)
def test_a_wrong_number_or_kind_from_the_handler_is_a_bad_result(
    given_back: Callable[[Any], Any], kind: str
) -> None:
    f = make(
        kind, fail_with(OSError), linger=None, on_error=lambda failure: given_back(failure.items)
    )
    futures = [f(n) for n in range(3)]
    f.flush(LIMIT)
    assert [type(error) for error in errors(futures)] == [BadResult] * 3
    assert f.stats().failed == 3


def test_elements_from_the_handler_mean_what_they_mean_from_the_function(kind: str) -> None:
    """An exception is raised for its caller alone, a mapping may lack one, a generator end."""
    answers: list[Any] = [
        [LookupError("own"), 1, 2],
        {0: LookupError("own"), 2: 2},
        _yielding([LookupError("own"), 1]),
    ]
    told = [
        [LookupError, 1, 2], [LookupError, MissingResult, 2], [LookupError, 1, BadResult],
    ]  # fmt: skip
    for answer, expected in zip(answers, told, strict=True):
        f = make(kind, fail_with(OSError), linger=None, on_error=lambda failure: answer)
        futures = [f(n) for n in range(3)]
        f.flush(LIMIT)
        assert [
            future.result(0) if future.exception(0) is None else type(future.exception(0))
            for future in futures
        ] == expected


def test_the_handler_may_send_items_to_run_again(kind: str) -> None:
    runs: list[list[int]] = []

    def run(items: list[int]) -> list[Any]:
        runs.append(list(items))
        if len(runs) < 3:
            raise OSError
        return done(items)

    f = make(kind, run, linger=None, on_error=lambda failure: [Retry()] * len(failure.items))
    futures = [f(n) for n in range(3)]
    f.flush(LIMIT)
    assert results(futures) == done(range(3))
    assert runs == [[0, 1, 2]] * 3
    assert f.stats().retried == 6


def test_a_handler_that_always_says_retry_is_exhausted(kind: str) -> None:
    calls: list[int] = []

    def handle(failure: Any) -> list[Any]:
        calls.append(len(failure.items))
        return [Retry(attempts=2, cause=failure.exception)] * len(failure.items)

    f = make(kind, fail_with(lambda: OSError("down")), linger=None, on_error=handle)
    futures = [f(n) for n in range(3)]
    f.flush(LIMIT)
    for error in errors(futures):
        assert type(error) is RetryExhausted
        assert type(error.__cause__) is OSError
    assert calls == [3, 3]


@pytest.mark.parametrize("shape", TROUBLE)
def test_when_the_handler_raises_the_callers_get_the_batchs_error_with_a_note(
    shape: str, caplog: pytest.LogCaptureFixture
) -> None:
    def handle(failure: Any) -> Any:
        raise LookupError("secret of the handler", failure.items)

    f = make(shape, fail_with(lambda: OSError("secret")), linger=None, on_error=handle)
    futures = [f(f"item{n}") for n in range(3)]
    f.flush(LIMIT)
    told = errors(futures)
    assert [(type(error), error.args) for error in told] == [(OSError, ("secret",))] * 3
    assert all_distinct(told)
    assert all("LookupError" in "".join(error.__notes__) for error in told)
    assert [record.name for record in caplog.records] == ["batchify"]
    assert "on_error" in caplog.text
    assert "secret" not in caplog.text
    assert "item" not in caplog.text
    assert not any("secret" in note or "item" in note for e in told for note in e.__notes__)
    after = f("item4")
    f.flush(LIMIT)
    assert type(after.exception(0)) is OSError  # the worker keeps running


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, asyncio.CancelledError])
def test_a_handler_that_is_stopped_loses_no_item(error: type[BaseException], kind: str) -> None:
    f = make(kind, fail_with(OSError), linger=None, on_error=lambda failure: throw(error()))
    futures = [f(n) for n in range(3)]
    f.flush(LIMIT)
    assert [type(told) for told in errors(futures)] == [OSError] * 3
    after = f(1)
    f.flush(LIMIT)
    assert type(after.exception(0)) is OSError


class AsyncHandler:
    async def __call__(self, failure: Any) -> Any:
        await asyncio.sleep(0)
        return [("instead", item) for item in failure.items]

    async def method(self, failure: Any) -> Any:
        return await self(failure)

    @staticmethod
    async def yielding(failure: Any) -> Any:
        for item in failure.items:
            await asyncio.sleep(0)
            yield ("instead", item)


async def async_handler(failure: Any) -> Any:
    return await AsyncHandler()(failure)


ASYNC_HANDLERS = {
    "function": async_handler,
    "method": AsyncHandler().method,
    "callable": AsyncHandler(),
    "partial": functools.partial(async_handler),
    "async generator": AsyncHandler.yielding,
}


@pytest.mark.parametrize("how", ASYNC_HANDLERS)
@pytest.mark.parametrize("shape", ["async def", "async generator"])
def test_an_async_handler_for_an_async_function(how: str, shape: str) -> None:
    options = {"linger": None, "on_error": ASYNC_HANDLERS[how]}
    f = make(shape, fail_with(OSError), **options)
    futures = [f(n) for n in range(3)]
    f.flush(LIMIT)
    assert results(futures) == [("instead", n) for n in range(3)]

    async def main() -> list[Any]:
        g: Any = batched(shaped(shape, fail_with(OSError)), on_error=ASYNC_HANDLERS[how])
        return await asyncio.gather(*[g(n) for n in range(3)])

    assert asyncio.run(main()) == [("instead", n) for n in range(3)]


@pytest.mark.parametrize("how", ASYNC_HANDLERS)
@pytest.mark.parametrize("shape", ["def", "generator", "method"])
def test_an_async_handler_for_a_def_is_refused_at_decoration(how: str, shape: str) -> None:
    with pytest.raises(TypeError, match="on_error"):
        batched(shaped(shape, fail_with(OSError)), on_error=ASYNC_HANDLERS[how])


def test_an_error_of_an_async_handler_is_noted(caplog: pytest.LogCaptureFixture) -> None:
    async def handle(failure: Any) -> Any:
        await asyncio.sleep(0)
        raise LookupError("secret")

    f = make("async def", fail_with(OSError), linger=None, on_error=handle)
    futures = [f(n) for n in range(2)]
    f.flush(LIMIT)
    for error in errors(futures):
        assert type(error) is OSError
        assert "LookupError" in "".join(error.__notes__)
    assert [record.name for record in caplog.records] == ["batchify"]


def test_the_failure_describes_the_failed_batch(kind: str) -> None:
    seen: list[Any] = []

    def run(items: list[int], *args: Any, **kwargs: Any) -> Any:
        raise OSError("down")

    plain = shaped(kind, run)
    f: Any = batched(plain, linger=None, on_error=seen.append)
    made.append(f)
    futures = [f(1, "a", mode="m"), f(2, "a", mode="m"), f(3)]
    f.flush(LIMIT)
    assert [type(error) for error in errors(futures)] == [OSError] * 3
    first, second = seen
    assert (first.items, first.args, first.kwargs) == ([1, 2], ("a",), {"mode": "m"})
    assert (second.items, second.args, second.kwargs) == ([3], (), {})
    for failure in seen:
        assert type(failure.exception) is OSError
        assert failure.exception.args == ("down",)
        assert failure.function is plain
        assert failure.batched is f


def test_on_a_method_function_is_bound_and_batched_is_the_instances() -> None:
    seen: list[Any] = []

    def handle(failure: Any) -> Any:
        seen.append(failure)
        return failure.function([0] * len(failure.items)) if failure.items != [9] else None

    class Store:
        def __init__(self, name: str) -> None:
            self.name = name

        @batched(linger=None, on_error=handle)
        def save(self, items: list[int]) -> list[Any]:
            if any(items):
                raise OSError
            return [(self.name, item) for item in items]

    one, two = Store("one"), Store("two")
    futures = [one.save(1), two.save(2)]
    one.save.flush(LIMIT), two.save.flush(LIMIT)
    assert results(futures) == [("one", 0), ("two", 0)]
    extra = [failure.batched(0) for failure in seen]  # into the instance's own queue
    one.save.flush(LIMIT), two.save.flush(LIMIT)
    assert results(extra) == [("one", 0), ("two", 0)]


def test_the_handler_is_called_before_the_callers_know(kind: str) -> None:
    states: list[list[bool]] = []
    futures: list[Any] = []

    def handle(failure: Any) -> None:
        states.append([future.done() for future in futures])

    f = make(kind, fail_with(OSError), size=3, linger=None, on_error=handle)
    futures += [f(n) for n in range(2)]
    f.flush(LIMIT)
    assert states == [[False, False]]
    assert all(future.done() for future in futures)


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (lambda items: items[:-1], BadResult),
        (lambda items: 7, BadResult),
        (lambda items: throw(KeyboardInterrupt()), BatchAborted),
        (lambda items: throw(asyncio.CancelledError()), BatchAborted),
        (lambda items: throw(StopIteration()), RuntimeError),
        (lambda items: [ValueError(), Retry(attempts=1), *items[2:]], None),
        (lambda items: {1: Retry(attempts=1)}, None),
        (lambda items: [Retry(attempts=2)] * len(items), None),
    ],
)
def test_the_handler_sees_what_fails_a_batch_and_no_elements(
    answer: Callable[[Any], Any], told: type[Exception] | None, kind: str
) -> None:
    seen: list[type[Exception]] = []
    f = make(kind, answer, linger=None, on_error=lambda x: seen.append(type(x.exception)))
    futures = [f(n) for n in range(4)]
    f.flush(LIMIT)
    assert all(future.done() for future in futures)
    assert seen == ([] if told is None else [told])


def test_the_handler_may_submit_the_items_elsewhere(kind: str) -> None:
    elsewhere = make(kind, Runs(), size=2, linger=0.001)
    kept: list[Any] = []

    def wait_for_them(failure: Any) -> list[Any]:
        return [future.result(LIMIT) for future in [elsewhere(item) for item in failure.items]]

    def leave_them(failure: Any) -> None:
        kept.extend(elsewhere(item) for item in failure.items)

    f = make("def", fail_with(OSError), linger=None, on_error=wait_for_them)
    futures = [f(n) for n in range(3)]
    f.flush(LIMIT)
    assert results(futures) == done(range(3))
    f = make(kind, fail_with(OSError), linger=None, on_error=leave_them)
    futures = [f(n) for n in range(3)]
    f.flush(LIMIT)
    assert [type(error) for error in errors(futures)] == [OSError] * 3
    assert results(kept) == done(range(3))


def test_the_handler_may_submit_to_the_function_itself(kind: str) -> None:
    second: list[Any] = []

    def run(items: list[int]) -> list[Any]:
        if any(item > 0 for item in items):
            raise OSError
        return done(items)

    def handle(failure: Any) -> None:
        second.extend(failure.batched(-item) for item in failure.items)

    f = make(kind, run, on_error=handle)
    assert type(f(3).exception(LIMIT)) is OSError
    assert results(second) == done([-3])


def test_an_async_handler_may_await_items_elsewhere() -> None:
    async def main() -> None:
        elsewhere: Any = batched(shaped("async def", Runs()))

        async def handle(failure: Any) -> list[Any]:
            return await asyncio.gather(*[elsewhere(item) for item in failure.items])

        f: Any = batched(shaped("async def", fail_with(OSError)), on_error=handle)
        assert await asyncio.gather(*[f(n) for n in range(3)]) == done(range(3))

    asyncio.run(main())


def test_handlers_run_in_the_failed_batchs_workers_so_they_are_bounded() -> None:
    lock = threading.Lock()
    running: list[int] = []
    most: list[int] = []
    workers: set[int] = set()
    both = threading.Barrier(2)

    def fail(items: list[int]) -> Any:
        workers.add(get_ident())
        raise OSError

    def handle(failure: Any) -> None:
        assert get_ident() in workers
        with lock:
            running.append(1)
            most.append(len(running))
        both.wait(LIMIT)
        with lock:
            running.pop()

    f = make("def", fail, size=1, workers=2, on_error=handle)
    futures = [f(n) for n in range(6)]
    assert [type(error) for error in errors(futures)] == [OSError] * 6
    assert max(most) == 2
    assert f.stats().failed == 6


def test_ten_thousand_failing_batches_make_no_threads() -> None:
    before = batchify_threads()
    most = 0

    def fail(items: list[int]) -> Any:
        raise OSError

    def handle(failure: Any) -> None:
        nonlocal most
        most = max(most, len(batchify_threads() - before))

    f = make("def", fail, size=1, workers=2, on_error=handle)
    found = errors([f(n) for n in range(10_000)])
    assert {type(error) for error in found} == {OSError}
    assert most <= 2
    assert f.stats().failed == 10_000


def test_a_handler_that_changes_its_failure_harms_no_other(kind: str) -> None:
    def handle(failure: Any) -> None:
        failure.items.clear()
        failure.kwargs["table"] = "spoilt"

    seen: list[Any] = []

    def run(items: list[int], table: str) -> Any:
        seen.append(table)
        raise OSError

    f = make(kind, run, linger=None, isolate=True, on_error=handle)
    futures = [f(n, table="t") for n in range(3)]
    f.flush(LIMIT)
    futures.append(f(3, table="t"))
    f.flush(LIMIT)
    assert [type(error) for error in errors(futures)] == [OSError] * 4
    assert set(seen) == {"t"}


@pytest.mark.parametrize("shape", ["generator", "async generator"])
def test_of_a_generator_the_handler_sees_the_items_that_have_no_result(shape: str) -> None:
    def run(items: list[int]) -> Iterator[Any]:
        yield from done(items[:2])
        raise OSError

    f = make(shape, run, linger=None, on_error=lambda failure: [("instead", *failure.items)] * 2)
    futures = [f(n) for n in range(4)]
    f.flush(LIMIT)
    assert results(futures) == [*done([0, 1]), ("instead", 2, 3), ("instead", 2, 3)]
