"""Events of batches, and the observers that get them.

An error of an observer is counted and logged, and never reaches a caller.
The engines call `Observers.notify` after each batch.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .logs import error_text
from .options import kind

log = logging.getLogger("batchify")


@dataclass(frozen=True, slots=True)
class BatchEvent:
    """A finished batch, as observers see it.

    Attributes:
        name: Name of the batched function.
        reason: Why the batch was dispatched: "size", "weight", "linger", "idle", "capacity",
            "flush" or "close".
        size: Number of items.
        queued: Seconds that its oldest item had waited when the batch was dispatched.
        ran: Seconds that the batch ran, including the calls of `isolate` and `on_error`.
        error: The exception that the batch failed with, which may be a `BadResult`; with `isolate`,
            the exception of the first part that still failed. None if it did not fail. Errors of
            single items do not count.
    """

    name: str
    reason: str
    size: int
    queued: float
    ran: float
    error: BaseException | None

    def __repr__(self) -> str:
        error = None if self.error is None else kind(self.error)  # its arguments may contain data
        return (
            f"BatchEvent(name={self.name!r}, reason={self.reason!r}, size={self.size}, "
            f"queued={self.queued:g}, ran={self.ran:g}, error={error})"
        )


Observer = Callable[[BatchEvent], Any]


class _Registration:
    __slots__ = ("observer", "unlogged")

    def __init__(self, observer: Observer) -> None:
        self.observer = observer
        self.unlogged = [None]  # removed when its first error is logged


class Observers:
    """The observers of one function, or of all functions."""

    __slots__ = ("entries",)

    def __init__(self) -> None:
        self.entries: list[_Registration] = []  # changed without a lock, by single C calls

    def add(self, observer: Observer) -> Callable[[], None]:
        """Call `observer` after each batch; return a function that ends this.

        Raises:
            TypeError: `observer` is not callable.
        """
        if not callable(observer):
            raise TypeError(f"observer must be a function of an event, got {kind(observer)}")
        entry = _Registration(observer)
        self.entries.append(entry)

        def end() -> None:
            with contextlib.suppress(ValueError):  # it was ended before
                self.entries.remove(entry)

        return end

    def notify(self, event: BatchEvent) -> int:
        """Call all observers, log the first error of each, and return how many raised."""
        errors = 0
        for entry in tuple(self.entries):
            try:
                entry.observer(event)
            except BaseException as error:  # also SystemExit: the worker keeps running
                errors += 1
                try:
                    entry.unlogged.pop()
                except IndexError:
                    continue
                log.error("%s: an observer raised %s", event.name, error_text(error))
        return errors


EVERYWHERE = Observers()


def observe(observer: Observer) -> Callable[[], None]:
    """Call `observer(event)` after each batch of every batched function.

    The observer is called when the callers have their results, in the thread or on the event loop
    that ran the batch. Keep it short, because the worker waits for it. If it raises, the error is
    counted in `stats().observer_errors`, and the first one is logged.

    Args:
        observer: A function that takes one `BatchEvent`.

    Returns:
        A function without arguments that ends the observation.

    Raises:
        TypeError: `observer` is not callable.

    Example:
        >>> from batchify import batched, observe
        >>> @batched(size=2, linger=None)
        ... def double(numbers: list[int]) -> list[int]:
        ...     return [2 * number for number in numbers]
        >>> events = []
        >>> end = observe(events.append)
        >>> results = list(double.map([1, 2]))
        >>> double.close()  # returns after the observer was called
        >>> end()
        >>> events
        [BatchEvent(name='double', reason='size', size=2, queued=..., ran=..., error=None)]
    """
    return EVERYWHERE.add(observer)
