"""The log lines of one batched function, for tests that wait for them."""

from __future__ import annotations

import gc
import logging
import queue
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic

from tests.limits import LIMIT


class Lines(logging.Handler):
    """Collect the lines of the function `name`; others may come from garbage of other tests."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.function = name
        self.found: queue.SimpleQueue[str] = queue.SimpleQueue()

    def emit(self, record: logging.LogRecord) -> None:
        line = record.getMessage()
        if line.startswith(f"{self.function}:"):
            self.found.put(f"{record.levelname} {line}")

    def next(self) -> str:
        """Wait for the next line. Without a GIL some errors go only when they are collected."""
        end = monotonic() + LIMIT
        while True:
            try:
                return self.found.get(timeout=0.1)
            except queue.Empty:
                if monotonic() > end:
                    raise
                gc.collect()

    def rest(self) -> list[str]:
        """Return the lines that are there and that no test has seen."""
        lines = []
        while not self.found.empty():
            lines.append(self.found.get())
        return lines


@contextmanager
def lines_of(name: str) -> Iterator[Lines]:
    """Collect the log lines of the function `name` within the block."""
    lines = Lines(name)
    logger = logging.getLogger("batchify")
    logger.addHandler(lines)
    try:
        yield lines
    finally:
        logger.removeHandler(lines)


def line_in(file: str, text: str) -> int:
    """Return the number of the line of `file` that ends with `text`."""
    source = Path(file).read_text("utf-8").splitlines()
    (number,) = [at for at, line in enumerate(source, 1) if line.endswith(text)]
    return number
