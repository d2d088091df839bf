"""`Retry`: an element of the results that sends its item to a later batch."""

from __future__ import annotations

from datetime import timedelta

from .options import kind, seconds, whole


def _check_cause(cause: object) -> None:
    if cause is not None and not isinstance(cause, BaseException):
        raise TypeError(f"cause must be an exception or None, got {kind(cause)}")


class Retry:
    """In the place of a result: run this item again, in a later batch. Its caller waits on.

    The delay holds no worker. Others pass the item meanwhile; then it goes before what was
    submitted after it. `flush`, `close` and the end of the process cut the delay short.

    Args:
        after: seconds (or a timedelta) until the item may leave again.
        attempts: how often the item may run in all, the first time included. When it has, its
            caller gets `RetryExhausted`.
        cause: why it is to run again; the `__cause__` of `RetryExhausted` in the end.

    Raises:
        TypeError: an argument has a wrong type.
        ValueError: an argument has a wrong value.
    """

    __slots__ = ("after", "attempts", "cause")

    def __init__(
        self,
        after: float | timedelta = 0.0,
        attempts: int = 3,
        cause: BaseException | None = None,
    ) -> None:
        _check_cause(cause)
        self.after = seconds("after", after)
        self.attempts = whole("attempts", attempts)
        self.cause = cause

    def __repr__(self) -> str:
        return f"Retry(after={self.after:g}, attempts={self.attempts})"
