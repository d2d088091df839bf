"""`Retry`: a result that sends its item to a later batch.

It only holds checked numbers. `outcome` recognizes it, and the engines requeue the item.
"""

from __future__ import annotations

from datetime import timedelta

from .options import kind, seconds, whole


def _check_cause(cause: object) -> None:
    if cause is not None and not isinstance(cause, BaseException):
        raise TypeError(f"cause must be an exception or None, got {kind(cause)}")


class Retry:
    """Return it in the place of a result to run that item again in a later batch.

    The caller keeps waiting. No worker waits for the delay, and other items are dispatched
    meanwhile; after it, the item goes before all items that were submitted later. `flush`, `close`
    and process exit end the delay.

    Args:
        after: Delay, in seconds or as a timedelta, before the item may run again. Default: 0.
        attempts: How often the item may run in total, including the first time, an integer >= 1.
            Then its caller gets `RetryExhausted`. Default: 3.
        cause: The exception that made the retry necessary; it becomes the `__cause__` of
            `RetryExhausted`. Default: None.

    Raises:
        TypeError: An argument has a wrong type.
        ValueError: An argument has a wrong value.

    Example:
        >>> from batchify import Retry, batched
        >>> calls = []
        >>> @batched
        ... def send(texts: list[str]) -> list[str | Retry]:
        ...     calls.append(texts)
        ...     return [Retry(after=0.01) if len(calls) == 1 else text for text in texts]
        >>> send("hello").result()
        'hello'
        >>> len(calls)
        2
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
