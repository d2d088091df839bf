"""Log the items that failed in a worker process: one line per batch.

A line names the types of the errors, where they were raised and how many there were; never the
content of an item or of an error. The caller is `worker`.
"""

from __future__ import annotations

import logging
from collections import Counter, deque
from collections.abc import Iterable
from threading import get_ident

from .errors import DeadlineExceeded
from .logs import error_text, items
from .observe import BatchEvent

log = logging.getLogger("batchify")

MAX_ERRORS_NAMED = 3  # errors of different types or places that one line names


class FailureLog:
    """Logs one line per batch with failures, and one for items that failed outside a batch.

    The thread or the loop that ran a batch first runs the done-callbacks of its items, then the
    observers of the batch. So the errors that `add` collected in a thread belong to the batch that
    `log_batch` is called for there.
    """

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self._by_thread: dict[int, list[str]] = {}
        self._others: deque[str] = deque()

    def add(self, error: BaseException) -> None:
        """Collect the error of an item whose batch ends now, or which expired in the queue."""
        if isinstance(error, DeadlineExceeded):
            self.add_other(error)
        else:
            self._by_thread.setdefault(get_ident(), []).append(error_text(error))

    def add_other(self, error: BaseException) -> None:
        """Collect the error of an item that was in no batch."""
        self._others.append(error_text(error))

    def log_batch(self, event: BatchEvent) -> None:
        """Log the failures of the batch that has just ended in this thread."""
        texts = self._by_thread.pop(get_ident(), None)
        if texts:
            log.warning(
                "%s: %d of %s in a batch failed with %s", self.prefix, len(texts),
                items(max(event.size, len(texts))), _summary(texts),
            )  # fmt: skip

    def log_others(self) -> None:
        """Log the failures since the last call that `log_batch` did not log.

        A batch may end before the thread that submits its items has added the last done-callback.
        That callback then runs in the submitting thread, which calls this method.
        """
        late = self._by_thread.pop(get_ident(), None)
        if late:
            log.warning("%s: %s failed with %s", self.prefix, items(len(late)), _summary(late))
        texts = []
        while self._others:
            texts.append(self._others.popleft())
        if texts:
            log.warning("%s: %s not run: %s", self.prefix, items(len(texts)), _summary(texts))


def _summary(texts: Iterable[str]) -> str:
    """Return "ValueError (app.py:41)", or "7 ValueError (app.py:41), 3 KeyError"."""
    counts = Counter(texts).most_common()
    if len(counts) == 1:
        return counts[0][0]
    named = [f"{count} {text}" for text, count in counts[:MAX_ERRORS_NAMED]]
    others = sum(count for _, count in counts[MAX_ERRORS_NAMED:])
    return ", ".join([*named, f"{others} others"] if others else named)
