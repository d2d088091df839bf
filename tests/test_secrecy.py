"""No caller sees another caller's items: contract 4 and 6.

Every value that a caller passes or gets contains a marker of that caller. The tests search
everything that reaches a caller, a log, a repr or a name for the markers of other callers.
"""

from __future__ import annotations

import ast
import asyncio
import contextlib
import contextvars
import gc
import logging
import re
import subprocess
import sys
import threading
import types
import warnings
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import batchify
from batchify import QueueFull, Retry, batched, observe
from tests.manual import LIMIT, Gated, batched_with, in_thread, until

PACKAGE = Path(batchify.__file__).parent
MARK = re.compile(r"secret-\w+-\d+")


class Marked:
    """A value of one caller, which shows its marker wherever it is printed."""

    def __init__(self, what: str, n: int) -> None:
        self.n = n
        self.mark = f"secret-{what}-{n}"

    def __repr__(self) -> str:
        return self.mark


class Oops(Exception):
    pass


# ---- the search ----


def marks_in(*things: Any) -> set[str]:
    """Return the markers that can be reached from `things`."""
    found: set[str] = set()
    seen: dict[int, Any] = {}
    todo = list(things)
    while todo:
        thing = todo.pop()
        if id(thing) in seen or isinstance(thing, (type, types.ModuleType, int, float)):
            continue
        seen[id(thing)] = thing  # kept, so that no id comes twice
        found.update(MARK.findall(thing if isinstance(thing, str) else repr(thing)))
        todo += led_to(thing)
    return found


def led_to(thing: Any) -> Iterator[Any]:
    """Yield the objects that can be reached from `thing`."""
    if isinstance(thing, dict):
        yield from list(thing.items())
    elif isinstance(thing, (list, tuple, set, frozenset)) or type(thing).__name__ == "deque":
        yield from list(thing)
    elif isinstance(thing, types.TracebackType):
        yield from frames_of(thing)
        yield thing.tb_next
    elif isinstance(thing, types.FrameType):
        yield locals_of(thing)
    elif isinstance(thing, types.FunctionType):
        for cell in thing.__closure__ or ():
            try:
                yield cell.cell_contents
            except ValueError:  # it is empty
                continue
        yield thing.__defaults__
    elif isinstance(thing, types.MethodType):
        yield thing.__self__
    elif isinstance(thing, (types.GeneratorType, types.CoroutineType, types.AsyncGeneratorType)):
        for name in ("gi_frame", "cr_frame", "ag_frame"):
            yield getattr(thing, name, None)
    else:
        if isinstance(thing, BaseException):
            args = BaseException.args.__get__(thing)  # type: ignore[attr-defined]
            yield from (str(thing), args, thing.__cause__, thing.__context__)
            yield from (thing.__traceback__, getattr(thing, "exceptions", ()))
        yield getattr(thing, "__dict__", None)
        for base in type(thing).__mro__:
            for name, member in vars(base).items():
                if isinstance(member, types.MemberDescriptorType) and base.__module__ != "builtins":
                    yield getattr(thing, name, None)


def locals_of(frame: types.FrameType) -> dict[str, Any]:
    """Return the locals of a frame that may be running: since 3.13 a name may vanish meanwhile."""
    while True:
        with contextlib.suppress(KeyError):
            return dict(frame.f_locals)


def frames_of(traceback: types.TracebackType) -> Iterator[types.FrameType]:
    """Yield a frame, and the engine's frames below it.

    The frames below those belong to the event loop and the program.
    """
    frame: types.FrameType | None = traceback.tb_frame
    if traceback.tb_frame.f_code not in (call.__code__, acall.__code__):  # the caller's own
        yield traceback.tb_frame
    while frame is not None:
        if frame.f_code.co_filename.startswith(str(PACKAGE)):
            yield frame
        frame = frame.f_back


def raised(error: Exception, local: Any = None) -> Exception:
    try:
        raise error
    except Exception as raised:
        return raised


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


class Watch:
    """Everything that is public while a test runs."""

    def __init__(self) -> None:
        self.seen: list[Any] = []
        self.texts: set[str] = set()
        self.lock = threading.Lock()

    def look(self, *things: Any) -> None:
        texts = {text for thing in things for text in (repr(thing), str(thing), f"{thing}")}
        texts.update(thread.name for thread in threading.enumerate())
        with self.lock:
            self.texts |= texts

    def event(self, event: batchify.BatchEvent) -> None:
        self.look(event)


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


class Got:
    """What the callers got: the values and the outcome of each."""

    def __init__(self, watch: Watch) -> None:
        self.watch = watch
        self.errors: list[tuple[int, BaseException]] = []

    def note(self, n: int, error: BaseException) -> None:
        """Search at once, as an error tracker does, and keep the error for later."""
        self.errors.append((n, error))
        shown: list[str] = [str(error), repr(error), *getattr(error, "__notes__", ())]
        traceback = error.__traceback__
        while traceback is not None:
            for frame in frames_of(traceback):
                shown += [repr(value) for value in locals_of(frame).values()]
            traceback = traceback.tb_next
        own = marks_of(n)
        assert marks_in(*shown) <= own, (own, marks_in(*shown))

    def check(self) -> None:
        """Nothing leads to the markers of others, when the batches are over."""
        for n, error in self.errors:
            # Until then, because the task of a batch on a loop drops it one step after its end.
            until(lambda n=n, error=error: marks_in(error) <= marks_of(n))


def marks_of(n: int) -> set[str]:
    """Return what caller n passed and got; the extra argument belongs to its whole batch."""
    return {f"secret-item-{n}", f"secret-value-{n}", f"secret-extra-{n // 4}"}


def call(f: Any, n: int, extra: Any, got: Got) -> None:
    """Run one caller, whose frame holds nothing of the others."""
    future = f(Marked("item", n), extra)
    got.watch.look(future)
    try:
        future.result(LIMIT)
    except Exception as error:
        got.note(n, error)
    got.watch.look(future)


async def acall(f: Any, n: int, extra: Any, got: Got) -> None:
    future = f(Marked("item", n), extra)
    got.watch.look(future)
    try:
        await future
    except Exception as error:
        got.note(n, error)
    got.watch.look(future)


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


# ---- contexts ----

who: contextvars.ContextVar[Any] = contextvars.ContextVar("who", default="nobody")


class Passed:
    """A value of a context that can be referenced weakly."""


def test_the_function_runs_in_an_empty_context() -> None:
    seen: dict[str, set[Any]] = {}
    tried: set[int] = set()

    def note(where: str) -> None:
        seen.setdefault(where, set()).add(who.get())
        who.set("the batch")  # not seen by any later one

    def work(items: list[int]) -> list[Any]:
        note("def")
        return again(items)

    async def awork(items: list[int]) -> list[Any]:
        note("async def")
        await asyncio.sleep(0)
        return again(items)

    def again(items: list[int]) -> list[Any]:
        found = [Retry() if n not in tried and n % 2 else n for n in items]
        tried.update(items)
        if 3 in items and len(items) > 1:
            raise Oops
        return found

    def gen(items: list[int]) -> Iterator[int]:
        note("generator")
        yield from items
        assert who.get() == "the batch"

    async def agen(items: list[int]) -> AsyncIterator[int]:
        note("async generator")
        for n in items:
            yield n

    def handle(failure: Any) -> Any:
        note("on_error")

    functions = [
        batched(work, size=4, isolate=True, on_error=handle),
        batched(awork, size=4, isolate=True, on_error=handle),
        batched(gen),
        batched(agen),
    ]
    end = observe(lambda event: note("observer"))
    called: list[Any] = []

    def caller(f: Any, n: int) -> None:
        who.set(n)
        future = f(n)
        future.add_done_callback(lambda _: called.append((who.get(), n)))
        future.exception(LIMIT)
        assert who.get() == n

    async def acaller(f: Any, n: int) -> None:
        who.set(n)
        future = f(n)
        future.add_done_callback(lambda _: called.append((who.get(), n)))
        await asyncio.wait([future])
        assert who.get() == n

    async def main(f: Any) -> None:
        who.set("the loop")
        await asyncio.gather(*(acaller(f, n) for n in range(8)))

    for f in functions:
        tried.clear()
        for one in [in_thread(contextvars.Context().run, caller, f, n) for n in range(8)]:
            one.result()
        contextvars.Context().run(asyncio.run, main(f))
        f.close()

    def fail(items: list[int]) -> None:
        raise Oops

    handled = batched(fail, size=2, linger=None, on_error=handle)
    for future in [handled(n) for n in range(2)]:
        assert isinstance(future.exception(LIMIT), Oops)
    handled.close()
    end()
    until(lambda: len(called) == 16 * len(functions))
    assert all(context == n for context, n in called)
    # Batches set it too; the handler and the observers of a batch may see its value.
    assert seen.pop("on_error") <= {"nobody", "the batch"}
    assert seen.pop("observer") <= {"nobody", "the batch"}
    expected = {"def", "async def", "generator", "async generator"}
    assert seen == {where: {"nobody"} for where in expected} or {
        where: contexts - {"nobody", "the batch"} for where, contexts in seen.items()
    } == {where: set() for where in expected}


@pytest.mark.parametrize("is_async", [False, True], ids=["def", "async def"])
def test_an_idle_engine_keeps_no_context_of_a_caller(is_async: bool) -> None:
    async def awork(items: list[Any]) -> list[Any]:
        return items

    f: Any = batched(awork if is_async else lambda items: items, linger=0.001)

    def kept(call: Callable[[], Any]) -> Any:
        import weakref

        value = Passed()
        context = contextvars.Context()
        context.run(who.set, value)
        context.run(call)
        return weakref.ref(value)

    async def one() -> None:
        assert await f(1) == 1
        assert await f.options(deadline=60)(1) == 1

    def start(loop: asyncio.AbstractEventLoop) -> None:
        loop.run_until_complete(loop.create_task(one()))

    gc.collect()
    gc.disable()
    try:
        value = kept(lambda: f(1).result(LIMIT))
        until(lambda: value() is None)
        with asyncio.Runner() as runner:
            loop = runner.get_loop()
            value = kept(lambda: start(loop))
            until(lambda: runner.run(asyncio.sleep(0)) or value() is None)
    finally:
        gc.enable()


@pytest.mark.skipif(sys.version_info < (3, 14), reason="thread_inherit_context came with 3.14")
def test_with_threads_that_inherit_their_context() -> None:
    tests = ["the_function_runs_in_nobodys_context", "an_idle_engine_keeps_no_context_of_a_caller"]
    command = [sys.executable, "-X", "thread_inherit_context=1", "-m", "pytest", "-q"]
    ran = subprocess.run(
        [*command, "-n", "0", "-p", "no:cacheprovider", __file__, "-k", " or ".join(tests)],
        capture_output=True, text=True, timeout=LIMIT, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout + ran.stderr


# ---- items that bite ----


def bite(*_: Any) -> Any:
    raise RuntimeError("hands off")


class Hostile:
    """Raises whatever is done to it."""

    __eq__ = __ne__ = __hash__ = __bool__ = __len__ = __iter__ = bite  # type: ignore[assignment]
    __repr__ = __str__ = __format__ = __del__ = __call__ = bite  # type: ignore[assignment]
    __lt__ = __contains__ = __await__ = __getattr__ = __reduce_ex__ = bite  # type: ignore[assignment]
    __class__ = property(bite)  # type: ignore[assignment]


@pytest.mark.parametrize("is_async", [False, True], ids=["def", "async def"])
def test_items_and_results_may_raise_whatever_is_done_to_them(
    is_async: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "unraisablehook", lambda _: None)  # each `__del__` raises

    def work(items: list[Any]) -> list[Any]:
        if len(items) == 3:
            raise Oops
        return [Oops() if n == 1 else item for n, item in enumerate(items)]

    async def awork(items: list[Any]) -> list[Any]:
        return work(items)

    def gen(items: list[Any]) -> Iterator[Any]:
        yield from work(items)

    options: list[dict[str, Any]] = [
        {}, {"isolate": True}, {"on_error": lambda failure: None}, {"key": lambda item: 1},
        {"weight": lambda item: 1, "max_weight": 2}, {"dedupe": id},
    ]  # fmt: skip
    functions = [batched(awork if is_async else work, size=4, **given) for given in options]
    functions += [] if is_async else [batched(gen, size=4)]
    for f in functions:
        items = [Hostile() for _ in range(16)]
        futures = [f(item) for item in items]
        futures += [f.options(priority=2, deadline=60)(item) for item in items]
        futures[5].cancel()
        ended = [future.exception(LIMIT) for future in futures if not future.cancelled()]
        assert all(error is None or type(error) is Oops for error in ended)
        given = [future.result() for future in futures if future.done() and not failed(future)]
        assert all(type(result) is Hostile for result in given)
        assert len(list(f.map(items, return_exceptions=True))) == 16

        async def main(f: Any = f, items: Any = items) -> None:
            await asyncio.gather(*map(f, items), return_exceptions=True)
            _ = [result async for result in f.amap(items, return_exceptions=True, ordered=False)]

        asyncio.run(main())
        f.close()
        assert f.stats().failed + f.stats().succeeded + f.stats().cancelled == f.stats().accepted


def failed(future: Any) -> bool:
    return future.cancelled() or future.exception() is not None


# ---- the code itself ----

FORBIDDEN_MODULES = {"pickle", "marshal", "shelve", "ctypes", "subprocess", "dill", "cloudpickle"}
FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__", "getenv", "system", "popen"}


def offences(source: str) -> list[str]:
    """Return forbidden code of this project, as `line: what`."""
    found = []
    for node in ast.walk(ast.parse(source)):
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name.split(".")[0] for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [(node.module or "").split(".")[0]]
            names += [alias.name for alias in node.names if alias.name in ("environ", "getenv")]
        elif isinstance(node, ast.Call):
            function = node.func
            name = getattr(function, "id", None) or getattr(function, "attr", "")
            is_re = isinstance(function, ast.Attribute) and name == "compile"
            names = [name] if name in FORBIDDEN_CALLS and not is_re else []
        elif isinstance(node, ast.Attribute) and node.attr in ("environ", "environb", "getenv"):
            names = [node.attr]
        bad = FORBIDDEN_MODULES | FORBIDDEN_CALLS | {"environ", "environb"}
        found += [f"{getattr(node, 'lineno', 0)}: {name}" for name in names if name in bad]
    return found


def test_no_pickle_no_eval_and_nothing_that_the_environment_decides() -> None:
    found = {
        str(path.relative_to(PACKAGE)): offences(path.read_text("utf-8"))
        for path in sorted(PACKAGE.rglob("*.py"))
    }
    # `executor=` asks for it (and nothing else loads that module, see test_remote).
    for named in ("remote.py", "codec.py"):  # `executor=`, and `serializer="pickle"`
        assert [what.split(": ")[1] for what in found.pop(named)] == ["pickle"]
    assert {name: what for name, what in found.items() if what} == {}
    bad = "import pickle\nfrom os import environ\neval('1')\nos.environ['X']\nos.getenv('X')\n"
    assert [offence.split(": ")[1] for offence in offences(bad)][:3] == [
        "pickle",
        "environ",
        "eval",
    ]
    assert len(offences(bad)) >= 5


def test_the_capacity_is_bounded_by_default() -> None:
    f = batched(lambda items: items)
    assert f.capacity == 10_000
    gated = Gated()
    g = batched_with(batchify.engine.seam.THREADS, gated, size=10_000)
    assert g.capacity == 20_000
    for n in range(20_000):
        g.submit_nowait(n)
    with pytest.raises(QueueFull):
        g.submit_nowait(0)
    gated.open()
    g.close(LIMIT)
