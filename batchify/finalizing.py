"""Refuse calls that come too late: from finalizers, while the interpreter finalizes.

No worker could serve them any more, and a lock may be held for ever by a thread that has stopped.
"""

from __future__ import annotations

import sys
from typing import Any

from .errors import Closed


def refuse_when_finalizing(calls: Any, *_: object) -> None:
    """Raise `Closed` once the interpreter finalizes, else do nothing; see `calls.instead`."""
    if sys.is_finalizing():
        raise _too_late(calls._options().name)


def collected_error(name: str) -> Closed:
    """Return what a call raises whose function the collector is about to free."""
    if sys.is_finalizing():
        return _too_late(name)
    return Closed(
        f"{name} was called by a finalizer (__del__) that is garbage-collected together with it; "
        "call it before, for example in a close method"
    )


def _too_late(name: str) -> Closed:
    return Closed(
        f"{name} was called while the interpreter is shutting down, too late to run the item; "
        "call it before the program ends, at the latest in an atexit function"
    )
