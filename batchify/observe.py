"""Events: what is told of each batch when it is over."""

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
    """A batch that is over.

    Attributes:
        name: of the batched function.
        reason: why the batch left: size, weight, linger, idle, capacity, flush or close.
        size: how many items it had.
        queued: for how many seconds the oldest of them had waited when it left.
        ran: how many seconds it took, with the tries of `isolate` and `on_error`.
        error: what the function, or a piece of the batch under `isolate`, failed with in the
            end; None when nothing did. Errors of single items are not counted here.
    """

    name: str
    reason: str
    size: int
    queued: float
    ran: float
    error: BaseException | None

    def __repr__(self) -> str:
        error = None if self.error is None else kind(self.error)  # not its content
        return (
            f"BatchEvent(name={self.name!r}, reason={self.reason!r}, size={self.size}, "
            f"queued={self.queued:g}, ran={self.ran:g}, error={error})"
        )


Observer = Callable[[BatchEvent], Any]


class _Registration:
    __slots__ = ("observer", "unlogged")

    def __init__(self, observer: Observer) -> None:
        self.observer = observer
        self.unlogged = [None]  # taken by who logs its first error


class Observers:
    """Who is told of batches, until they do not want to be."""

    __slots__ = ("entries",)

    def __init__(self) -> None:
        self.entries: list[_Registration] = []  # changed by single steps, from any thread

    def add(self, observer: Observer) -> Callable[[], None]:
        """Tell `observer` of each batch; gives a function that ends it.

        Raises:
            TypeError: `observer` cannot be called.
        """
        if not callable(observer):
            raise TypeError(f"observer must be a function of an event, got {kind(observer)}")
        entry = _Registration(observer)
        self.entries.append(entry)

        def end() -> None:
            with contextlib.suppress(ValueError):  # ended before
                self.entries.remove(entry)

        return end

    def notify(self, event: BatchEvent) -> int:
        """Tell everyone; gives how many raised. The first error of each is logged, by its type."""
        errors = 0
        for entry in tuple(self.entries):
            try:
                entry.observer(event)
            except BaseException as error:  # also SystemExit: the worker lives on
                errors += 1
                try:
                    entry.unlogged.pop()
                except IndexError:
                    continue
                log.error("%s: an observer raised %s", event.name, error_text(error))
        return errors


EVERYWHERE = Observers()


def observe(observer: Observer) -> Callable[[], None]:
    """Have `observer(event)` called after each batch of every batched function.

    It gets a `BatchEvent`, in the thread or on the loop that ran the batch, when the callers
    have their results. Keep it short: it holds that worker. What it raises is counted in
    `stats().observer_errors`, and logged once.

    Args:
        observer: a function of one `BatchEvent`.

    Returns:
        A function that ends the observation.

    Raises:
        TypeError: `observer` cannot be called.
    """
    return EVERYWHERE.add(observer)
