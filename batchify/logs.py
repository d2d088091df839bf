"""Format the parts that batchify's log lines and messages share.

Nothing here reads an item, a result or the arguments of an exception.
Callers are the modules that log errors of the user's code or write messages with counts.
"""

from __future__ import annotations

import os
from types import TracebackType

_BATCHIFY = os.path.dirname(__file__) + os.sep
_STANDARD_LIBRARY = os.path.dirname(os.__file__) + os.sep


def location_of(error: BaseException) -> str:
    """Return where `error` was raised, as "app.py:41", or "no traceback".

    This is the innermost frame of the user's code. If there is none, it is the innermost frame of
    the standard library or an installed package, and of batchify as a last resort.
    """
    return _location(error.__traceback__)


def _location(traceback: TracebackType | None) -> str:
    found, best = None, 0
    while traceback is not None:
        filename = traceback.tb_frame.f_code.co_filename
        rank = _rank(filename)
        if rank >= best:
            found, best = (filename, traceback.tb_lineno), rank
        traceback = traceback.tb_next
    if found is None:
        return "no traceback"
    filename, line = found
    return f"{os.path.basename(filename)}:{line}"


def error_text(error: BaseException, traceback: TracebackType | None = None) -> str:
    """Return the type of `error` and where it was raised, as "ValueError (app.py:41)".

    An error that batchify made was never raised; the text then names its cause, if it has one.

    Args:
        error: the exception.
        traceback: its traceback; None: `error.__traceback__`.
    """
    name = type(error).__name__
    traceback = traceback or error.__traceback__
    if traceback is not None:
        return f"{name} ({_location(traceback)})"
    cause = error.__cause__
    if cause is not None and cause.__traceback__ is not None:
        return f"{name} caused by {type(cause).__name__} ({location_of(cause)})"
    return name


def items(count: int) -> str:
    """Return "1 item" or "3 items"."""
    return counted(count, "item")


def counted(count: int, noun: str) -> str:
    """Return "1 batch" or "3 batches"."""
    return f"{count} {plural(count, noun)}"


def plural(count: float, noun: str) -> str:
    """Return `noun` if `count` is 1, else its plural, as in "3 batches"."""
    if count == 1:
        return noun
    return f"{noun}es" if noun.endswith("ch") else f"{noun}s"


def _rank(filename: str) -> int:
    """Return 2 for the user's code, 1 for a library, 0 for batchify."""
    if filename.startswith(_BATCHIFY):
        return 0
    if filename.startswith((_STANDARD_LIBRARY, "<frozen ")):
        return 1
    return 1 if "site-packages" in filename or "dist-packages" in filename else 2
