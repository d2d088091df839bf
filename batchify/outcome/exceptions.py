"""Make the exceptions that callers get if their batch, or their item alone, fails.

Every caller gets its own copy of an exception if it can be copied. Messages name the batched
function, never the content of an item.
Callers are the other modules of `outcome`, and the engines.
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
from .protocol import Raised
from .tracebacks import look_alike, snapshot, traceback_of

log = logging.getLogger("batchify")


def to_raised(error: BaseException) -> Raised:
    """Return `error` as the answer to a `Call`; the driver calls this in its `except` clause.

    The answer's traceback begins below the frame of the driver. If the function raises the same
    exception object in every batch, its traceback would grow with each one, so `error` gets back
    the traceback that it had before this batch.
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
    """Return the failure of a batch that did not return one result per item."""
    error = BadResult(message)
    error.__cause__ = None if cause is None else for_callers(cause, snapshot(traceback_of(cause)))
    return Failure(error)


def failure_of(raised: Raised, name: str, items: Sequence[Any] = ()) -> Failure:
    """Return the failure of a batch that raised.

    Args:
        raised: the answer to its call.
        name: the name of the batched function.
        items: the items of the batch; the exception must not lead to any of them.
    """
    traceback = raised.traceback
    own = raised.error = for_callers(raised.error, traceback, items)
    # Replace the original in `raised`: a thread of an executor may still refer to `raised`.
    return Failure(_presentable(own, name), traceback)


def element_failure(error: BaseException, name: str) -> Failure:
    """Return the failure of an item whose result is the exception `error`."""
    traceback = snapshot(traceback_of(error))
    own = for_callers(error, traceback)
    return Failure(_presentable(own, name), traceback)


def retry_exhausted(retry: Retry, tries: int, name: str) -> Failure:
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
    """Return `error`, or an exception caused by it if a future cannot hold `error` itself."""
    presentable: Exception
    if not isinstance(error, Exception):
        presentable = BatchAborted(
            f"{name}: {kind(error)} ended the batch; its items may be half done, "
            f"so check them before you submit them again"
        )
    elif isinstance(error, (StopIteration, StopAsyncIteration)):
        presentable = RuntimeError(f"{name} raised {kind(error)}; raise another exception instead")
    else:
        return error
    presentable.__cause__ = error
    return presentable.with_traceback(traceback_of(error))


def copies(failure: Failure, count: int) -> list[Failure]:
    """Return a failure for each of `count` callers.

    Each has its own copy of the exception, if it can be copied.
    """
    error, traceback = failure.error, failure.traceback
    return [failure, *(Failure(copy_of(error) or error, traceback) for _ in range(count - 1))]


def note_handler(error: BaseException, handler_error: BaseException, name: str) -> None:
    """Note in the batch's error, and in the log, that `on_error` raised."""
    if copy_of(error) is not None:  # else the user's code may hold this object
        with contextlib.suppress(Exception):  # an exception may refuse to be changed
            error.add_note(f"on_error raised {kind(handler_error)} while it handled this")
    log.error("%s: on_error raised %s (%s)", name, kind(handler_error), location_of(handler_error))
