"""No caller sees another caller's items: contract 4 and 6.

Every value that a caller passes or gets contains a marker of that caller. The tests search
everything that reaches a caller, a log, a repr or a name for the markers of other callers.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import types
import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

import batchify
from batchify import Retry, batched, observe
from tests.leaks import (
    MARK,
    PACKAGE,
    Got,
    Marked,
    Oops,
    Watch,
    acall,
    call,
    frames_of,
    locals_of,
    marks_in,
    raised,
)
from tests.manual import LIMIT, in_thread, until

# ---- the search ----


def test_the_search_finds_what_is_planted() -> None:
    mark = "secret-planted-7"
    noted, chained, grouped = Oops(), Oops(), ExceptionGroup("group", [KeyError(mark)])
    noted.add_note(mark)
    chained.__context__ = KeyError(mark)
    chained.__suppress_context__ = True
    code = compile(
        "def engine(call, local):\n    return call()", str(PACKAGE / "errors.py"), "exec"
    )
    space: dict[str, Any] = {}
    eval(code, space)  # a frame that looks like one of the engine's
    leaks: dict[str, Any] = {
        "args": Oops([{"deep": (mark,)}]),
        "note": noted,
        "context": chained,
        "group": grouped,
        "local": raised(Oops(), [Marked("planted", 7)]),
        "f_back": space["engine"](lambda: raised(Oops()), Marked("planted", 7)),
        "closure": lambda: mark,
        "batch": batchify.BatchFuture(),
        "record": logging.makeLogRecord({"msg": "%s", "args": (Marked("planted", 7),)}),
    }
    leaks["batch"]._v = leaks["batch"]._t = Marked("planted", 7)
    leaks["batch"]._s = batchify.future.RESULT
    assert {where for where, leak in leaks.items() if marks_in(leak) != {mark}} == set()
    assert marks_in(raised(Oops()), lambda: 1, batchify.BatchFuture) == set()


# ---- what reaches the callers, and what is public ----


@pytest.fixture
def watch(caplog: pytest.LogCaptureFixture) -> Iterator[Watch]:
    """Everything logged, warned of and named in a test is searched when it ends."""
    watch = Watch()
    caplog.set_level(logging.DEBUG)
    end = observe(watch.event)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        yield watch
        gc.collect()
    end()
    records = caplog.get_records("call")
    assert marks_in(*watch.texts) == set()
    for record in records:
        # The debug records of asyncio hold its handles, which lead to all that the loop holds.
        args = vars(record) if record.name == "batchify" else repr(record.args)
        assert marks_in((record.getMessage(), args)) == set()
    assert marks_in([str(one.message) for one in warned]) == set()


FAILING = [
    "raise", "raise and chain", "uncopied", "group", "abort", "stop", "bad result", "element",
    "raised element", "retry", "mapping", "yield", "yield and raise", "end early", "no failure",
]  # fmt: skip
OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "isolate": {"isolate": True},
    "on_error": {"on_error": lambda failure: None},
    "on_error raises": {"on_error": lambda failure: next(iter({}[str(failure.items)]))},
    "dedupe": {"dedupe": lambda item: item.mark},
    "key": {"key": lambda item: item.n % 2},
    "weight": {"weight": lambda item: 1, "max_weight": 3},
}


class Uncopied(Exception):
    def __getattribute__(self, name: str) -> Any:
        if name == "args":
            raise RuntimeError
        return super().__getattribute__(name)


def results(how: str, items: list[Any], count: int = 0) -> Any:
    """Return the results for `items`; the locals of this frame hold all of them."""
    everything = {"items": items, "text": repr(items)}
    helper(everything, how)
    if how == "element":
        return [Oops(item) if item.n % 2 else Marked("value", item.n) for item in items]
    if how == "raised element":
        return [element(item, items) for item in items]
    if how == "retry":
        return [Retry(attempts=2, cause=element(item, items)) for item in items]
    if how == "mapping":
        return {item: Marked("value", item.n) for item in items if item.n % 2}
    if how == "bad result":
        return items[1:]
    return [Marked("value", item.n) for item in items]


def element(item: Any, items: list[Any]) -> Exception:
    try:
        raise Oops(item)
    except Oops as error:
        return error


def helper(everything: Any, how: str) -> None:
    errors: dict[str, Callable[[], BaseException]] = {
        "raise": Oops,
        "uncopied": Uncopied,
        "group": lambda: ExceptionGroup("group", [raised(KeyError(), everything), Oops()]),
        "abort": SystemExit,
        "stop": StopIteration,
    }
    if how in errors:
        raise errors[how]()
    if how == "raise and chain":
        try:
            helper(everything, "raise")
        except Oops:
            raise KeyError("again") from raised(ValueError(), everything)


def yielded(how: str, items: list[Any]) -> Iterator[Any]:
    for place, item in enumerate(items):
        if place == 1 and how == "yield and raise":
            helper({"items": items}, "raise")
        if place == 1 and how == "end early":
            return
        yield Oops(item) if item.n % 2 else Marked("value", item.n)


def function(how: str, watch: Watch, is_async: bool, is_method: bool, options: Any) -> Any:
    def look() -> None:
        watch.look(f, f.stats(), f.stats().explain(), f._scope())
        if is_async:
            watch.look(*(task.get_name() for task in asyncio.all_tasks()), asyncio.current_task())

    if is_async and how.startswith(("yield", "end")):

        async def work(items: list[Any], extra: Any) -> AsyncIterator[Any]:
            for result in yielded(how, items):
                look()
                await asyncio.sleep(0)
                yield result
    elif is_async:

        async def work(items: list[Any], extra: Any) -> Any:  # type: ignore[misc]
            look()
            await asyncio.sleep(0)
            return results(how, items)
    elif how.startswith(("yield", "end")):

        def work(items: list[Any], extra: Any) -> Iterator[Any]:  # type: ignore[misc]
            look()
            yield from yielded(how, items)
    else:

        def work(items: list[Any], extra: Any) -> Any:  # type: ignore[misc]
            look()
            return results(how, items)

    if not is_method:
        f = batched(work, size=4, linger=0.005, name="shown", **options)
        return f

    class Owner:
        method = batched(
            lambda self, items, extra: work(items, extra), size=4, name="shown", **options
        )
        if is_async:

            @batched(size=4, name="shown", **options)
            async def method(self, items: list[Any], extra: Any) -> Any:
                return await work(items, extra)

    f = Owner().method
    return f


CALLERS = 8


def from_threads(f: Any, got: Got) -> None:
    extras = [Marked("extra", 0), Marked("extra", 1)]
    calls = [in_thread(call, f, n, extras[n // 4], got) for n in range(CALLERS)]
    for one in calls:
        one.result()


def from_a_loop(f: Any, got: Got) -> None:
    async def main() -> None:
        asyncio.get_running_loop().slow_callback_duration = 0.0  # every step is logged
        extras = [Marked("extra", 0), Marked("extra", 1)]
        await asyncio.gather(*(acall(f, n, extras[n // 4], got) for n in range(CALLERS)))
        for _ in range(3):
            await asyncio.sleep(0)

    asyncio.run(main(), debug=True)


@pytest.mark.parametrize("how", FAILING)
@pytest.mark.parametrize("is_async", [False, True], ids=["def", "async def"])
def test_no_caller_sees_other_callers_items(how: str, is_async: bool, watch: Watch) -> None:
    shapes = [("plain", False), ("isolate", False), ("plain", True)]
    if how in ("raise", "raise and chain", "element", "retry", "no failure"):
        shapes += [(option, False) for option in OPTIONS if option not in ("plain", "isolate")]
    elif how.startswith(("yield", "end")):
        shapes = [("plain", False), ("on_error", False)]
    for option, is_method in shapes:
        for callers in (from_threads, from_a_loop):
            f = function(how, watch, is_async, is_method, OPTIONS[option])
            got = Got(watch)
            callers(f, got)
            stats = f.stats()
            assert stats.failed == len(got.errors)
            assert stats.accepted == CALLERS
            f.close()
            got.check()
            watch.look(f, f.stats(), f.stats().explain())


# ---- what is public: the frames of the engine, and log records ----


def test_no_event_and_no_failure_shows_content() -> None:
    seen: list[Any] = []

    def work(items: list[Any]) -> None:
        raise KeyError(items)

    f = batched(work, on_error=lambda failure: seen.append(failure))
    end = f.observe(seen.append)
    future = f(Marked("item", 1))
    assert isinstance(future.exception(LIMIT), KeyError)
    until(lambda: len(seen) == 2)
    end()
    failure, event = seen
    assert marks_in(repr(failure), str(failure), f"{event!r}") == set()
    assert "KeyError" in repr(failure)
    assert repr(event).endswith("error=KeyError)")
    assert marks_in(failure) == {"secret-item-1"}


def test_a_callback_during_a_batch_sees_no_other_result() -> None:
    """A callback runs below the frames to which its own error refers."""
    shown: set[str] = set()

    def callback(future: Any) -> None:
        error = future.exception()
        for frame in frames_of(error.__traceback__):
            for value in locals_of(frame).values():
                shown.update(MARK.findall(repr(value)))

    def work(items: list[Any]) -> Iterator[Any]:
        raise Oops(items)
        yield

    f = batched(work, size=2, linger=None, on_error=lambda failure: list(failure.items))
    g = batched(lambda items: [element(item, items) for item in items], size=2, linger=None)
    for batch in (f, g):
        futures = [batch(Marked("item", n)) for n in range(1)]
        for future in futures:
            future.add_done_callback(lambda future: future.exception() and callback(future))
        batch(Marked("item", 9)).exception(LIMIT)
        batch.flush(LIMIT)
    assert shown <= {"secret-item-0"}


def test_no_error_leads_to_the_background_loop() -> None:
    """A task has all callers' batches: since 3.12 `f_back` leads to the frame in which it runs."""

    @batched
    async def f(items: list[Any]) -> None:
        raise Oops

    error = f(1).exception(LIMIT)
    assert error is not None
    first = error.__traceback__
    assert first is not None

    def held() -> list[Any]:
        found: list[Any] = []
        traceback: types.TracebackType | None = first
        while traceback is not None:
            found += [locals_of(frame) for frame in frames_of(traceback)]
            traceback = traceback.tb_next
        return found

    def is_of_the_bottom(value: Any) -> bool:
        """Check that it holds its function and its start time, and nothing else."""
        return isinstance(value, float) or (
            isinstance(value, types.FunctionType) and value.__closure__ is None
        )

    assert held()
    # The task of the batch looks for another one before it ends, and clears its frame then.
    until(
        lambda: (
            not [
                value
                for local in held()
                for value in local.values()
                if value and not is_of_the_bottom(value)
            ]
        )
    )


def test_a_slow_observer_in_debug_mode_logs_no_content(watch: Watch) -> None:
    @batched
    async def f(items: list[Any]) -> None:
        raise Oops(items)

    async def main() -> None:
        asyncio.get_running_loop().slow_callback_duration = 0.0
        with pytest.raises(Oops):
            await f(Marked("item", 1))
        await asyncio.sleep(0)

    f.observe(lambda event: None)
    asyncio.run(main(), debug=True)
