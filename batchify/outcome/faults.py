"""Errors on their way to the callers: one object for each, and nobody else's items in them."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Iterator
from types import FrameType, MemberDescriptorType, TracebackType
from typing import Any

from ..errors import BadResult, BatchAborted, RetryExhausted
from ..future import Failure
from ..options import kind
from ..retry import Retry
from .talk import Raised

log = logging.getLogger("batchify")

_GENERATOR_FLAGS = 0x20 | 0x80 | 0x200  # CO_GENERATOR | CO_COROUTINE | CO_ASYNC_GENERATOR


def bad_result(expected: str, got: str, cause: Exception | None = None) -> Failure:
    """The failure of a batch that gave back something else than a result for each item."""
    error = BadResult(f"expected {expected}, got {got}")
    error.__cause__ = _scrubbed(cause) if cause is not None else None
    return Failure(error)


def failure_of(raised: Raised) -> Failure:
    """What a batch that raised comes to, with the locals of the function's frames let go.

    They hold every caller's items, which no caller may find in the traceback.
    """
    error = raised.error
    traceback = _clear(raised.traceback, is_finished=True)
    _scrub_chain(error)
    if not _is_presentable(error):
        return Failure(_presentable(error.with_traceback(traceback)))
    # The function may raise the same object in every batch: it keeps no traceback of ours.
    own = copy_of(error.with_traceback(None)) or error
    return Failure(own.with_traceback(traceback), traceback)


def element_failure(error: BaseException, seen: set[int]) -> Failure:
    """An exception given back for one item; the same one given twice becomes two."""
    traceback = _clear(error.__traceback__)
    _scrub_chain(error)
    if not _is_presentable(error):
        return Failure(_presentable(error.with_traceback(traceback)))
    own = copy_of(error.with_traceback(None))
    if own is None:
        own = error if id(error) not in seen else _uncopied(error)
        seen.add(id(error))
    return Failure(own.with_traceback(traceback), traceback)


def exhausted(retry: Retry, tries: int) -> Failure:
    """What an item gets that was to run again, and has run `tries` times, which are enough."""
    error = RetryExhausted(f"the item was run {tries} times, and was to run again")
    cause = retry.cause
    if cause is not None:
        own = copy_of(_scrubbed(cause).with_traceback(None)) or cause
        error.__cause__ = own
    return Failure(error)


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
        errors.append(copy_of(error) or _uncopied(error))
    return [
        Failure(own.with_traceback(traceback), traceback if type(own) is type(error) else None)
        for own in errors[:count]
    ]


def copy_of(error: BaseException) -> BaseException | None:
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


def note_handler(error: BaseException, handler_error: BaseException) -> None:
    """Say in the batch's error, and in the log, that `on_error` raised."""
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
