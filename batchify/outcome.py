"""From what the function gives back, or raises, to one outcome for each item.

Pure: `conduct` is a generator that asks its driver to call things and tells it what to settle.
A driver with threads calls; a driver on an event loop also awaits. Neither knows the rules here.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import (
    AsyncGenerator,
    Callable,
    Generator,
    Iterable,
    Iterator,
    Mapping,
    Sequence,
)
from dataclasses import dataclass
from types import CoroutineType, FrameType, MemberDescriptorType, TracebackType
from typing import Any

from .errors import BadResult, BatchAborted, MissingResult
from .future import Failure
from .options import kind

log = logging.getLogger("batchify")

_GENERATOR_FLAGS = 0x20 | 0x80 | 0x200  # CO_GENERATOR | CO_COROUTINE | CO_ASYNC_GENERATOR
_MISSING = object()


@dataclass(slots=True)
class Ask:
    """The driver is to call this, await the answer where it may, and send back what came."""

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]


@dataclass(slots=True)
class Raised:
    """The answer to an `Ask` that raised. `traceback` starts below the driver's own frame."""

    error: BaseException
    traceback: TracebackType | None


@dataclass(slots=True)
class Give:
    """The driver is to settle the items from `start` on with these values.

    `is_clean`: none of them is a `Failure`.
    """

    start: int
    values: Sequence[Any]
    is_clean: bool
    error: BaseException | None = None


@dataclass(frozen=True, slots=True)
class BatchFailure:
    """A batch that failed, as `on_error` sees it before the callers do.

    Attributes:
        exception: what the function raised, or the `BadResult` or `BatchAborted` it came to.
        items: the items of the batch, a list of your own.
        args, kwargs: the extra arguments of the calls.
        function: the plain function (bound, for methods), to call again with a list.
        batched: the decorated object; None when it is gone.
    """

    exception: Exception
    items: list[Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    function: Callable[..., Any]
    batched: Any


Talk = Generator[Ask | Give, Any, None]


def conduct(
    function: Callable[..., Any],
    items: list[Any],
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    on_error: Callable[[BatchFailure], Any] | None = None,
    batched: Callable[[], Any] | None = None,
    can_await: bool = True,
) -> Talk:
    """Run one batch: call the function, and settle every item exactly once.

    Yields `Ask`, to be answered with what the call gave or with `Raised`, and `Give`.
    """
    count = len(items)
    # The function may change its list at will; this one stays.
    answer = yield Ask(function, (list(items), *args), kwargs)
    settled = 0
    failure: Failure | None = None
    streams = (Generator, AsyncGenerator) if can_await else (Generator,)
    if isinstance(answer, Raised):
        failure = _failure_of(answer)
    elif isinstance(answer, streams):
        settled, failure = yield from _stream(answer, items)
    else:
        given = values_of(answer, items)
        if isinstance(given, Give):
            yield given
            return
        failure = given
    answer = None
    if failure is None:
        return
    rest = items[settled:]
    if on_error is not None:
        failed = BatchFailure(
            exception=failure.error,  # type: ignore[arg-type]
            items=rest,
            args=args,
            kwargs=dict(kwargs),
            function=function,
            batched=None if batched is None else batched(),
        )
        answer = yield Ask(on_error, (failed,), {})
        if isinstance(answer, Raised):
            _note_handler(failure.error, answer.error)
        elif isinstance(answer, streams):
            more, late = yield from _stream(answer, items, settled)
            if late is None:
                return
            settled, failure = more, late
        elif answer is not None:
            given = values_of(answer, items[settled:], settled)
            if isinstance(given, Give):
                yield given
                return
            failure = given
    yield Give(settled, copies(failure, count - settled), False, failure.error)


def values_of(returned: Any, items: list[Any], start: int = 0) -> Give | Failure:
    """The values for `items` out of what the function returned, or why there are none."""
    count = len(items)
    if returned is None:
        return Give(start, [None] * count, True)
    if returned.__class__ is list or _is_sequence(returned):
        try:
            values = returned if returned.__class__ is list else list(returned)
            found = len(values)
        except Exception as error:
            return _bad(f"a sequence of {count} results", f"{kind(returned)} of no length", error)
        if found != count:
            return _bad(f"{count} results, one for each item", f"{found}")
        return _sorted_out(values, start)
    if isinstance(returned, Mapping):
        return _from_mapping(returned, items, start)
    if isinstance(returned, CoroutineType):
        returned.close()
        return _bad(
            "results", "a coroutine (decorate the `async def` itself, not a `def` around it)"
        )
    return _bad(f"a sequence of {count} results, a mapping, a generator or None", kind(returned))


def _is_sequence(value: Any) -> bool:
    """Sized and ordered: also arrays; not text, and not tables that iterate over their keys."""
    if isinstance(value, (str, bytes, bytearray)):
        return False
    if isinstance(value, Sequence):
        return True
    cls = type(value)
    return (
        hasattr(cls, "__len__")
        and hasattr(cls, "__getitem__")
        and hasattr(cls, "__iter__")
        and not hasattr(cls, "keys")
    )


def _sorted_out(values: list[Any], start: int) -> Give:
    """Elements that are exception instances become failures.

    The types tell: a set of them costs 20 ns an item, an isinstance for each 40 ns.
    """
    try:
        types: Iterable[type] = set(map(type, values))
    except Exception:  # a class that cannot be hashed
        types = map(type, values)
    if not any(issubclass(cls, BaseException) for cls in types):
        return Give(start, values, True)
    seen: set[int] = set()
    values = [
        _element(value, seen) if isinstance(value, BaseException) else value for value in values
    ]
    return Give(start, values, False)


def _from_mapping(returned: Mapping[Any, Any], items: list[Any], start: int) -> Give | Failure:
    values: list[Any] = []
    for item in items:
        try:
            value = returned.get(item, _MISSING)
        except Exception as error:
            return _bad("a mapping by item", f"{kind(item)} items that it cannot look up", error)
        if value is _MISSING:
            value = MissingResult("the mapping given back has no value for this item")
        values.append(value)
    return _sorted_out(values, start)


def _stream(
    generator: Any, items: list[Any], start: int = 0
) -> Generator[Ask | Give, Any, tuple[int, Failure | None]]:
    """Settle each item as its result is yielded. Gives how many are, and what the rest get."""
    count = len(items)
    is_async = isinstance(generator, AsyncGenerator)
    step = Ask(generator.__anext__, (), {}) if is_async else Ask(next, (generator,), {})
    end: type[Exception] = StopAsyncIteration if is_async else StopIteration
    seen: set[int] = set()
    at = start
    while True:
        answer = yield step
        if isinstance(answer, Raised):
            if isinstance(answer.error, end):
                if at == count:
                    return at, None
                return at, _bad(
                    f"{count - start} results", f"a generator that ended after {at - start}"
                )
            if at == count:
                log.error("a batch raised %s after its last result", kind(answer.error))
                return at, None
            return at, _failure_of(answer)
        if at == count:
            yield Ask(generator.aclose if is_async else generator.close, (), {})
            log.error("a batch yielded more than the %d results expected", count - start)
            return at, None
        if isinstance(answer, BaseException):
            yield Give(at, [_element(answer, seen)], False)
        else:
            yield Give(at, [answer], True)
        answer = None
        at += 1


# ---- errors ----


def _bad(expected: str, got: str, cause: Exception | None = None) -> Failure:
    error = BadResult(f"expected {expected}, got {got}")
    error.__cause__ = _scrubbed(cause) if cause is not None else None
    return Failure(error)


def _failure_of(raised: Raised) -> Failure:
    """What a batch that raised comes to, with the locals of the function's frames let go.

    They hold every caller's items, which no caller may find in the traceback.
    """
    error = raised.error
    traceback = _clear(raised.traceback, is_finished=True)
    _scrub_chain(error)
    if not _is_presentable(error):
        return Failure(_presentable(error.with_traceback(traceback)))
    # The function may raise the same object in every batch: it keeps no traceback of ours.
    own = _copy(error.with_traceback(None)) or error
    return Failure(own.with_traceback(traceback), traceback)


def _element(error: BaseException, seen: set[int]) -> Failure:
    """An exception given back for one item; the same one given twice becomes two."""
    traceback = _clear(error.__traceback__)
    _scrub_chain(error)
    if not _is_presentable(error):
        return Failure(_presentable(error.with_traceback(traceback)))
    own = _copy(error.with_traceback(None))
    if own is None:
        own = error if id(error) not in seen else _uncopied(error)
        seen.add(id(error))
    return Failure(own.with_traceback(traceback), traceback)


def _is_presentable(error: BaseException) -> bool:
    """Can a future carry it to its caller?"""
    return isinstance(error, Exception) and not isinstance(
        error, (StopIteration, StopAsyncIteration)
    )


def _presentable(error: BaseException) -> Exception:
    """What comes from an exception that no future can carry."""
    told: Exception
    if isinstance(error, Exception):
        told = RuntimeError(f"the batch function raised {kind(error)}")
    else:
        told = BatchAborted(f"the batch was ended by {kind(error)}")
    told.__cause__ = error
    return told


def copies(failure: Failure, count: int) -> list[Failure]:
    """One failure for each of `count` callers, each with an exception object of its own.

    Of an exception that cannot be copied the first caller gets the one there is.
    """
    error, traceback = failure.error, failure.traceback
    errors = [error]
    for _ in range(count - 1):
        errors.append(_copy(error) or _uncopied(error))
    return [
        Failure(own.with_traceback(traceback), traceback if type(own) is type(error) else None)
        for own in errors[:count]
    ]


def _copy(error: BaseException) -> BaseException | None:
    """Another exception of the same type and content, made without running code of its class.

    `copy.copy` calls the class with `args`, which fails for most exceptions that have an
    `__init__` of their own. What the built-in types keep in C is in what they reduce to.
    """
    cls = type(error)
    builtin = next(base for base in cls.__mro__ if base.__module__ == "builtins")
    try:
        reduced: Any = builtin.__reduce__(error)  # type: ignore[call-arg]
        new: BaseException = builtin.__new__(cls, *reduced[1])
        builtin.__init__(new, *reduced[1])  # type: ignore[misc]
        if len(reduced) > 2:
            for name, value in reduced[2].items():
                if name not in error.__dict__:  # what the built-in type keeps in C
                    BaseException.__setattr__(new, name, value)
        new.__dict__.update(error.__dict__)
        for name, value in _content(error):
            BaseException.__setattr__(new, name, value)
        for member in _slots_of(cls):
            with contextlib.suppress(AttributeError):  # not set
                member.__set__(new, member.__get__(error, cls))
    except Exception:
        return None
    return new


def _content(error: BaseException) -> Iterator[tuple[str, Any]]:
    """What every exception holds, but the traceback."""
    yield "args", error.args
    if "__notes__" in error.__dict__:
        yield "__notes__", list(error.__notes__)
    yield "__cause__", error.__cause__
    yield "__context__", error.__context__
    yield "__suppress_context__", error.__suppress_context__


def _slots_of(cls: type) -> Iterator[MemberDescriptorType]:
    """The slots of the classes that are not built in, also private ones."""
    for base in cls.__mro__:
        if base.__module__ != "builtins":
            for member in base.__dict__.values():
                if isinstance(member, MemberDescriptorType):
                    yield member


def _uncopied(error: BaseException) -> BaseException:
    told = BatchAborted(f"the batch raised {kind(error)}, which cannot be copied")
    told.__cause__ = error
    return told


def _note_handler(error: BaseException, handler_error: BaseException) -> None:
    with contextlib.suppress(Exception):  # an exception may refuse to be changed
        error.add_note(f"on_error raised {kind(handler_error)} while it handled this")
    log.error("on_error raised %s", kind(handler_error))


def _scrubbed(error: BaseException) -> Any:
    """`error` without frames that hold other callers' items, itself and its chain."""
    error.with_traceback(_clear(error.__traceback__))
    _scrub_chain(error)
    return error


def _scrub_chain(error: BaseException) -> None:
    seen = {id(error)}
    todo = list(_linked(error))
    while todo:
        link = todo.pop()
        if id(link) in seen:
            continue
        seen.add(id(link))
        link.with_traceback(_clear(link.__traceback__))
        todo += _linked(link)


def _linked(error: BaseException) -> Iterable[BaseException]:
    links = [error.__cause__, error.__context__]
    if isinstance(error, BaseExceptionGroup):
        links += error.exceptions
    return (link for link in links if link is not None)


def _clear(traceback: TracebackType | None, is_finished: bool = False) -> TracebackType | None:
    """Clear the locals of the frames; leave out those that still run.

    Args:
        is_finished: the exception left all of these frames. Else a frame of a generator may be
            suspended only, and clearing it would end the generator: it is left out as well.
    """
    kept: list[TracebackType] = []
    while traceback is not None:
        frame: FrameType = traceback.tb_frame
        try:
            if is_finished or not frame.f_code.co_flags & _GENERATOR_FLAGS:
                frame.clear()
                kept.append(traceback)
        except RuntimeError:  # it is running
            pass
        traceback = traceback.tb_next
    following: TracebackType | None = None
    for entry in reversed(kept):
        entry.tb_next = following
        following = entry
    return following


def caught(error: BaseException) -> Raised:
    """For drivers, in their except block: `error` without the driver's own frame."""
    traceback = error.__traceback__
    return Raised(error, traceback.tb_next if traceback is not None else None)
