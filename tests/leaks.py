"""Values with the marker of a caller, and a search for the markers in all that reaches a caller."""

from __future__ import annotations

import contextlib
import re
import threading
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import batchify
from tests.manual import LIMIT, until

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
