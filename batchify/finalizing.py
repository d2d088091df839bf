"""Refuse calls that finalizers make while the interpreter is finalizing.

By then no worker can run an item, and a stopped thread may hold a lock that is never released.
Callers are the decorator and the entry points of calls.
"""

from __future__ import annotations

import sys
from typing import Any

from .errors import Closed


def refuse_when_finalizing(calls: Any, *_: object) -> None:
    """Raise `Closed` if the interpreter is finalizing."""
    if sys.is_finalizing():
        raise _too_late(calls._options().name)


def collected_error(name: str) -> Closed:
    """Return the error for a call of a function that is being garbage-collected."""
    if sys.is_finalizing():
        return _too_late(name)
    return Closed(
        f"{name} was called by a finalizer (__del__) that is garbage-collected together with it; "
        "call it earlier, for example in a close method"
    )


def _too_late(name: str) -> Closed:
    return Closed(
        f"{name} was called while the interpreter is shutting down, too late to run the item; "
        "call it before the program ends, at the latest in an atexit function"
    )
