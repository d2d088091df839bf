"""What each item gets if its batch, or the item itself, fails.

Every caller has an exception object of its own where that is possible (`copies`), and messages
name the batched function, never the content of an item.
Callers are the other modules of `outcome`, the drivers, and the engines for what they end.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Sequence
from typing import Any

from ..errors import BadResult, BatchAborted, RetryExhausted
from ..future import Failure
from ..logs import location_of
from ..options import kind
from ..retry import Retry
from .copies import copy_of, for_callers
from .talk import Raised
from .tracebacks import look_alike, snapshot, traceback_of

log = logging.getLogger("batchify")


def caught(error: BaseException) -> Raised:
    """Return `error` as an answer, without the frame of the driver, in whose `except` this is.

    If the function raises the same object in every batch, its traceback would grow with each.
    Then it gets back the traceback that it had before this batch.
    """
    driver = traceback_of(error)
    first = None if driver is None else driver.tb_next
    if driver is None or first is None:
        return Raised(error, None)
    known = (driver.tb_frame.f_code, look_alike(first.tb_frame.f_code))
    earlier = first.tb_next
    while earlier is not None and earlier.tb_frame.f_code not in known:
        earlier = earlier.tb_next
    if earlier is not None:
        error.with_traceback(earlier)
    return Raised(error, snapshot(first, earlier))


def bad_result(message: str, cause: BaseException | None = None) -> Failure:
    """Return the failure of a batch that did not return one result for each item."""
    error = BadResult(message)
    error.__cause__ = None if cause is None else for_callers(cause, snapshot(traceback_of(cause)))
    return Failure(error)


def failure_of(raised: Raised, name: str, items: Sequence[Any] = ()) -> Failure:
    """Return the failure of a batch that raised.

    Args:
        raised: what it raised.
        name: the name of the batched function.
        items: those of the batch, which no caller may find in the exception.
    """
    traceback = raised.traceback
    own = raised.error = for_callers(raised.error, traceback, items)
    # `raised` keeps no original: a thread of an executor, to which that leads, may hold it.
    return Failure(_presentable(own, name), traceback)


def element_failure(error: BaseException, name: str) -> Failure:
    """Return the failure of an item that has `error` for its result."""
    traceback = snapshot(traceback_of(error))
    own = for_callers(error, traceback)
    return Failure(_presentable(own, name), traceback)


def exhausted(retry: Retry, tries: int, name: str) -> Failure:
    """Return the failure of an item that still asks for a retry after its last attempt."""
    attempts = "1 attempt" if tries == 1 else f"{tries} attempts"
    error = RetryExhausted(
        f"{name}: the item has no result after {attempts}; "
        f"allow more with Retry(attempts=...), or return the error as its result"
    )
    cause = retry.cause
    error.__cause__ = None if cause is None else for_callers(cause, snapshot(traceback_of(cause)))
    return Failure(error)


def _presentable(error: BaseException, name: str) -> BaseException:
    """Return `error`, or an exception caused by it if no future can carry `error` itself."""
    presentable: Exception
    if not isinstance(error, Exception):
        presentable = BatchAborted(
            f"{name}: {kind(error)} ended the batch; its items may be half done, "
            f"so check them before you submit them again"
        )
    elif isinstance(error, (StopIteration, StopAsyncIteration)):
        presentable = RuntimeError(f"{name} raised {kind(error)}; let it raise another exception")
    else:
        return error
    presentable.__cause__ = error
    return presentable.with_traceback(traceback_of(error))


def copies(failure: Failure, count: int) -> list[Failure]:
    """Return a failure for each of `count` callers.

    Each has an exception object of its own, unless that cannot be copied.
    """
    error, traceback = failure.error, failure.traceback
    return [failure, *(Failure(copy_of(error) or error, traceback) for _ in range(count - 1))]


def note_handler(error: BaseException, handler_error: BaseException, name: str) -> None:
    """Say in the error of a batch, and in the log, that `on_error` raised."""
    if copy_of(error) is not None:  # else it is the object that the user's code raised
        with contextlib.suppress(Exception):  # an exception may refuse to be changed
            error.add_note(f"on_error raised {kind(handler_error)} while it handled this")
    log.error("%s: on_error raised %s (%s)", name, kind(handler_error), location_of(handler_error))
