"""batchify changes no exception and no frame that the user's code still holds (contract 4).

Every test runs with each kind of batch function: in worker threads, on a loop, on an executor.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import FrameType, TracebackType
from typing import Any

import pytest

from batchify import Retry, batched

CALLERS = 3
PATIENCE = 60.0  # seconds; only a hang takes that long

Function = Callable[[list[Any]], Any]


def in_threads(function: Function, **options: Any) -> list[Any]:
    return from_threads(batched(function, size=CALLERS, linger=None, **options))


def in_a_generator(function: Function, **options: Any) -> list[Any]:
    def generator(items: list[Any]) -> Iterator[Any]:
        yield from function(items)

    return from_threads(batched(generator, size=CALLERS, linger=None, **options))


def on_an_executor(function: Function, **options: Any) -> list[Any]:
    with ThreadPoolExecutor(1) as executor:
        f = batched(function, size=CALLERS, linger=None, executor=executor, **options)
        return from_threads(f)


def on_a_loop(function: Function, **options: Any) -> list[Any]:
    async def afunction(items: list[Any]) -> Any:
        await asyncio.sleep(0)
        return function(items)

    f = batched(afunction, size=CALLERS, linger=None, **options)

    async def main() -> list[Any]:
        return await asyncio.gather(*map(f, range(CALLERS)), return_exceptions=True)

    return asyncio.run(main())


def from_threads(f: Any) -> list[Any]:
    futures = [f(n) for n in range(CALLERS)]
    f.flush(PATIENCE)
    errors = [future.exception(PATIENCE) for future in futures]
    for future in futures:  # also raised, as most callers do
        with pytest.raises(Exception):
            future.result(PATIENCE)
    f.close(PATIENCE)
    return errors


DRIVERS = [in_threads, in_a_generator, on_an_executor, on_a_loop]
each_driver = pytest.mark.parametrize("drive", DRIVERS)


def raised(error: Exception) -> Exception:
    """Return `error` as user code stores it: with a traceback, a cause and a context."""
    try:
        try:
            raise LookupError("inner")
        except LookupError as inner:
            raise error from inner
    except Exception as stored:
        return stored


class Seen:
    """What can be seen of an exception and of everything that it refers to."""

    def __init__(self, error: BaseException | None) -> None:
        self.shown: list[Any] = []
        while error is not None:
            self.shown.append([
                id(error), entries(error.__traceback__), id(error.__cause__),
                id(error.__context__), error.args, list(getattr(error, "__notes__", ())),
            ])  # fmt: skip
            error = error.__cause__ or error.__context__


def entries(first: TracebackType | None) -> list[tuple[int, int]]:
    found = []
    while first is not None:
        found.append((id(first.tb_frame), first.tb_lineno))
        first = first.tb_next
    return found


# ---- generators and coroutines that are in use ----


class Rows:
    """A generator that catches an error, keeps it, and continues."""

    def __init__(self) -> None:
        self.error: Exception | None = None
        self.rows = self._rows()

    def _rows(self) -> Iterator[int]:
        for n in range(4):
            try:
                yield n
            except ValueError as error:
                self.error = error
                yield -1


def told_rows() -> Rows:
    rows = Rows()
    assert next(rows.rows) == 0
    assert rows.rows.throw(ValueError("stored")) == -1  # type: ignore[attr-defined]
    return rows


def failing_with(error: Exception | None, how: str) -> Function:
    def function(items: list[Any]) -> Any:
        assert error is not None
        if how == "raised":
            raise error
        if how == "the cause":
            raise KeyError("outer") from error
        if how == "a member":
            raise ExceptionGroup("outer", [error])
        if how == "an attribute":
            outer = KeyError("outer")
            outer.orig = error  # type: ignore[attr-defined]
            raise outer
        if how == "a retry":
            return [Retry(attempts=1, cause=error)] * len(items)
        return [error] * len(items)

    return function


each_way = pytest.mark.parametrize(
    "how", ["raised", "the cause", "a member", "an attribute", "a retry", "elements"]
)


@each_driver
@each_way
def test_a_suspended_generator_continues(drive: Any, how: str) -> None:
    rows = told_rows()
    errors = drive(failing_with(rows.error, how))
    assert len(errors) == CALLERS
    assert list(rows.rows) == [1, 2, 3]


@each_way
def test_a_reader_task_continues(how: str) -> None:
    """It stores its error and keeps running, as readers of connections do."""

    class Connection:
        def __init__(self) -> None:
            self.error: Exception | None = None
            self.has_failed = asyncio.Event()
            self.may_go_on = asyncio.Event()
            self.read = 0

        async def reader(self) -> None:
            while self.read < 3:
                try:
                    await self.receive()
                except OSError as error:
                    self.error = error
                    self.has_failed.set()
                    await self.may_go_on.wait()

        async def receive(self) -> None:
            self.read += 1
            if self.read == 1:
                raise OSError("connection lost")

    async def main() -> None:
        connection = Connection()
        task = asyncio.create_task(connection.reader())
        await connection.has_failed.wait()

        @batched(size=CALLERS, linger=None)
        async def f(items: list[int]) -> Any:
            return failing_with(connection.error, how)(items)

        errors = await asyncio.gather(*map(f, range(CALLERS)), return_exceptions=True)
        assert all(isinstance(error, Exception) for error in errors)
        connection.may_go_on.set()
        await task
        assert connection.read == 3

    asyncio.run(main())


@each_driver
def test_a_coroutine_that_waits_inside_the_function_continues(drive: Any) -> None:
    """The function steps a coroutine by hand, and fails with the error that it caught."""

    class Once:
        def __await__(self) -> Iterator[None]:
            yield

    caught: list[Exception] = []

    async def steps() -> str:
        try:
            raise ValueError("caught")
        except ValueError as error:
            caught.append(error)
        await Once()
        return "whole"

    coroutine = steps()

    def function(items: list[Any]) -> Any:
        coroutine.send(None)
        raise caught[0]

    drive(function)
    with pytest.raises(StopIteration, match="whole"):
        coroutine.send(None)


# ---- exceptions and frames that the user holds ----


@each_driver
@each_way
def test_a_stored_exception_is_not_changed(drive: Any, how: str) -> None:
    stored = raised(ValueError("stored"))
    stored.add_note("by the user")
    before = Seen(stored).shown
    drive(failing_with(stored, how))
    after = Seen(stored).shown
    if how == "raised":  # raising it has put the function's own frames in front
        (_, new, *_), (_, old, *_) = after[0], before[0]
        assert new[-len(old) :] == old
        after[0][1] = old
    assert after == before


@each_driver
def test_a_stored_exception_keeps_its_lines(drive: Any) -> None:
    stored = raised(ValueError("stored"))
    lines = traceback.format_exception(stored)
    drive(failing_with(stored, "elements"))
    assert traceback.format_exception(stored) == lines


@each_driver
def test_a_frame_that_the_user_holds_keeps_its_locals(drive: Any) -> None:
    held: list[FrameType] = []

    def function(items: list[Any]) -> Any:
        local = "of the user"
        held.append(sys._getframe())
        raise ValueError(local)

    drive(function)
    assert held[0].f_locals["local"] == "of the user"


class NoHash(type):
    __hash__ = None  # type: ignore[assignment]


class Uncopyable(Exception, metaclass=NoHash):
    def __reduce_ex__(self, protocol: Any) -> Any:
        raise TypeError("made by its library only")


@each_driver
@pytest.mark.parametrize("kind", [ValueError, Uncopyable])
def test_one_object_raised_by_every_batch_does_not_grow(drive: Any, kind: Any) -> None:
    constant = kind("a constant of the module")
    sizes = []
    for _ in range(5):
        errors = drive(failing_with(constant, "raised"))
        sizes.append((len(entries(constant.__traceback__)), len(entries(errors[0].__traceback__))))
    assert sizes[1:] == [sizes[1]] * 4


# ---- what callers see ----


def fails_inside(items: list[Any]) -> Any:
    secret = {"of all callers": items}
    return helper(secret)["no such key"]


def helper(everything: Any) -> Any:
    return everything["no"] + everything["such"]


def fails_over_lines(items: list[Any]) -> Any:
    return [
        "a line that is so long that its columns need more than one byte", {"ä": 1}["no such key"],
    ]  # fmt: skip


def fails_in_a_call_over_lines(items: list[Any]) -> Any:
    return helper(
        everything={
            "of all callers": items,
        },
    )


@each_driver
@pytest.mark.parametrize("function", [fails_inside, fails_over_lines, fails_in_a_call_over_lines])
def test_the_traceback_of_callers_prints_as_the_original(drive: Any, function: Any) -> None:
    try:
        function([])
    except KeyError as error:
        expected = traceback.format_exception(error)[2:]  # without this frame
    for error in drive(function):
        own = from_frame_of(error, function.__name__)
        assert traceback.format_exception(error.with_traceback(own))[1:] == expected


def from_frame_of(error: BaseException, name: str) -> TracebackType | None:
    """Return the traceback from the function of that name on."""
    entry = error.__traceback__
    while entry is not None and entry.tb_frame.f_code.co_name != name:
        entry = entry.tb_next
    return entry


@each_driver
@each_way
def test_the_traceback_of_callers_leads_to_no_frame_of_the_function(drive: Any, how: str) -> None:
    stored = raised(ValueError("stored"))
    for error in drive(failing_with(stored, how)):
        link, names = error, []
        while link is not None:
            entry = link.__traceback__
            while entry is not None:
                names.append(entry.tb_frame.f_code.co_name)
                if names[-1] in ("function", "raised"):
                    assert entry.tb_frame.f_locals == {}
                    assert entry.tb_frame.f_back is None
                    assert entry.tb_frame.f_globals is globals()
                entry = entry.tb_next
            link = link.__cause__ or link.__context__
        assert "raised" in names or how in ("a member", "an attribute")


# A debugger, a profiler or coverage sees the frames that stand for those of the function, too.
TRACED = """
import sys, threading, traceback
from batchify import batched


def find(rows, key):
    found = [row for row in rows if row]
    for row in found:
        found = [row, *found]
    return {"one": 1}[key] + len(found)


@batched
def f(items):
    first, second = len(items), 2
    rows = [first, second, items]
    return find(rows, "two")


@batched
def g(items):
    raise ValueError


def trace(frame, event, arg):
    frame.f_trace_opcodes = True
    return trace


threading.settrace(trace)
sys.settrace(trace)
for _ in range(30):
    for function in (f, g):
        for future in [function(n) for n in range(5)]:
            text = "".join(traceback.format_exception(future.exception()))
sys.settrace(None)
print(text.splitlines()[-1])
"""


def test_errors_under_a_trace_function() -> None:
    """CPython 3.11 wrote beyond the line table of such a frame, and crashed."""
    done = subprocess.run(
        [sys.executable, "-X", "faulthandler", "-c", TRACED],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, "ValueError\n"), done.stderr[-3000:]
