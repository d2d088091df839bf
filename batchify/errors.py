"""Every exception of batchify that a user can meet."""

from __future__ import annotations

import queue

__all__ = [
    "BadResult",
    "BatchAborted",
    "BatchifyError",
    "Closed",
    "DeadLetter",
    "DeadlineExceeded",
    "Deadlock",
    "Forked",
    "ItemTooHeavy",
    "MissingResult",
    "QueueFull",
    "RetryExhausted",
]


class BatchifyError(Exception):
    """The base of every error that batchify itself raises."""


class QueueFull(BatchifyError, queue.Full):
    """There is no room: as many items as `capacity` allows are unresolved.

    Raised by `submit_nowait`, and by calls with a `timeout` for the room.
    """


class Closed(BatchifyError, RuntimeError):
    """The decorated function was closed, or ended, before the item could be run."""


class Deadlock(BatchifyError, RuntimeError):
    """Waiting here could never end, so the wait was refused."""


class ItemTooHeavy(BatchifyError, ValueError):
    """The item alone weighs more than a batch may."""


class DeadlineExceeded(BatchifyError, TimeoutError):
    """The item's deadline passed before its batch started."""


class MissingResult(BatchifyError, KeyError):
    """The function gave back a mapping that has no value for this item."""

    def __str__(self) -> str:  # KeyError would show the repr of the message
        return str(self.args[0]) if self.args else ""


class BadResult(BatchifyError, TypeError):
    """The function gave back something else than one result for each item."""


class BatchAborted(BatchifyError):
    """The batch was ended by a `BaseException` that is no `Exception`.

    `SystemExit`, `KeyboardInterrupt`, `GeneratorExit` or `CancelledError`, raised by the
    function, is the `__cause__`. The worker lives on.
    """


class RetryExhausted(BatchifyError):
    """The item was tried as often as it may be; the last failure is the `__cause__`."""


class DeadLetter(BatchifyError):
    """The item was delivered too often without an end, and lies with the dead letters."""


def missing_extra(what: str, extra: str, error: ModuleNotFoundError) -> ModuleNotFoundError:
    """Return the error for an import of a part of batchify whose extra is not installed."""
    return ModuleNotFoundError(
        f'{what} needs {error.name}: pip install "batchify-py[{extra}]"', name=error.name
    )


def late_error(name: str) -> DeadlineExceeded:
    """Return the error of an item of the function `name` whose deadline passed."""
    return DeadlineExceeded(
        f"{name}: the item did not start before its deadline; raise the deadline, or add workers"
    )


class Forked(BatchifyError):
    """This future was copied by a fork; its item is run by the parent process only."""
