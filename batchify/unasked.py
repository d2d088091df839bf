"""Log the errors that no caller asked for: one line for each batch.

A report counts the errors of one batch. It is complete when each of them was freed, or a caller has
asked for it. Process exit completes all reports.
The global set of open reports keeps each report alive until it is complete, so no weak reference
is needed. The thread that removes a report from the set logs it, so each is logged once. Process
exit waits for these threads, because it would stop them.
Engines add errors to a report; `Failure` notes that a caller asked for one, or that one is freed.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterable
from typing import ClassVar

from .interpreter import monotonic
from .logs import items

log = logging.getLogger("batchify")

PATIENCE = 5.0  # seconds that process exit waits for other threads that are logging
MAX_ERRORS_NAMED = 3  # errors of different types or places in a log line


class ErrorReport:
    """The errors of one batch of the function `name`.

    Its methods are called in finalizers. So each step is a single C call, and no lock is taken.
    """

    __slots__ = ("_errors", "_lost", "_next", "name")
    # An attribute of the class: the interpreter clears module names before the last finalizers run.
    still_open: ClassVar[set[ErrorReport]] = set()
    being_logged: ClassVar[set[ErrorReport]] = set()

    def __init__(self, name: str) -> None:
        self.name = name
        self._next = 0
        # By number: the texts of the errors that are not freed, and that no caller asked for.
        self._errors: dict[int, str] = {}
        self._lost: list[str] = []  # the texts of errors that were freed before any caller asked

    def add(self, text: str) -> int:
        """Add an error and return its number. The engine's lock is held.

        The batch holds all its futures until it ends, so no error is freed before the last one is
        added.
        """
        number = self._next
        self._next = number + 1
        self._errors[number] = text
        self.still_open.add(self)
        return number

    def note_asked(self, number: int) -> None:
        """Note that a caller asked for this error."""
        self._errors.pop(number, None)
        if self._lost and not self._errors:  # else the batch may get more errors
            self.close()

    def note_gone(self, number: int) -> None:
        """Note that this error was freed; log the report if it was the last one."""
        text = self._errors.get(number)
        if text is not None:
            self._lost.append(text)  # first: the thread that removes the last one logs them all
        self._errors.pop(number, None)
        if not self._errors:
            self.close()

    def close(self) -> None:
        """Log the errors that no caller asked for, unless another thread does, or the parent."""
        self.being_logged.add(self)  # first: the exit must find the report in one of the sets
        try:
            self.still_open.remove(self)
            self._log()
        except KeyError:
            return
        finally:
            self.being_logged.discard(self)

    def _log(self) -> None:
        lost = self._lost + list(self._errors.values())
        if not lost:
            return
        try:
            whose = "their results" if len(lost) > 1 else "its result"
            log.warning(
                "%s: %s failed with %s, and no caller asked for %s",
                self.name, items(len(lost)), _summary(lost), whose,
            )  # fmt: skip
        except Exception:  # a logging handler or filter raised; no caller could catch it
            return


def _summary(errors: Iterable[str]) -> str:
    counts = Counter(errors)
    named = sorted(counts, key=lambda text: (-counts[text], text))[:MAX_ERRORS_NAMED]
    others = len(counts) - len(named)
    if others:
        named.append(f"{others} other {'errors' if others > 1 else 'error'}")
    return " or ".join(filter(None, (", ".join(named[:-1]), named[-1])))


def log_all() -> None:
    """Log all open reports at process exit, and wait for threads that are logging one.

    No caller can ask for these errors any more.
    """
    for report in list(ErrorReport.still_open):
        report.close()
    end = monotonic() + PATIENCE
    while ErrorReport.being_logged and monotonic() < end:
        time.sleep(0.01)


def forget_all() -> None:
    """Drop all open reports in a forked child, because the parent logs them."""
    ErrorReport.still_open.clear()
    ErrorReport.being_logged.clear()
