"""The exceptions of batchify, and the messages that several modules share.

The exceptions are exported by `batchify`.
"""

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
    """The base class of all errors that batchify itself raises."""


class QueueFull(BatchifyError, queue.Full):
    """The queue is full: `capacity` items are pending.

    Raised by `submit_nowait`, and by calls with `options(timeout=)` whose time has expired. On an
    event loop such a call sets it on the future instead.
    """


class Closed(BatchifyError, RuntimeError):
    """The function was closed before the item could run.

    A call raises it after `close`. It is set on the futures of items that had not started at a
    `close(cancel=True)` or when their event loop was closed, and of items that were not done when
    the `timeout` of a `close`, or `exit_timeout` at process exit, expired.
    """


class Deadlock(BatchifyError, RuntimeError):
    """The wait was refused, because it could never end.

    For example, `result()` was called on the event loop that must run the batch.
    """


class ItemTooHeavy(BatchifyError, ValueError):
    """The item alone weighs more than `max_weight`."""


class DeadlineExceeded(BatchifyError, TimeoutError):
    """The item's deadline passed before its batch started."""


class MissingResult(BatchifyError, KeyError):
    """The function returned a mapping without this item."""

    def __str__(self) -> str:  # KeyError would show the repr of the message
        return str(self.args[0]) if self.args else ""


class BadResult(BatchifyError, TypeError):
    """The function did not return one result per item.

    It returned a wrong number of results, or an object of an unsupported type.
    """


class BatchAborted(BatchifyError):
    """The batch was stopped, or its items or results could not be sent to another process.

    If the function raised `SystemExit`, `KeyboardInterrupt`, `GeneratorExit` or `CancelledError`,
    that exception is the `__cause__`, and the worker keeps running.
    """


class RetryExhausted(BatchifyError):
    """The item has used all its attempts; the last failure is the `__cause__`."""


class DeadLetter(BatchifyError):
    """The item was delivered `max_deliveries` times without a result, and is now a dead letter."""


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
    """The future was copied by a fork; only the parent process runs its item."""
