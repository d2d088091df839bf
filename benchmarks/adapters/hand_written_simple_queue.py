"""The hand-written engine on the faster `queue.SimpleQueue`, which is written in C.

The rest is that of hand_written_threads.py, but only one worker at a time fills a batch, while
it holds a lock; a batch stays open as long as that, so nothing is lost by it. The lock is there
because with two consumers `SimpleQueue.get(timeout=)` can block for ever on CPython <= 3.12:
the one that was woken finds the item gone and the time over, and waits on with a negative, that
is, infinite timeout. With one consumer that saw the queue empty just before (`get_nowait`),
nothing but an item wakes it.
"""

from __future__ import annotations

import queue
import threading
import time
from concurrent.futures import Future
from typing import Any

from .hand_written_threads import HandWrittenThreads


class HandWrittenSimpleQueue(HandWrittenThreads):
    name = "hand-written SimpleQueue"
    queue_type = queue.SimpleQueue

    def __init__(self, function: Any, size: int, linger: float, workers: int) -> None:
        self.turn = threading.Lock()  # to take from the queue
        super().__init__(function, size, linger, workers)

    def work(self) -> None:
        is_closed = False
        while not is_closed:
            batch: list[tuple[Any, Future[Any]]] = []
            with self.turn:
                is_closed = self.fill(batch)
            self.run(batch)

    def fill(self, batch: list[tuple[Any, Future[Any]]]) -> bool:
        """Wait for an item, then for company; True when the sentinel came."""
        entry = self.queue.get()
        deadline = time.monotonic() + self.linger
        while entry is not None:
            batch.append(entry)
            if len(batch) == self.size:
                return False
            try:
                entry = self.queue.get_nowait()
            except queue.Empty:
                remaining = deadline - time.monotonic()
                if remaining <= 0:
                    return False
                try:
                    entry = self.queue.get(timeout=remaining)
                except queue.Empty:
                    return False
        return True
