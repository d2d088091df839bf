"""What lives how long, and who may see what: contract 4 to 6, and 8 (Scope, Context)."""

from __future__ import annotations

import asyncio
import contextvars
import functools
import gc
import logging
import os
import subprocess
import sys
import threading
import time
import traceback
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from batchify import BatchFuture, batched
from batchify.engine import lifecycle
from tests.manual import ManualSeam, batched_with, in_thread, until

ROOT = Path(__file__).parent.parent
SOON = 1.0  # seconds after which the threads of a dropped function are gone


@pytest.fixture
def no_collector() -> Iterator[None]:
    """No garbage collector: what is in a cycle stays."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()
    gc.collect()


def threads_of(name: str) -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith(f"batchify:{name}:")]


def soon(fact: Callable[[], Any]) -> None:
    """It comes true within `SOON`; the machine may be busy, so it is given some more."""
    until(fact)


# ---- nothing is left of an item ----


class Item:
    def __init__(self, number: int) -> None:
        self.number = number


class Result(Item):
    pass


class Fault(Exception):
    pass


class Counted:
    """Which items, results, errors and futures are alive."""

    def __init__(self) -> None:
        self.alive: dict[str, weakref.WeakSet[Any]] = {
            what: weakref.WeakSet() for what in ("items", "results", "errors", "futures")
        }

    def add(self, what: str, value: Any) -> Any:
        self.alive[what].add(value)
        return value

    def work(self, items: list[Item]) -> list[Any]:
        """Half of all fail: every second batch, or every second item of each."""
        if items[0].number % 4 == 0:
            raise self.add("errors", Fault(items))
        if items[0].number % 4 == 1:
            return [self.add("results", Result(item.number)) for item in items]
        return [
            self.add("errors", Fault(item)) if n % 2 else self.add("results", Result(item.number))
            for n, item in enumerate(items)
        ]

    def call(self, f: Any, number: int) -> BatchFuture[Any]:
        future: BatchFuture[Any] = self.add("futures", f(self.add("items", Item(number))))
        return future

    def look(self, future: BatchFuture[Any]) -> str:
        """Fetch the end of a future in every way, and keep nothing of it."""
        try:
            return type(future.result(10)).__name__
        except Fault as error:
            self.add("errors", error)
            return "Fault"
        finally:
            del future

    def left(self) -> dict[str, int]:
        return {what: len(alive) for what, alive in self.alive.items() if len(alive)}


CALLS = 20_000
WINDOW = 500


def from_thread(counted: Counted, f: Any) -> Counter[str]:
    ends: Counter[str] = Counter()
    for start in range(0, CALLS, WINDOW):
        futures = [counted.call(f, n) for n in range(start, start + WINDOW)]
        while futures:
            ends[counted.look(futures.pop())] += 1
    return ends


async def on_loop(counted: Counted, f: Any) -> Counter[str]:
    ends: Counter[str] = Counter()
    for start in range(0, CALLS, WINDOW):
        futures = [counted.call(f, n) for n in range(start, start + WINDOW)]
        ended = await asyncio.gather(*futures, return_exceptions=True)
        ends.update(type(end).__name__ for end in ended)
        for end in ended:
            if isinstance(end, Fault):
                counted.add("errors", end)
        del futures, ended, end
    return ends


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize(
    "way", ["def", "method", "async def", "def on a loop", "async def on a loop"]
)
def test_nothing_is_left_of_calls_that_are_over(way: str) -> None:
    """While the function lives on, idle."""
    counted = Counted()

    async def awork(items: list[Item]) -> list[Any]:
        return counted.work(items)

    class Owner:
        @batched(size=10)
        def method(self, items: list[Item]) -> list[Any]:
            return counted.work(items)

    owner = Owner()
    functions: dict[str, Any] = {"def": batched(counted.work, size=10), "method": owner.method}
    f = functions.get(way.removesuffix(" on a loop"), batched(awork, size=10))
    if way.endswith("on a loop"):
        ends = asyncio.run(on_loop(counted, f))
    else:
        ends = from_thread(counted, f)
    assert ends.total() == CALLS
    assert set(ends) == {"Result", "Fault"}
    assert min(ends.values()) > CALLS / 10
    until(lambda: not counted.left())
    assert f.stats().succeeded + f.stats().failed == CALLS


@pytest.mark.usefixtures("no_collector")
def test_nothing_is_left_of_calls_with_callbacks_waits_and_extra_arguments() -> None:
    alive: weakref.WeakSet[Any] = weakref.WeakSet()

    @batched(size=5)
    def f(items: list[Item], extra: Any) -> list[Item]:
        return items

    def use() -> None:
        for n in range(300):
            extra = Item(n)
            futures = [f(Item(n), extra) for _ in range(7)]
            alive.update(futures)
            alive.add(extra)
            futures[0].add_done_callback(lambda future, extra=extra: future.result())
            futures[1].cancel()
            assert futures[2].result(5).number == n
            try:
                futures[3].result(0)
            except TimeoutError:
                pass
            f.flush(5)

    use()
    until(lambda: not len(alive))


@pytest.mark.usefixtures("no_collector")
def test_a_cancelled_item_is_gone_at_once() -> None:
    f = batched(lambda items: items, linger=None)
    item = Item(1)
    weak = weakref.ref(item)
    future = f(item)
    del item
    assert weak() is not None
    assert future.cancel()
    assert weak() is None


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize("kind", ["plain", "with extra arguments", "full"])
def test_cancelled_futures_do_not_pile_up(kind: str) -> None:
    """Callers that give up do not fill the memory while the batches stand still."""

    def work(items: list[int]) -> list[int]:
        return items

    def more(items: list[int], extra: int = 0) -> list[int]:
        return items

    f = batched(
        more if kind == "with extra arguments" else work,
        linger=None,
        size=64,
        capacity=64 if kind == "full" else None,
    )
    alive: weakref.WeakSet[Any] = weakref.WeakSet()

    def call(n: int) -> BatchFuture[int]:
        future = f(n)
        alive.add(future)
        return future

    async def give_up() -> None:
        waiting = [call(n) for n in range(63)]
        if kind == "full":
            waiting.append(f(63))
        for n in range(10_000):
            call(n).cancel()
        assert len(alive) < 1000
        for future in waiting:
            future.cancel()

    asyncio.run(give_up())


# ---- functions that go ----


@pytest.mark.usefixtures("no_collector")
def test_the_threads_of_a_dropped_function_end() -> None:
    f: Any = batched(lambda items: items, name="dropped", workers=3, size=1)
    futures = [f(n) for n in range(100)]
    assert [x.result(5) for x in futures] == list(range(100))
    weak = weakref.ref(f)
    assert threads_of("dropped")
    del f
    assert weak() is None
    began = time.monotonic()
    until(lambda: not threads_of("dropped"))
    assert time.monotonic() - began < SOON
    assert futures[0].result() == 0


@pytest.mark.usefixtures("no_collector")
def test_what_waits_in_a_dropped_function_is_processed_first() -> None:
    gate, ran = threading.Event(), []

    def work(items: list[int]) -> list[int]:
        assert gate.wait(10)
        ran.extend(items)
        return items

    f: Any = batched(work, name="dropped_busy", size=2)
    for n in range(5):
        f(n)
    del f
    gate.set()
    until(lambda: ran == [0, 1, 2, 3, 4])
    until(lambda: not threads_of("dropped_busy"))


@pytest.mark.parametrize("kind", ["def", "async def"])
@pytest.mark.parametrize("linger", [0.05, 1000, None])
@pytest.mark.parametrize("is_held", [False, True], ids=["futures dropped", "futures held"])
def test_what_lingers_in_a_dropped_function_is_processed(
    kind: str, linger: float | None, is_held: bool
) -> None:
    """Nobody can submit any more: there is no company to wait for, and nobody left to flush."""
    ran = []

    def work(items: list[int]) -> list[int]:
        ran.extend(items)
        return items

    async def awork(items: list[int]) -> list[int]:
        return work(items)

    f: Any = batched(work if kind == "def" else awork, name="dropped_lingering", linger=linger)
    futures = [f(n) for n in range(3)]
    if not is_held:
        futures.clear()
    del f
    gc.collect()
    until(lambda: ran == [0, 1, 2])
    assert [x.result(5) for x in futures] == [0, 1, 2][: len(futures)]
    until(lambda: not threads_of("dropped_lingering"))


def test_dropped_while_it_lingers_it_still_runs_at_its_time() -> None:
    """On a clock that stands still: nothing is lost when the function goes before its time."""
    seam, ran = ManualSeam(), []
    f = batched_with(seam, ran.extend, linger=5, name="dropped_waiting")
    f(1), f(2)
    del f
    gc.collect()
    seam.advance(5)
    until(lambda: ran == [1, 2])
    until(lambda: not seam.workers)


def run_script(script: str, *arguments: str) -> str:
    paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
    ended = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (ended.returncode, ended.stderr) == (0, ""), ended.stderr
    return ended.stdout


def test_the_background_loop_ends_when_no_function_needs_it() -> None:
    run_script("""
import gc, threading, time
from batchify import batched
gc.disable()

class Owner:
    @batched
    async def method(self, items):
        return items

def background():
    return [t for t in threading.enumerate() if t.name == "batchify:background"]

def use_two():
    @batched
    async def f(items):
        return items
    owner = Owner()
    assert (f(1).result(5), owner.method(2).result(5)) == (1, 2)
    assert len(background()) == 1
    del f
    assert owner.method(3).result(5) == 3

for _ in range(3):
    use_two()
    (thread,) = background() or [None]
    if thread is not None:
        thread.join(5)
        assert not thread.is_alive()
""")


@pytest.mark.usefixtures("no_collector")
def test_a_background_loop_that_cannot_start_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = []
    new_event_loop = asyncio.new_event_loop

    def new() -> asyncio.AbstractEventLoop:
        made.append(new_event_loop())
        return made[-1]

    def refuse(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    @batched
    async def f(items: list[int]) -> list[int]:
        return items

    monkeypatch.setattr("batchify.engine.loops._background", None)
    with monkeypatch.context() as patch:
        patch.setattr(asyncio, "new_event_loop", new)
        patch.setattr(threading.Thread, "start", refuse)
        for n in range(3):
            with pytest.raises(RuntimeError, match="can't start new thread"):
                f(n)
    assert all(loop.is_closed() for loop in made)
    assert len(made) == 3
    assert f(1).result(5) == 1


def test_nothing_starts_before_the_first_call() -> None:
    before = threading.active_count()
    engines = len(lifecycle._engines)
    kept: list[Any] = []
    for _ in range(500):

        @batched(workers=4)
        def f(items: list[int]) -> list[int]:
            return items

        @batched
        async def g(items: list[int]) -> list[int]:
            return items

        kept += [f, g, f.options(timeout=1)]
    assert [f.stats().workers for f in kept[:2]] == [0, 0]
    assert threading.active_count() == before
    assert len(lifecycle._engines) <= engines + 2  # of those that were asked for stats


# ---- instances ----


class Plain:
    def __init__(self, name: Any) -> None:
        self.name = name

    @batched(name="plain_method")
    def method(self, items: list[Any]) -> list[Any]:
        return [(self.name, item) for item in items]

    @batched(linger=None, name="plain_waits")
    def waits(self, items: list[Any]) -> list[Any]:
        return [(self.name, item) for item in items]

    @batched(linger=None)
    async def awaits(self, items: list[Any]) -> list[Any]:
        return [(self.name, item) for item in items]


class Equal:
    """All equal, of one hash."""

    def __init__(self, name: Any) -> None:
        self.name = name

    def __eq__(self, other: object) -> bool:
        return True

    def __hash__(self) -> int:
        return 1

    @batched(linger=None, name="equal_method")
    def waits(self, items: list[Any]) -> list[Any]:
        return [(self.name, item) for item in items]


class Unhashable(Equal):
    __hash__ = None  # type: ignore[assignment]


class Slots:
    __slots__ = ("name",)

    def __init__(self, name: Any) -> None:
        self.name = name

    @batched(linger=None, name="slots_method")
    def waits(self, items: list[Any]) -> list[Any]:
        return [(self.name, item) for item in items]


class WeakSlots(Slots):
    __slots__ = ("__weakref__",)


INSTANCES = [Plain, Equal, Unhashable, Slots, WeakSlots]


def known_owners(cls: type) -> int:
    """How many instances the decorator of `waits` knows."""
    return len(cls.waits._self_parent._self_scopes._by_owner)


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize("cls", INSTANCES)
def test_each_instance_has_a_queue_of_its_own(cls: Any) -> None:
    owners = [cls(n) for n in range(5)]
    futures = {n: [owners[n].waits(item) for item in range(3)] for n in (3, 1, 4, 0, 2)}
    for n, owner in enumerate(owners):
        assert not futures[n][0].done()
        owner.waits.flush(5)
        assert [x.result(0) for x in futures[n]] == [(n, item) for item in range(3)]


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize("cls", INSTANCES)
def test_a_thousand_instances_leave_nothing(cls: Any) -> None:
    known = known_owners(cls)
    engines = len(lifecycle._engines)
    before = threading.active_count()
    for n in range(1000):
        owner = cls(n)
        future = owner.waits(n)
        owner.waits.flush(5)
        assert future.result(0) == (n, n)
    del owner, future
    until(lambda: known_owners(cls) == known)
    until(lambda: threading.active_count() <= before)
    until(lambda: len(lifecycle._engines) <= engines)


@pytest.mark.usefixtures("no_collector")
def test_an_instance_is_not_kept_when_idle() -> None:
    owner = Plain("idle")
    weak = weakref.ref(owner)
    assert owner.method(1).result(5) == ("idle", 1)
    assert owner.awaits.stats().pending == 0
    owner.method.flush(5)
    del owner
    until(lambda: weak() is None)


@pytest.mark.usefixtures("no_collector")
@pytest.mark.parametrize("name", ["waits", "awaits"])
def test_an_instance_is_kept_while_its_items_wait(name: str) -> None:
    """The batch has the right self, though nobody else knows it any more."""
    weak, futures = [], []
    for n in range(20):
        owner = Plain(n)
        weak.append(weakref.ref(owner))
        futures.append(getattr(owner, name)("item"))
    del owner
    gc.collect()
    others = [Plain("other") for _ in range(20)]  # where the freed ones would have been
    for future in futures:
        assert not future.done()
        future._s.engine.flush()
    assert [x.result(5) for x in futures] == [(n, "item") for n in range(20)]
    assert len(others) == 20
    until(lambda: not any(owner() is not None for owner in weak))


@pytest.mark.usefixtures("no_collector")
def test_an_instance_dropped_right_after_the_call() -> None:
    futures = [Plain(n).method("item") for n in range(200)]
    assert [x.result(5) for x in futures] == [(n, "item") for n in range(200)]


# ---- loops that come and go ----


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_a_thousand_loops(kind: str) -> None:
    def work(items: list[int]) -> list[int]:
        return items

    async def awork(items: list[int]) -> list[int]:
        return items

    f: Any = batched(work if kind == "def" else awork)
    g: Any = batched(awork, linger=None)  # its items wait for the end of the loop

    async def main(n: int) -> Any:
        kept.append(g(n))
        return await f(n)

    kept: list[Any] = []
    assert asyncio.run(main(-1)) == -1
    gc.collect()
    threads = threading.active_count()
    engines = len(lifecycle._engines)
    for n in range(1000):
        assert asyncio.run(main(n)) == n
    assert threading.active_count() <= threads
    assert len(lifecycle._engines) <= engines + 2
    assert len(f._scope().engines()) == (1 if kind == "def" else 0)
    assert f.stats().succeeded == g.stats().succeeded == 1001
    assert [future.result(0) for future in kept] == list(range(-1, 1000))


# ---- secrecy ----

MARKER = "s3cret"


class Secret:
    """An item, a result or an argument that shows itself to everybody who asks."""

    def __init__(self, number: int = 0) -> None:
        self.text = f"{MARKER}-{number}"

    def __repr__(self) -> str:
        return self.text


def fails(items: list[Secret]) -> list[Any]:
    raise ValueError(items[0])


def exits(items: list[Secret]) -> list[Any]:
    raise SystemExit(items[0])


def stops(items: list[Secret]) -> list[Any]:
    raise StopIteration(items[0])


def too_few(items: list[Secret]) -> list[Any]:
    return items[1:]


def wrong(items: list[Secret]) -> Any:
    return items[0]


def missing(items: list[Secret]) -> dict[Any, Any]:
    return {item: item for item in items[1:]}


def elements(items: list[Secret]) -> list[Any]:
    return [ValueError(item) for item in items]


def yields_too_many(items: list[Secret]) -> Iterator[Any]:
    yield from [*items, "more"]


def yields_too_few(items: list[Secret]) -> Iterator[Any]:
    yield items[0]


def yields_then_fails(items: list[Secret]) -> Iterator[Any]:
    yield items[0]
    raise ValueError(items[0])


def fails_after_the_last(items: list[Secret]) -> Iterator[Any]:
    yield from items
    raise ValueError(items[0])


def fails_when_closed(items: list[Secret]) -> Iterator[Any]:
    try:
        yield from [*items, "more"]
    finally:
        raise ValueError(items[0])


def works(items: list[Secret]) -> list[Any]:
    return items


SCENARIOS = [
    fails,
    exits,
    stops,
    too_few,
    wrong,
    missing,
    elements,
    yields_too_many,
    yields_too_few,
    yields_then_fails,
    fails_after_the_last,
    fails_when_closed,
    works,
]


def as_async(function: Callable[[list[Any]], Any]) -> Any:
    """The same scenario as `async def`."""
    if function.__name__.startswith(("yields", "fails_")):

        @functools.wraps(function)
        async def agenerator(items: list[Any]) -> Any:
            for value in function(items):
                yield value

        return agenerator

    @functools.wraps(function)
    async def acoroutine(items: list[Any]) -> Any:
        return function(items)

    return acoroutine


def handler_fails(failure: Any) -> Any:
    raise ValueError(failure.items[0])


def handler_is_wrong(failure: Any) -> Any:
    return failure.items[0]


@pytest.mark.parametrize("is_async", [False, True], ids=["def", "async def"])
@pytest.mark.parametrize("handler", [None, handler_fails, handler_is_wrong])
@pytest.mark.parametrize("function", SCENARIOS)
def test_logs_reprs_and_names_are_silent(
    function: Any, handler: Any, is_async: bool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, "batchify")
    shown: list[str] = []

    def show(*values: Any) -> None:
        shown.extend(repr(value) for value in values)
        shown.extend(str(value) for value in values)
        shown.extend(thread.name for thread in threading.enumerate())

    def callback(future: BatchFuture[Any]) -> None:
        show(future)
        raise ValueError(f"{MARKER} in a callback")

    f: Any = batched(as_async(function) if is_async else function, linger=None, on_error=handler)
    futures = [f(Secret(n)) for n in range(3)]
    for future in futures:
        future.add_done_callback(callback)
    show(f, f.options(timeout=1), f.stats(), *futures)
    f.flush(5)
    late = f(Secret(9))
    late.cancel()
    with pytest.raises(TypeError) as caught:
        f(Secret(10), [Secret(11)])
    show(f, f.stats(), late, caught.value, *futures)
    f.close(5)
    with pytest.raises(RuntimeError) as caught:
        f(Secret(12))
    show(caught.value)
    # What the library says itself; what the function raised is the function's.
    errors = [error for future in futures if (error := future.exception(0)) is not None]
    for error in errors:
        if type(error).__module__.startswith("batchify"):
            show(error)
        shown.extend(getattr(error, "__notes__", ()))

    assert not [text for text in shown if MARKER in text]
    for record in caplog.records:
        assert record.name == "batchify"
        assert MARKER not in record.getMessage()
        assert record.exc_info is None
        assert record.stack_info is None
        assert MARKER not in repr(vars(record))
    assert sum("callback" in record.getMessage() for record in caplog.records) == 3


def test_callbacks_on_a_loop_are_silent_too(caplog: pytest.LogCaptureFixture) -> None:
    told: list[dict[str, Any]] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        loop.set_debug(True)
        loop.set_exception_handler(lambda _, context: told.append(context))
        f: Any = batched(as_async(works))
        future = f(Secret(1))
        future.add_done_callback(fail)
        await future
        await asyncio.sleep(0)
        assert MARKER not in repr(future)

    def fail(_: object) -> None:
        raise ValueError("in a callback")

    asyncio.run(main())
    assert [MARKER in repr(context) for context in told] == [False]
    assert not [record for record in caplog.records if MARKER in record.getMessage()]


# ---- exceptions ----


def walk(error: BaseException) -> Iterator[BaseException]:
    """`error` and everything that hangs on it."""
    seen: set[int] = set()
    todo: list[BaseException | None] = [error]
    while todo:
        link = todo.pop()
        if link is None or id(link) in seen:
            continue
        seen.add(id(link))
        yield link
        todo += [link.__cause__, link.__context__]
        if isinstance(link, BaseExceptionGroup):
            todo += link.exceptions


def held_by(error: BaseException) -> str:
    """All that the frames of an exception hold, as text."""
    held = []
    for link in walk(error):
        for frame, _ in traceback.walk_tb(link.__traceback__):
            held.append(repr(frame.f_locals))
    return " ".join(held)


def deep(items: list[Secret], depth: int = 3) -> None:
    mine = list(items)
    if depth:
        deep(mine, depth - 1)
    raise ValueError("deep")


def raises_deep(items: list[Secret]) -> list[Any]:
    copied = [item.text for item in items]
    deep(items)
    return copied


def raises_with_a_cause(items: list[Secret]) -> list[Any]:
    try:
        deep(items)
    except ValueError as error:
        raise KeyError("cause") from error
    return items


def raises_with_a_context(items: list[Secret]) -> list[Any]:
    try:
        deep(items)
    except ValueError:
        raise KeyError("context")
    return items


def raises_a_group(items: list[Secret]) -> list[Any]:
    errors = []
    for _ in items:
        try:
            deep(items)
        except ValueError as error:
            errors.append(error)
    raise ExceptionGroup("many", errors)


def gives_elements(items: list[Secret]) -> list[Any]:
    errors: list[Any] = []
    for _ in items:
        try:
            raises_with_a_cause(items)
        except KeyError as error:
            errors.append(error)
    return errors


def gives_one_element_to_all(items: list[Secret]) -> list[Any]:
    return [gives_elements(items)[0]] * len(items)


def yields_elements(items: list[Secret]) -> Iterator[Any]:
    mine = list(items)
    for _ in mine:
        try:
            deep(mine)
        except ValueError as error:
            yield error


def yields_and_raises(items: list[Secret]) -> Iterator[Any]:
    mine = list(items)
    yield 1
    deep(mine)


RAISING = [
    raises_deep,
    raises_with_a_cause,
    raises_with_a_context,
    raises_a_group,
    gives_elements,
    gives_one_element_to_all,
    yields_elements,
    yields_and_raises,
    exits,
    stops,
    too_few,
    missing,
]


@pytest.mark.parametrize("is_async", [False, True], ids=["def", "async def"])
@pytest.mark.parametrize("handler", [None, handler_fails])
@pytest.mark.parametrize("function", RAISING)
def test_an_exception_holds_no_other_callers_items(
    function: Any, handler: Any, is_async: bool
) -> None:
    f: Any = batched(as_async(function) if is_async else function, linger=None, on_error=handler)
    futures = [f(Secret(n)) for n in range(3)]
    f.flush(5)
    errors = [future.exception(0) for future in futures]
    assert any(errors)
    assert len({id(error) for error in errors if error is not None}) == 3 - errors.count(None)
    for error in errors:
        if error is None:
            continue
        assert MARKER not in held_by(error)
        for link in walk(error):
            for frame, _ in traceback.walk_tb(link.__traceback__):
                assert "batchify" not in frame.f_globals["__name__"].split(".")


def test_the_traceback_shows_where_the_function_raised() -> None:
    f = batched(raises_deep, linger=None)
    futures = [f(Secret(n)) for n in range(3)]
    f.flush(5)
    for future in futures:
        error = future.exception(0)
        names = [frame.name for frame in traceback.extract_tb(error.__traceback__)]
        assert names == ["raises_deep", "deep", "deep", "deep", "deep"]


@pytest.mark.parametrize("kind", ["def", "async def"])
def test_the_traceback_does_not_grow(kind: str) -> None:
    """Neither with the callers of a batch, nor with the calls of `result`, nor with batches."""
    always = ValueError("one object, raised by every batch")

    def work(items: list[int]) -> list[int]:
        raise always

    async def awork(items: list[int]) -> list[int]:
        raise always

    f: Any = batched(work if kind == "def" else awork, size=50)

    def depth_of(future: BatchFuture[Any]) -> int:
        try:
            future.result(5)
        except ValueError as error:
            return len(list(traceback.walk_tb(error.__traceback__)))
        raise AssertionError

    futures = [f(n) for n in range(200)]
    depths = {depth_of(future) for future in futures for _ in range(20)}
    assert len(depths) == 1
    assert depths.pop() < 6
    assert len(list(traceback.walk_tb(always.__traceback__))) < 3
    assert all(future.exception(0).__context__ is None for future in futures)


def test_the_traceback_does_not_grow_with_awaits() -> None:
    async def main() -> None:
        @batched
        async def f(items: list[int]) -> list[int]:
            raise ValueError

        future = f(1)
        depths = set()
        for _ in range(20):
            try:
                await future
            except ValueError as error:
                depths.add(len(list(traceback.walk_tb(error.__traceback__))))
        assert len(depths) == 1

    asyncio.run(main())


# ---- context ----


def test_a_batch_runs_in_a_context_of_nobody() -> None:
    var: contextvars.ContextVar[str] = contextvars.ContextVar("var", default="nobody")
    seen: list[Any] = []

    def look() -> None:
        seen.append((var.get(), len(contextvars.copy_context())))

    def work(items: list[Any]) -> Any:
        look()
        var.set("the batch before")
        yield from items
        look()
        raise ValueError

    def handler(failure: Any) -> None:
        look()

    f: Any = batched(work, on_error=handler, size=1)
    var.set("alice")
    assert f(1).result(5) == 1
    context = contextvars.Context()
    context.run(var.set, "bob")
    assert context.run(lambda: f(2).result(5)) == 2
    assert in_thread(lambda: f(3).result(5)).result() == 3
    f.flush(5)
    mine = ("the batch before", 1)  # set by this batch itself
    assert seen == [("nobody", 0), mine, ("nobody", 0), mine, ("nobody", 0), mine]
    assert var.get() == "alice"
